"""Users and clients of a server, for tests."""

from typing import Any

from huggingface_hub import HfApi

from hub.local.process import Running

ORGS: list[dict[str, Any]] = [{"name": "team", "members": {"owner": "admin", "writer": "write", "reader": "read"}}]
# Each user has a token that may write and one that may only read.
USERS: list[dict[str, Any]] = [
    {
        "name": name,
        "email": f"{name}@example.org",
        "tokens": [
            {"name": "first", "token": f"hf_{name}_token", "role": "write"},
            {"name": "second", "token": f"hf_{name}_read_only", "role": "read"},
        ],
    }
    for name in ("owner", "writer", "reader", "author", "stranger")
]


def client(server: Running, who: str | None, read_only: bool = False) -> HfApi:
    """The stock client of a user (None: anonymous)."""
    if who is None:
        return HfApi(endpoint=server.url, token=False)
    return HfApi(endpoint=server.url, token=f"hf_{who}_read_only" if read_only else f"hf_{who}_token")


def status_of(error: Any) -> int:
    """The HTTP status behind an error of the client."""
    return int(error.response.status_code)
