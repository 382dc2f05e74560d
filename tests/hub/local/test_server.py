"""The server as a process, and the stock client's plain uploads and downloads against it."""

import ast
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from typer.testing import CliRunner

import coprov2
from hub.local.errors import LocalHubError
from hub.local.process import PACKAGE_ROOT, Running, start
from tests.hub.local.serving import ORGS, USERS, client, status_of

DATASET = {"repo_type": "dataset"}


@pytest.fixture(scope="module", params=["direct", "redirect"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    cdn = 0 if request.param == "redirect" else None
    with start(tmp_path_factory.mktemp("serve") / "hub", cdn_port=cdn, users=USERS, orgs=ORGS) as server:
        yield server


@pytest.fixture
def api(running: Running, online: None) -> HfApi:
    return client(running, "owner")


def test_files_small_and_large_come_back_as_they_went(api: HfApi, tmp_path: Path) -> None:
    name = api.create_repo("team/files", repo_type="dataset", exist_ok=True).repo_id
    contents = {"README.md": b"---\nlicense: mit\n---\n", "a b/\xc3\xbc.txt".encode().decode(): b"hi", "empty.txt": b""}
    contents |= {"w.safetensors": os.urandom(3 << 20), "data/x.parquet": os.urandom(1000)}
    for path, data in contents.items():
        (tmp_path / "up" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / path).write_bytes(data)
    done = api.upload_folder(folder_path=tmp_path / "up", repo_id=name, repo_type="dataset")
    folder = Path(api.snapshot_download(name, cache_dir=tmp_path / "cache", **DATASET))
    assert folder.name == done.oid
    assert {p: (folder / p).read_bytes() for p in contents} == contents
    assert not api.verify_repo_checksums(name, cache_dir=tmp_path / "cache", **DATASET).mismatches
    again = api.upload_folder(folder_path=tmp_path / "up", repo_id=name, repo_type="dataset")
    assert again.oid == done.oid, "nothing has changed"


def test_a_download_that_broke_off_goes_on_where_it_was(api: HfApi, tmp_path: Path) -> None:
    data = os.urandom(2 << 20)
    name = api.create_repo("team/broken-off").repo_id
    api.upload_file(path_or_fileobj=data, path_in_repo="x.bin", repo_id=name)
    etag = api.get_paths_info(name, "x.bin")[0].lfs.sha256  # type: ignore[union-attr]
    part = tmp_path / "models--team--broken-off" / "blobs" / f"{etag}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:100_000])
    found = api.hf_hub_download(name, "x.bin", cache_dir=tmp_path)
    assert Path(found).read_bytes() == data


def test_a_commit_of_every_operation(api: HfApi) -> None:
    name = api.create_repo("team/operations").repo_id
    first = [CommitOperationAdd(path, data) for path, data in {"a/1.txt": b"1", "a/2.bin": b"2", "b.txt": b"b"}.items()]
    done = api.create_commit(name, first, commit_message="first")
    second = [CommitOperationDelete("b.txt"), CommitOperationCopy("a/2.bin", "c.weights"), CommitOperationDelete("a/")]
    api.create_commit(name, second, commit_message="second", parent_commit=done.oid)
    assert api.list_repo_files(name) == [".gitattributes", "c.weights"]
    with pytest.raises(HfHubHTTPError) as stale:
        api.create_commit(name, [CommitOperationAdd("d", b"d")], commit_message="third", parent_commit=done.oid)
    assert status_of(stale.value) == 412
    with pytest.raises(ValueError, match="license"):
        api.upload_file(path_or_fileobj=b"---\nlicense: x\n---\n", path_in_repo="README.md", repo_id=name)
    with pytest.raises(BadRequestError):
        api.create_commit(name, [CommitOperationAdd("c.weights/x", b"1")], commit_message="below a file")


def test_errors_are_those_that_the_client_knows(running: Running, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("team/private", private=True)
    api.create_repo("team/gated")
    api.update_repo_settings("team/gated", gated="manual")
    stranger = client(running, "stranger")
    for user in (stranger, client(running, None)):
        for name in ("team/private", "team/nothing", "gpt2"):
            with pytest.raises(RepositoryNotFoundError):
                user.model_info(name)
            with pytest.raises(RepositoryNotFoundError):
                user.hf_hub_download(name, "x", cache_dir=tmp_path)
        with pytest.raises(GatedRepoError):
            user.hf_hub_download("team/gated", ".gitattributes", cache_dir=tmp_path)
        assert user.model_info("team/gated").gated == "manual"
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download("team/gated", "x", revision="nothing", cache_dir=tmp_path)
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download("team/gated", "x", cache_dir=tmp_path)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(endpoint=running.url, token="hf_nobody_token").whoami()
    with pytest.raises(HfHubHTTPError) as exists:
        api.create_repo("team/private")
    assert status_of(exists.value) == 409
    with pytest.raises(HfHubHTTPError) as foreign:
        api.create_repo("stranger/x")
    assert status_of(foreign.value) == 403


def test_repositories_are_listed_moved_and_deleted(api: HfApi) -> None:
    card = b"---\nlicense: mit\ntags: [image]\n---\n"
    for number in range(3):
        api.create_repo(f"owner/list-{number}", repo_type="dataset")
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="owner/list-1", repo_type="dataset")
    assert [d.id for d in api.list_datasets(author="owner")] == [f"owner/list-{n}" for n in (2, 1, 0)]
    assert [d.id for d in api.list_datasets(author="owner", filter="license:mit")] == ["owner/list-1"]
    assert [d.id for d in api.list_datasets(search="list-2", limit=1)] == ["owner/list-2"]
    info = api.dataset_info("owner/list-1")
    assert info.card_data is not None and info.card_data.license == "mit" and "image" in (info.tags or [])
    api.move_repo("owner/list-1", "team/moved", repo_type="dataset")
    assert api.dataset_info("owner/list-1").id == "team/moved"
    # Who deletes by the old name may mean another repository.
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("owner/list-1", repo_type="dataset")
    api.delete_repo("team/moved", repo_type="dataset")
    assert not api.repo_exists("team/moved", repo_type="dataset")
    assert not api.repo_exists("owner/list-1", repo_type="dataset")


def test_a_tree_of_more_than_a_page(api: HfApi) -> None:
    name = api.create_repo("team/many").repo_id
    paths = [f"{n % 7}/{n}.txt" for n in range(1500)]
    api.create_commit(name, [CommitOperationAdd(path, b"x") for path in paths], commit_message="many")
    assert sorted(api.list_repo_files(name)) == sorted([".gitattributes", *paths])
    assert len(list(api.list_repo_tree(name, recursive=True))) == 1501 + 7


# The process.


def test_a_folder_is_served_once_at_a_time(tmp_path: Path) -> None:
    with start(tmp_path / "hub") as first:
        assert first.token and first.token.startswith("hf_")
        with pytest.raises(LocalHubError, match="did not start"):
            start(tmp_path / "hub")
    with start(tmp_path / "hub") as second:
        assert second.token is None, "it is shown once"


def test_a_port_that_is_taken_is_an_error_of_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "hub.local", "--root", str(tmp_path / "hub"), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE_ROOT)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and f"127.0.0.1:{port}" in done.stderr


def test_a_server_dies_with_its_parent(tmp_path: Path) -> None:
    program = f"""
import os, pathlib
from hub.local.process import start
server = start(pathlib.Path({str(tmp_path / "hub")!r}))
print(server.pid, flush=True)
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    parent = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE_ROOT)
    pid = int(parent.stdout)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the server has outlived its parent")


def test_what_was_committed_is_there_after_a_kill(tmp_path: Path, online: None) -> None:
    server = start(tmp_path / "hub", users=USERS, orgs=ORGS)
    api = client(server, "owner")
    api.create_repo("team/kept", private=True)
    done = api.upload_file(path_or_fileobj=b"\0" * 5000, path_in_repo="x.bin", repo_id="team/kept")
    server.kill()
    with start(tmp_path / "hub") as server:
        api = client(server, "owner")
        assert api.model_info("team/kept").sha == done.oid
        assert Path(api.hf_hub_download("team/kept", "x.bin", cache_dir=tmp_path)).stat().st_size == 5000


def test_a_refused_upload_sees_the_answer_and_not_a_reset(running: Running) -> None:
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"))
    connection.request("POST", "/api/datasets/team/nothing/commit/main", b"x" * (8 << 20))
    answer = connection.getresponse()
    assert answer.status == 401 and answer.read()
    connection.request("GET", "/api/whoami-v2", headers={"Authorization": "Bearer hf_owner_token"})
    assert connection.getresponse().status == 200, "the connection goes on"
    connection.close()


def test_the_package_imports_nothing_else_of_the_project() -> None:
    modules = sorted((PACKAGE_ROOT / "hub" / "local").rglob("*.py"))
    assert len(modules) > 20
    own = {path.name for path in PACKAGE_ROOT.iterdir() if (path / "__init__.py").exists()}
    assert {"hub", "recipes", "dataset_builder"} <= own
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            foreign = [name for name in names if name.split(".")[0] in own and not name.startswith("hub.local")]
            assert not foreign, f"{path.name} imports {foreign}"


def test_the_verb_says_what_it_takes() -> None:
    done = CliRunner().invoke(coprov2.app, ["hub", "serve", "--help"])
    assert done.exit_code == 0
    for option in ("--root", "--port", "--host", "--cdn-port", "users.yaml", "HF_ENDPOINT"):
        assert option in done.output
