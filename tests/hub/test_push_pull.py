"""Push and pull through the stock client: whole, once, verified; a tag never moves; nobody's work is lost."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import load_dataset
from huggingface_hub import HfApi

from cards import write_dataset_card
from hub.client import HubError
from hub.folders import FolderError
from hub.publishing import commit_of
from hub.pull import pull
from hub.push import push
from recipes import Recipe, RecipeError
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
    hub.faults += [("POST", "/commit/main$", 412)] * 30
    with pytest.raises(HubError, match="somebody else was faster 20 times"):
        push("data", dataset, NAME, api=api)
    assert len(hub.seen("POST", "/commit/main$")) == 20


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
    return lambda self, files, title="": commit(
        self, {n: b"spoiled" if n.endswith(".parquet") else d for n, d in files.items()}
    )


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


def renumber(dataset: Path, version: str) -> None:
    """The same shards under names of another number, as a release gives them when a shard comes behind."""
    manifest = json.loads((dataset / "coprov2.json").read_text("utf8"))
    for name in list(manifest["files"]):
        other = name.replace("00000-of-00001", "00000-of-00002")
        (dataset / name).rename(dataset / other)
        manifest["files"][other] = manifest["files"].pop(name)
    (dataset / "coprov2.json").write_text(json.dumps({**manifest, "version": version}))


def test_a_shard_that_is_only_numbered_anew_is_not_sent_again(hub: FakeHub, api: HfApi, dataset: Path) -> None:
    push("data", dataset, NAME, api=api)
    # Four shards and the card's picture.
    assert len(hub.seen("PUT", "/lfs/")) == 5
    hub.requests.clear()
    renumber(dataset, "v1.0.1")
    pushed = push("data", dataset, NAME, api=api)
    # Neither sent nor asked about: the Hub copies it.
    assert not hub.seen("PUT", "/lfs/") and not hub.seen("POST", "/objects/batch")
    held = hub.repositories[("dataset", NAME)].commits[pushed.revision].files
    assert {name: held[name] for name in content(dataset)} == content(dataset)
    assert not [name for name in held if "of-00001" in name]


def test_data_without_pictures_can_be_pushed(hub: FakeHub, api: HfApi, dataset: Path, tmp_path: Path) -> None:
    shutil.rmtree(dataset / "data")
    manifest = json.loads((dataset / "coprov2.json").read_text("utf8"))
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if name.startswith("prompts/")}
    (dataset / "coprov2.json").write_text(json.dumps(manifest))
    write_dataset_card(Recipe(), dataset)
    push("data", dataset, NAME, api=api)
    pull("data", NAME, tmp_path / "back", api)
    assert load_dataset(str(tmp_path / "back"), split="test", cache_dir=str(tmp_path / "cache")).num_rows == 7
    shutil.rmtree(dataset / "prompts")
    with pytest.raises(FolderError, match="neither data/ nor prompts/ holds a Parquet file"):
        push("data", dataset, NAME, api=api)


def test_an_older_version_is_not_put_on_top(hub: FakeHub, api: HfApi, dataset: Path) -> None:
    new_version(dataset, "v1.2.0")
    push("data", dataset, NAME, api=api)
    new_version(dataset, "v1.1.9")
    with pytest.raises(HubError, match=r"holds v1\.2\.0 already, and v1\.1\.9 is not after it"):
        push("data", dataset, NAME, api=api)
    new_version(dataset, "v1.10.0")
    assert push("data", dataset, NAME, api=api).tag == "v1.10.0"


def test_contributed_pairs_are_not_pushed_away(hub: FakeHub, api: HfApi, dataset: Path) -> None:
    manifest = json.loads((dataset / "coprov2.json").read_text("utf8"))
    (dataset / "coprov2.json").write_text(json.dumps({**manifest, "version": "v1.1.0", "contributed": 3}))
    push("data", dataset, NAME, api=api)
    for version in ("v1.2.0", "v1.1.1"):
        (dataset / "coprov2.json").write_text(json.dumps({**manifest, "version": version, "contributed": 1}))
        with pytest.raises(HubError, match=r"its v1\.1\.0 holds 2 contributed pairs that"):
            push("data", dataset, NAME, api=api)
    (dataset / "coprov2.json").write_text(json.dumps({**manifest, "version": "v2.0.0"}))
    assert push("data", dataset, NAME, api=api).tag == "v2.0.0"


def test_a_tag_that_was_moved_is_told(hub: FakeHub, api: HfApi, dataset: Path, tmp_path: Path) -> None:
    push("data", dataset, NAME, api=api)
    pull("data", f"{NAME}@v1.0.0", tmp_path / "held", api)
    (tmp_path / "later").mkdir()
    new_version(dataset, "v1.0.1")
    later = push("data", dataset, NAME, api=api)
    repository = hub.repositories[("dataset", NAME)]
    repository.tags["v1.0.0"] = later.revision
    with pytest.raises(HubError, match=r"tag v1\.0\.0 stands at .* says 'v1\.0\.1': the tag was moved"):
        pull("data", f"{NAME}@v1.0.0", tmp_path / "moved", api)
    assert not (tmp_path / "moved").exists()
    # Moved to another content that says the same version: what was fetched before tells.
    files = dict(repository.commits[later.revision].files)
    files["coprov2.json"] = files["coprov2.json"].replace(b"v1.0.1", b"v1.0.0")
    repository.tags["v1.0.0"] = repository.commit(files)
    with pytest.raises(HubError, match=r"holds v1\.0\.0 with another manifest than org/data has now"):
        pull("data", f"{NAME}@v1.0.0", tmp_path / "held", api)
    assert load_dataset(str(tmp_path / "held"), split="test", cache_dir=str(tmp_path / "cache")).num_rows == 7


def test_a_pull_is_bounded_before_it_fetches(
    hub: FakeHub, api: HfApi, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push("data", dataset, NAME, api=api)
    monkeypatch.setattr("hub.pull.shutil.disk_usage", lambda place: SimpleNamespace(free=1 << 20))
    with pytest.raises(HubError, match=r"needs [\d,]+ bytes, and .* has 1,048,576 free"):
        pull("data", NAME, tmp_path / "full", api)
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    repository = hub.repositories[("dataset", NAME)]
    repository.commit({**repository.commits[repository.head].files, "README.md": b"x" * ((16 << 20) + 1)})
    hub.requests.clear()
    with pytest.raises(HubError, match=r"README\.md has 16,777,217 bytes"):
        pull("data", NAME, tmp_path / "back", api)
    assert not (tmp_path / "back").exists() and not hub.seen("GET", "/resolve/")


def test_a_pull_that_was_killed_goes_on(
    hub: FakeHub, api: HfApi, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push("data", dataset, NAME, api=api)
    hub.faults += [("GET", "/resolve/.*/prompts/", 403)] * 50
    with pytest.raises(HubError, match="answered 403"):
        pull("data", NAME, tmp_path / "back", api)
    hub.faults.clear()
    held = sorted(path.name for path in (tmp_path / "back" / "data").glob("*.parquet"))
    assert held and not list((tmp_path / "back" / "prompts").glob("*.parquet"))
    hub.requests.clear()
    pull("data", NAME, tmp_path / "back", api)
    assert content(tmp_path / "back") == content(dataset)
    fetched = [Path(path).name for path in hub.seen("GET", "/resolve/[^/]*/data/")]
    assert len(fetched) == 2 - len(held) and not set(fetched) & set(held)


def test_a_transfer_that_breaks_off_is_one_line(hub: FakeHub, api: HfApi, dataset: Path) -> None:
    hub.faults += [("PUT", "/lfs/", 400)] * 50
    with pytest.raises(HubError, match="run the same command again") as caught:
        push("data", dataset, NAME, api=api)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{NAME}: the transfer broke off")
    assert not hub.repositories[("dataset", NAME)].tags
    hub.faults.clear()
    assert push("data", dataset, NAME, api=api).tag == "v1.0.0"


def test_a_version_is_resolved_to_its_commit(hub: FakeHub, api: HfApi, dataset: Path) -> None:
    pushed = push("data", dataset, NAME, api=api)
    assert commit_of(NAME, "v1.0.0", api=api) == pushed.revision
    with pytest.raises(HubError, match=r"org/data@v9\.0\.0: the Hub answered 404"):
        commit_of(NAME, "v9.0.0", api=api)


def test_a_push_keeps_what_was_written_by_hand_on_the_hub(
    hub: FakeHub, api: HfApi, dataset: Path, tmp_path: Path
) -> None:
    push("data", dataset, NAME, api=api)
    repository = hub.repositories[("dataset", NAME)]
    files = dict(repository.commits[repository.head].files)
    marker = b"<!-- by hand: introduction -->\n"
    files["README.md"] = files["README.md"].replace(marker, marker + b"Ask the maintainers first.\n")
    repository.commit(files)
    new_version(dataset, "v1.0.1")
    pushed = push("data", dataset, NAME, api=api)
    assert pushed.kept and b"Ask the maintainers first." in repository.commits[pushed.revision].files["README.md"]
    hub.requests.clear()
    assert push("data", dataset, NAME, api=api).revision == pushed.revision and not hub.seen("POST", "/commit/")
    new_version(dataset, "v1.0.2")
    card = (dataset / "README.md").read_text("utf8")
    (dataset / "README.md").write_text(card.replace(marker.decode(), marker.decode() + "Something else.\n"))
    with pytest.raises(RecipeError, match="section by hand 'introduction' differs"):
        push("data", dataset, NAME, api=api)
    assert set(repository.tags) == {"v1.0.0", "v1.0.1"}


def test_a_card_that_would_not_do_is_not_sent(hub: FakeHub, api: HfApi, dataset: Path) -> None:
    card = (dataset / "README.md").read_text("utf8")
    (dataset / "README.md").write_text(card.replace("license: apache-2.0", "license: no-such-licence"))
    with pytest.raises(RecipeError, match="license"):
        push("data", dataset, NAME, api=api)
    assert not hub.repositories
