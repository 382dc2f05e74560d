"""A Hub server with a published dataset of the emoji world, and pull requests that plain clients open there."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi

from hub.local.process import Running, start
from tests.hub.contributions.world import rows

NAME = "team/data"
AUTHOR = "visitor"
OWNER = "owner"
_USERS = (OWNER, AUTHOR, "stranger", "bot")


@contextmanager
def serving(root: Path, published: Path) -> Iterator[Running]:
    """A server with the folder `published` pushed as `NAME`, public and without gate."""
    users: list[dict[str, Any]] = [
        {"name": name, "tokens": [{"name": "t", "token": f"hf_{name}_token", "role": "write"}]} for name in _USERS
    ]
    orgs = [{"name": "team", "members": {OWNER: "admin"}}]
    with start(root, users=users, orgs=orgs) as server:
        api = client(server, OWNER)
        api.create_repo(NAME, repo_type="dataset")
        api.upload_folder(repo_id=NAME, folder_path=published, repo_type="dataset")
        yield server


def client(server: Running, user: str) -> HfApi:
    """The stock client of a user."""
    return HfApi(endpoint=server.url, token=f"hf_{user}_token")


def jsonl(records: list[dict[str, Any]]) -> bytes:
    """Rows as JSONL."""
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def honest(count: int = 3) -> bytes:
    """Rows that pass, without pictures, as JSONL."""
    return jsonl(rows(count))


def open_pull_request(api: HfApi, files: dict[str, bytes], *more: Any, title: str = "Add pairs") -> int:
    """Open a pull request by a plain commit with these files, and further operations; gives its number."""
    operations = [CommitOperationAdd(path, io.BytesIO(data)) for path, data in files.items()]
    info = api.create_commit(NAME, [*operations, *more], commit_message=title, repo_type="dataset", create_pr=True)
    assert info.pr_num is not None
    return info.pr_num


def place(name: str, user: str = AUTHOR) -> str:
    """The path of a file in a contributor's folder."""
    return f"contributions/{user}/{name}"
