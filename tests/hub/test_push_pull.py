"""Push and pull through the stock client: whole, once, verified; a tag never moves; nobody's work is lost."""

import hashlib
import json
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import HfApi

from hub.client import HubError
from hub.folders import FolderError
from hub.pull import pull
from hub.push import push
from tests.hub.fake_hub import FakeHub, Repository

NAME = "org/data"


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def new_version(dataset: Path, version: str) -> None:
    """The same data under another version, with one file taken away."""
    manifest = json.loads((dataset / "coprov2.json").read_text("utf8"))
    manifest["version"] = version
    (dataset / "prompts" / "test-00000-of-00001.parquet").unlink(missing_ok=True)
    manifest["files"].pop("prompts/test-00000-of-00001.parquet", None)
    (dataset / "coprov2.json").write_text(json.dumps(manifest))


def test_what_is_pushed_comes_back_and_loads(hub: FakeHub, api: HfApi, dataset: Path, tmp_path: Path) -> None:
    pushed = push("data", dataset, NAME, api=api)
    repository = hub.repositories[("dataset", NAME)]
    assert pushed.created and pushed.tag == "v1.0.0" and sorted(pushed.uploaded) == sorted(content(dataset))
    assert repository.private and repository.gated == "manual"
    assert len(hub.seen("POST", "/commit/main$")) == 1
    assert repository.tags == {"v1.0.0": pushed.revision}
    pulled = pull("data", f"{NAME}@v1.0.0", tmp_path / "back", api)
    assert content(tmp_path / "back") == content(dataset)
    assert (pulled.revision, pulled.version, pulled.checked, pulled.left) == (pushed.revision, "v1.0.0", 4, [])
    rows = load_dataset(str(tmp_path / "back"), split="test", cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == 7


def test_an_adapter_goes_there_and_back(hub: FakeHub, api: HfApi, adapter: Path, tmp_path: Path) -> None:
    pushed = push("adapter", adapter, "org/adapter", gated=False, tag="v0.1.0", api=api)
    assert hub.repositories[("model", "org/adapter")].gated is False and pushed.tag == "v0.1.0"
    pulled = pull("adapter", "org/adapter", tmp_path / "back", api)
    assert content(tmp_path / "back") == content(adapter) and pulled.checked == 1 and pulled.version is None


def test_pushing_again_sends_nothing(hub: FakeHub, api: HfApi, dataset: Path, adapter: Path) -> None:
    first, bare = push("data", dataset, NAME, api=api), push("adapter", adapter, "org/adapter", api=api)
    hub.requests.clear()
    again, same = push("data", dataset, NAME, api=api), push("adapter", adapter, "org/adapter", api=api)
    assert (again.revision, same.revision) == (first.revision, bare.revision)
    assert not again.uploaded and not again.created and len(again.unchanged) == len(content(dataset))
    assert not hub.seen("POST", "/commit/") and not hub.seen("PUT", "/lfs/") and not hub.seen("POST", "/tag/")


def test_a_push_that_was_killed_before_the_tag_is_finished(hub: FakeHub, api: HfApi, dataset: Path) -> None:
    hub.faults.append(("POST", "/tag/", 500))
    with pytest.raises(HubError, match="answered 500"):
        push("data", dataset, NAME, api=api)
    hub.requests.clear()
    pushed = push("data", dataset, NAME, api=api)
    assert hub.repositories[("dataset", NAME)].tags == {"v1.0.0": pushed.revision}
    assert not pushed.uploaded and not hub.seen("POST", "/commit/")


def test_a_push_that_was_killed_before_gating_gates_before_it_sends(hub: FakeHub, api: HfApi, dataset: Path) -> None:
    hub.faults.append(("PUT", "/settings$", 500))
    with pytest.raises(HubError, match="answered 500"):
        push("data", dataset, NAME, api=api)
    assert not hub.seen("POST", "/commit/") and not hub.store
    push("data", dataset, NAME, api=api)
    assert hub.repositories[("dataset", NAME)].gated == "manual"


def test_a_tag_never_moves(hub: FakeHub, api: HfApi, dataset: Path) -> None:
    first = push("data", dataset, NAME, api=api)
    card = (dataset / "README.md").read_text("utf8")
    (dataset / "README.md").write_text(card + "\nMore.\n")
    with pytest.raises(HubError, match=r"tag v1\.0\.0 stands at other content \(README\.md differs\)"):
        push("data", dataset, NAME, api=api)
    repository = hub.repositories[("dataset", NAME)]
    assert repository.tags == {"v1.0.0": first.revision} and repository.head == first.revision
    new_version(dataset, "v1.0.1")
    second = push("data", dataset, NAME, api=api)
    assert repository.tags == {"v1.0.0": first.revision, "v1.0.1": second.revision}
    assert second.deleted == ["prompts/test-00000-of-00001.parquet"]
    # The pictures were there already.
    assert sorted(second.uploaded) == ["README.md", "coprov2.json"]


@pytest.mark.parametrize("status", [409, 412])
def test_a_commit_is_tried_again(hub: FakeHub, api: HfApi, dataset: Path, status: int) -> None:
    hub.faults.append(("POST", "/commit/main$", status))
    pushed = push("data", dataset, NAME, api=api)
    assert len(hub.seen("POST", "/commit/main$")) == 2 and pushed.tag == "v1.0.0"


def test_it_gives_up_in_the_end(hub: FakeHub, api: HfApi, dataset: Path) -> None:
    hub.faults += [("POST", "/commit/main$", 412)] * 9
    with pytest.raises(HubError, match="answered 412"):
        push("data", dataset, NAME, api=api)
    assert len(hub.seen("POST", "/commit/main$")) == 5


def test_what_somebody_else_adds_meanwhile_is_kept(hub: FakeHub, api: HfApi, dataset: Path, tmp_path: Path) -> None:
    def contribute(repository: Repository) -> None:
        repository.commit({**repository.commits[repository.head].files, "contributions/a.parquet": b"theirs"})

    hub.before_commit = contribute
    pushed = push("data", dataset, NAME, api=api)
    repository = hub.repositories[("dataset", NAME)]
    files = repository.commits[pushed.revision].files
    assert files["contributions/a.parquet"] == b"theirs" and set(content(dataset)) <= set(files)
    pulled = pull("data", NAME, tmp_path / "back", api)
    assert pulled.left == ["contributions/a.parquet"]
    assert not (tmp_path / "back" / "contributions").exists()


def test_what_somebody_else_changes_meanwhile_is_not_overwritten(hub: FakeHub, api: HfApi, dataset: Path) -> None:
    def release(repository: Repository) -> None:
        repository.commit({**repository.commits[repository.head].files, "README.md": b"theirs"})

    hub.before_commit = release
    with pytest.raises(HubError, match=r"somebody else changed README\.md"):
        push("data", dataset, NAME, api=api)
    repository = hub.repositories[("dataset", NAME)]
    assert repository.commits[repository.head].files["README.md"] == b"theirs" and not repository.tags


def test_a_public_repository_gets_nothing_unasked(hub: FakeHub, api: HfApi, dataset: Path) -> None:
    api.create_repo(NAME, repo_type="dataset", private=False)
    with pytest.raises(HubError, match="exists and is public"):
        push("data", dataset, NAME, api=api)
    assert not hub.store
    assert push("data", dataset, NAME, private=False, api=api).uploaded


def test_a_repository_that_differs_from_what_was_sent_is_noticed(
    hub: FakeHub, api: HfApi, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Repository, "commit", _spoil(Repository.commit))
    with pytest.raises(HubError, match="is not what was sent"):
        push("data", dataset, NAME, api=api)
    assert not hub.repositories[("dataset", NAME)].tags


def _spoil(commit):  # type: ignore[no-untyped-def]
    return lambda self, files: commit(self, {n: b"spoiled" if n.endswith(".parquet") else d for n, d in files.items()})


def test_a_pull_notices_a_file_that_the_manifest_does_not_know(
    hub: FakeHub, api: HfApi, dataset: Path, tmp_path: Path
) -> None:
    push("data", dataset, NAME, api=api)
    repository = hub.repositories[("dataset", NAME)]
    files = dict(repository.commits[repository.head].files)
    name = "data/test-00000-of-00001.parquet"
    repository.commit({**files, name: files[name] + b"x"})
    with pytest.raises(FolderError, match=r"data/test-00000.*but coprov2\.json states"):
        pull("data", NAME, tmp_path / "changed", api)
    repository.commit({**files, "data/more-00000-of-00001.parquet": b"x"})
    with pytest.raises(FolderError, match=r"data/more.*not in coprov2\.json"):
        pull("data", NAME, tmp_path / "more", api)
    # The tag still gives what was released.
    assert pull("data", f"{NAME}@v1.0.0", tmp_path / "tag", api).checked == 4


def test_two_versions_do_not_mix_in_a_folder(hub: FakeHub, api: HfApi, dataset: Path, tmp_path: Path) -> None:
    push("data", dataset, NAME, api=api)
    new_version(dataset, "v1.0.1")
    push("data", dataset, NAME, api=api)
    pull("data", f"{NAME}@v1.0.0", tmp_path / "back", api)
    with pytest.raises(FolderError, match=r"prompts/test.*not part of org/data@v1\.0\.1"):
        pull("data", f"{NAME}@v1.0.1", tmp_path / "back", api)


def test_pulling_again_fetches_nothing(hub: FakeHub, api: HfApi, dataset: Path, tmp_path: Path) -> None:
    push("data", dataset, NAME, api=api)
    pull("data", NAME, tmp_path / "back", api)
    hub.requests.clear()
    pull("data", NAME, tmp_path / "back", api)
    assert not hub.seen("GET", "/resolve/.*parquet$")


def test_mistakes_are_one_line(
    hub: FakeHub, api: HfApi, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data", "a/b/c", "org/da ta", "../x"):
        with pytest.raises(HubError, match="not a repository's name"):
            push("data", dataset, name, api=api)
    with pytest.raises(HubError, match="answered 404") as caught:
        pull("data", "org/nothing", tmp_path / "back", api)
    assert "\n" not in str(caught.value)
    push("data", dataset, NAME, api=api)
    with pytest.raises(HubError, match="answered 404"):
        pull("data", f"{NAME}@v9.9.9", tmp_path / "back", api)
    with pytest.raises(HubError, match="the manifest of"):
        push("data", dataset, NAME, tag="v2.0.0", api=api)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="cannot be reached"):
        pull("data", NAME, tmp_path / "back", api)


def test_the_fake_hub_names_files_as_git_and_lfs_do(hub: FakeHub, api: HfApi, dataset: Path) -> None:
    push("data", dataset, NAME, api=api)
    tree = {f.path: f for f in api.list_repo_tree(NAME, repo_type="dataset", recursive=True)}
    parquet = tree["data/test-00000-of-00001.parquet"]
    assert parquet.lfs.sha256 == hashlib.sha256((dataset / parquet.path).read_bytes()).hexdigest()
    assert tree["README.md"].lfs is None
