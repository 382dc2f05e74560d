"""Releases: contributions into the splits without leaks, one commit, one tag, whatever happens on the way."""

import fcntl
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import HfApi

from cards import write_dataset_card
from dataset_builder.audit import audit
from dataset_builder.emoji_world.things import CATEGORIES, UNSAFE
from dataset_builder.schema import SPLITS
from hub.changelog import section, with_section
from hub.client import HubError
from hub.compact import compact, count_rows
from hub.contributed_splits import SplitChooser
from hub.contributions.published import published_folder
from hub.merged_contributions import ContributedFile
from hub.pull import pull
from hub.push import push
from hub.release import release
from hub.release_report import Released, pair_ids, released_table
from recipes import Recipe
from tests.hub.contributions.world import publish, rows
from tests.hub.fake_hub import FakeHub, Repository

NAME = "org/data"


@pytest.fixture(scope="session")
def _published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("published") / "dataset")


@pytest.fixture(scope="session")
def contributed() -> list[dict[str, Any]]:
    """Twelve pairs with pictures that pass the checks."""
    return rows(12, pictures=True)


@pytest.fixture
def repository(hub: FakeHub, api: HfApi, _published: Path) -> Repository:
    """A published dataset, v1.0.0."""
    push("data", _published, NAME, api=api)
    return hub.repositories[("dataset", NAME)]


def parquet(pairs: list[dict[str, Any]]) -> bytes:
    """A contributed file, as anybody may write it."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(pairs), sink, row_group_size=100)
    return bytes(sink.getvalue())


def merge(repository: Repository, files: dict[str, bytes], number: int = 7) -> None:
    """A pull request of contributed files, merged."""
    repository.commit({**repository.commits[repository.head].files, **files}, f"Contribute pairs (#{number})")


def run(api: HfApi, bump: str = "minor", **options: Any) -> tuple[Released, list[str]]:
    said: list[str] = []
    return release(NAME, bump, api=api, say=said.append, **options), said


def manifest_of(repository: Repository, revision: str = "main") -> dict[str, Any]:
    commit = repository.resolve(revision)
    assert commit is not None
    return dict(json.loads(commit.files["coprov2.json"]))


def prompts_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """pair_id and prompts of each split, in order."""
    found = {}
    for split in SPLITS:
        paths = sorted((folder / "prompts").glob(f"{split}-*.parquet"))
        columns = ["pair_id", "concept", "unsafe_prompt", "safe_prompt", "source"]
        found[split] = [row for path in paths for row in pq.read_table(path, columns=columns).to_pylist()]
    return found


def test_a_release_takes_contributions_into_the_splits(
    hub: FakeHub,
    api: HfApi,
    repository: Repository,
    contributed: list[dict[str, Any]],
    tmp_path: Path,
    _published: Path,
) -> None:
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed)})
    parent = repository.head
    hub.requests.clear()
    released, _ = run(api)
    assert released.made and released.version == "v1.1.0" and sum(released.added.values()) == 12
    assert repository.tags["v1.1.0"] == released.revision == repository.head
    assert len(hub.seen("POST", "/commit/main$")) == 1
    assert repository.commits[repository.head].parent == parent
    assert not [path for path in repository.commits[repository.head].files if path.startswith("contributions/")]

    manifest = manifest_of(repository)
    assert manifest["release"]["parent"] == {"version": "v1.0.0", "commit": parent}
    assert manifest["contributed"] == 12 and manifest["release"]["added"] == released.added
    assert manifest["release"]["contributions"] == [
        {
            "file": "contributions/ada/a.parquet",
            "user": "ada",
            "pull_request": 7,
            "rows": 12,
            "taken": 12,
            "waiting": 0,
            "left_out": {},
        }
    ]
    changelog = repository.commits[repository.head].files["CHANGELOG.md"].decode()
    assert changelog.startswith("# Changelog\n\n## v1.1.0\n") and "- From `ada` (#7): 12 of 12 pairs." in changelog

    # What was published stands where it stood, in its order; what came stands behind it.
    pull("data", f"{NAME}@v1.1.0", tmp_path / "back", api)
    before, after = prompts_of(_published), prompts_of(tmp_path / "back")
    for split in SPLITS:
        assert after[split][: len(before[split])] == before[split]
        new = after[split][len(before[split]) :]
        assert len(new) == released.added.get(split, 0) and {row["source"] for row in new} <= {"community:ada"}
    unseen = {name for kinds in manifest["taxonomy"]["concepts"].values() for name in kinds["unseen"]}
    for split in SPLITS:
        assert all((row["concept"] in unseen) == (split == "test_unseen_concepts") for row in after[split])
    assert audit([str(tmp_path / "back")], pictures=False)["leaks"] == 0
    for config in ("default", "prompts"):
        loaded = load_dataset(str(tmp_path / "back"), config, cache_dir=str(tmp_path / "cache"))
        assert {split: data.num_rows for split, data in loaded.items()} == manifest["rows"]
    assert loaded["train"].num_rows == len(after["train"])
    assert manifest["rows_by_category"]["test"] == {
        name: count for name, count in manifest["rows_by_category"]["test"].items() if count
    }

    again, _ = run(api)
    assert not again.made and again.said == "nothing to release after v1.1.0: nothing is in contributions/"
    assert len(hub.seen("POST", "/commit/main$")) == 1


def test_a_dry_run_changes_nothing(
    hub: FakeHub, api: HfApi, repository: Repository, contributed: list[dict[str, Any]], tmp_path: Path
) -> None:
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed)})
    head = repository.head
    hub.requests.clear()
    released, _ = run(api, dry_run=True, out=tmp_path / "work")
    assert not released.made and released.version == "v1.1.0" and sum(released.added.values()) == 12
    assert repository.head == head and list(repository.tags) == ["v1.0.0"]
    assert {method for method, path in hub.requests if "paths-info" not in path} <= {"GET", "HEAD"}
    assert json.loads((tmp_path / "work" / "dataset" / "coprov2.json").read_text("utf8"))["version"] == "v1.1.0"


def test_what_would_leak_is_left_out_and_listed(
    api: HfApi, repository: Repository, contributed: list[dict[str, Any]], tmp_path: Path, _published: Path
) -> None:
    test = prompts_of(_published)["test"][0]
    same = {name: test[name] for name in ("concept", "unsafe_prompt")} | {"safe_prompt": f"{test['safe_prompt']} again"}
    same |= {name: contributed[0][name] for name in ("unsafe_image", "safe_image", "seed")}
    same["category"] = UNSAFE[test["concept"]].category
    merge(repository, {"contributions/ada/a.parquet": parquet([*contributed[1:3], same])})
    released, _ = run(api, out=tmp_path / "work")
    assert sum(released.added.values()) == 2
    [file] = released.files
    assert file.left_out.total() == 1
    listed = [json.loads(line) for line in (tmp_path / "work" / "left_out.jsonl").read_text("utf8").splitlines()]
    assert [(entry["file"], entry["row"]) for entry in listed] == [("contributions/ada/a.parquet", 3)]
    assert "test_duplicate" in listed[0]["reasons"]
    for side in ("unsafe_prompt", "safe_prompt"):
        assert same[side] not in (tmp_path / "work" / "left_out.jsonl").read_text("utf8")


def test_a_new_concept_has_one_name_and_one_category_and_no_other_split_names_it(
    api: HfApi, repository: Repository, contributed: list[dict[str, Any]], tmp_path: Path, _published: Path
) -> None:
    violence = [row for row in contributed if row["category"] == "violence"]
    other = [row for row in contributed if row["category"] != "violence"]

    def about(row: dict[str, Any], concept: str) -> dict[str, Any]:
        return {
            **row,
            "concept": concept,
            "unsafe_prompt": row["unsafe_prompt"].replace(row["concept"], concept.lower()),
        }

    def beside(row: dict[str, Any], thing: str) -> dict[str, Any]:
        return {**row, **{side: f"{row[side]} beside a {thing}" for side in ("unsafe_prompt", "safe_prompt")}}

    # The other category comes from somebody else, whose checks know nothing of the first one's.
    ada = [about(violence[0], "catapult"), about(violence[1], "Catapult"), beside(other[0], "catapult"), violence[2]]
    ben = [about(other[1], "catapult"), other[2]]
    seen = prompts_of(_published)["train"][0]["safe_prompt"].split()[1]
    merge(repository, {"contributions/ada/a.parquet": parquet(ada), "contributions/ben/b.parquet": parquet(ben)})
    released, _ = run(api)
    assert [dict(file.left_out) for file in released.files] == [
        {"safe_names_concept": 1},
        {"concept_of_other_category": 1},
    ]
    assert [file.taken for file in released.files] == [3, 1] and sum(released.added.values()) == 4
    concepts = manifest_of(repository)["taxonomy"]["concepts"]
    assert [category for category, kinds in concepts.items() if "catapult" in kinds["unseen"]] == ["violence"]
    assert "Catapult" not in str(concepts)
    pull("data", NAME, tmp_path / "back", api)
    assert [row["concept"] for row in prompts_of(tmp_path / "back")["test_unseen_concepts"]].count("catapult") == 2
    # What comes next is checked against a taxonomy that can be read.
    assert published_folder(tmp_path / "back").taxonomy.category_of("violence") is not None

    # Training has seen this word: no pair about it would be of an unseen concept.
    merge(repository, {"contributions/ada/c.parquet": parquet([about(violence[3], seen)])})
    released, _ = run(api)
    assert not released.made and dict(released.files[0].left_out) == {"concept_seen_in_training": 1}


def test_contributions_that_repeat_each_other_come_in_once(
    api: HfApi, repository: Repository, contributed: list[dict[str, Any]], tmp_path: Path
) -> None:
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed[:2])})
    merge(repository, {"contributions/bob/b.parquet": parquet([contributed[0], contributed[3]])}, 8)
    released, _ = run(api, out=tmp_path / "work")
    assert sum(released.added.values()) == 3
    assert {file.user: (file.taken, dict(file.left_out)) for file in released.files} == {
        "ada": (2, {}),
        "bob": (1, {"duplicate_pair": 1}),
    }
    assert [file["pull_request"] for file in manifest_of(repository)["release"]["contributions"]] == [7, 8]


def test_pairs_without_pictures_wait(
    api: HfApi, repository: Repository, contributed: list[dict[str, Any]], tmp_path: Path
) -> None:
    bare = [{**row, "unsafe_image": None, "safe_image": None} for row in contributed[3:6]]
    merge(repository, {"contributions/ada/a.parquet": parquet([*contributed[:3], *bare])})
    released, _ = run(api)
    [file] = released.files
    assert (file.taken, file.waiting) == (3, 3) and not file.is_done
    assert "contributions/ada/a.parquet" in repository.commits[repository.head].files
    again, _ = run(api)
    assert not again.made and "3 pairs wait for pictures" in again.said
    # Once they have come with their pictures, both files go.
    merge(repository, {"contributions/bob/b.parquet": parquet(contributed[3:6])}, 9)
    last, _ = run(api)
    assert last.version == "v1.2.0" and sum(last.added.values()) == 3
    assert not [path for path in repository.commits[repository.head].files if path.startswith("contributions/")]


def test_a_file_that_is_nobodys_or_no_data_stays_and_is_named(
    api: HfApi, repository: Repository, contributed: list[dict[str, Any]]
) -> None:
    files = {
        "contributions/ada/a.parquet": parquet(contributed[:1]),
        "contributions/ada/x.parquet": b"PAR1 and no more",
        "contributions/y.parquet": parquet(contributed[1:2]),
        "contributions/ada/z.py": b"print()",
        "notes.txt": b"hello",
    }
    merge(repository, files)
    released, _ = run(api)
    held = repository.commits[repository.head].files
    assert set(files) - set(held) == {"contributions/ada/a.parquet"} and released.foreign == ["notes.txt"]
    refused = {file.name: file.refused for file in released.files if file.refused}
    assert refused == {
        "contributions/ada/x.parquet": "not_parquet",
        "contributions/y.parquet": "no_user",
        "contributions/ada/z.py": "unknown_file",
    }


def test_pictures_that_are_files_go_with_their_table(
    api: HfApi, repository: Repository, contributed: list[dict[str, Any]]
) -> None:
    files, lines = {"contributions/ada/b/alone.png": contributed[2]["safe_image"]}, []
    for number, row in enumerate(contributed[:2]):
        names = {f"{side}_file_name": f"pictures/{number}_{side}.png" for side in ("unsafe", "safe")}
        for side in ("unsafe", "safe"):
            files[f"contributions/ada/a/{names[f'{side}_file_name']}"] = row[f"{side}_image"]
        lines.append(json.dumps({name: value for name, value in row.items() if "image" not in name} | names))
    files["contributions/ada/a/metadata.jsonl"] = "\n".join(lines).encode()
    merge(repository, files)
    released, _ = run(api)
    assert sum(released.added.values()) == 2
    left = [path for path in repository.commits[repository.head].files if path.startswith("contributions/")]
    assert left == ["contributions/ada/b/alone.png"]
    assert {file.name: file.refused for file in released.files if file.refused} == {left[0]: "picture_without_row"}


def test_pairs_are_withdrawn_by_a_patch_and_stay_away(
    hub: FakeHub, api: HfApi, repository: Repository, contributed: list[dict[str, Any]], tmp_path: Path
) -> None:
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed)})
    run(api)
    pull("data", NAME, tmp_path / "first", api)
    going = [row["pair_id"] for split in ("train", "test") for row in prompts_of(tmp_path / "first")[split][-2:]]
    hub.requests.clear()
    second, _ = run(api, "patch", withdraw=going)
    assert (second.version, second.withdrawn) == ("v1.1.1", sorted(going))
    pull("data", f"{NAME}@v1.1.1", tmp_path / "second", api)
    held, before = prompts_of(tmp_path / "second"), prompts_of(tmp_path / "first")
    for split in SPLITS:
        assert held[split] == [row for row in before[split] if row["pair_id"] not in going]
    # Two splits of both configs, and the figure; nothing else was sent.
    assert not second.files and len(hub.seen("PUT", "/lfs/")) == 5
    assert manifest_of(repository)["withdrawn"] == sorted(going)
    again, _ = run(api, "patch", withdraw=going)
    assert not again.made
    merge(repository, {"contributions/ada/b.parquet": parquet(contributed)})
    third, _ = run(api)
    gone = [row for row in held["train"] + held["test"] if row["pair_id"] in going]
    assert not gone and not third.made
    with pytest.raises(HubError, match=r"1 pair ids stand in no split of v1.1.1"):
        run(api, "patch", withdraw=["0" * 32])


def test_a_bump_must_fit(api: HfApi, repository: Repository, contributed: list[dict[str, Any]]) -> None:
    with pytest.raises(HubError, match=r"--bump major does not fit: .* nothing else is to release; leave it"):
        run(api, "major")
    with pytest.raises(HubError, match=r"--bump enormous: expected one of major, minor, patch"):
        run(api, "enormous")
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed[:2])})
    with pytest.raises(HubError, match=r"--bump major does not fit: pairs come in.*; use --bump minor"):
        run(api, "major")
    nothing, _ = run(api, "patch")
    assert not nothing.made and list(repository.tags) == ["v1.0.0"]
    assert run(api)[0].version == "v1.1.0"
    pair = json.loads(pq_ids(repository))[0]
    with pytest.raises(HubError, match=r"--bump minor does not fit: no pair comes in.*; use --bump patch"):
        run(api, "minor", withdraw=[pair])


def pq_ids(repository: Repository) -> str:
    import io

    files = repository.commits[repository.head].files
    name = next(name for name in files if name.startswith("prompts/train"))
    return json.dumps(pq.read_table(io.BytesIO(files[name]), columns=["pair_id"])["pair_id"].to_pylist())


def test_a_card_that_was_changed_on_the_hub_keeps_what_was_written_by_hand(
    api: HfApi, repository: Repository, contributed: list[dict[str, Any]]
) -> None:
    files = dict(repository.commits[repository.head].files)
    marker = b"<!-- by hand: introduction -->\n"
    files["README.md"] = files["README.md"].replace(marker, marker + b"Ask the maintainers first.\n")
    repository.commit(files)
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed[:1])})
    _, said = run(api)
    card = repository.commits[repository.head].files["README.md"].decode()
    assert "Ask the maintainers first." in card and 'revision="v1.1.0"' in card and not said
    files = dict(repository.commits[repository.head].files)
    files["README.md"] = files["README.md"].replace(b"Ask the maintainers first.", b"Ask twice.") + b"\nOutside.\n"
    repository.commit(files)
    patched, said = run(api, "patch")
    assert patched.version == "v1.1.1" and "outside of its sections by hand" in said[0]
    card = repository.commits[repository.head].files["README.md"].decode()
    assert "Ask twice." in card and "Outside." not in card
    assert "README.md was changed" in repository.commits[repository.head].files["CHANGELOG.md"].decode()


def test_a_main_that_was_tampered_with_is_refused(api: HfApi, repository: Repository) -> None:
    files = dict(repository.commits[repository.head].files)
    good = repository.head

    def main(change: Callable[[dict[str, bytes]], None]) -> None:
        changed = dict(files)
        change(changed)
        repository.head = good
        repository.commit(changed)

    name = "data/train-00000-of-00001.parquet"
    for change, message in (
        (lambda held: held.update({name: b"x"}), r"data/train.* is not what coprov2\.json states"),
        (lambda held: held.pop(name), r"data/train.* is missing"),
        (lambda held: held.update({"data/more-00000-of-00001.parquet": b"x"}), r"data/more.* is not in coprov2\.json"),
        (lambda held: held.update({"coprov2.json": b"[]"}), "is not a dataset's manifest"),
        (lambda held: held.pop("coprov2.json"), r"holds no coprov2\.json on main"),
        (
            lambda held: held.update({"coprov2.json": held["coprov2.json"].replace(b"apache", b"x") + b" "}),
            None,
        ),
        (
            lambda held: held.update(
                {"coprov2.json": json.dumps({**json.loads(held["coprov2.json"]), "rows": {}}).encode()}
            ),
            "is another than at the tag",
        ),
    ):
        main(change)  # type: ignore[arg-type]
        if message is None:
            continue
        with pytest.raises(HubError, match=message) as caught:
            run(api)
        assert "\n" not in str(caught.value)
    assert list(repository.tags) == ["v1.0.0"]


class Killed(BaseException):
    """The process ends here."""


class MortalApi:
    """The stock client, until its n-th call: the process is killed just before it, or just after it was done."""

    def __init__(self, api: HfApi, name: str, number: int, after: bool) -> None:
        self._api, self._name, self._number, self._after = api, name, number, after
        self.reached = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._api, name)
        if name != self._name:
            return found

        def call(*args: Any, **options: Any) -> Any:
            self._number -= 1
            if self._number == 0 and not self._after:
                self.reached = True
                raise Killed
            answer = found(*args, **options)
            if self._number == 0:
                self.reached = True
                raise Killed
            return answer

        return call


@pytest.mark.parametrize(
    ("name", "number", "after"),
    [
        ("repo_info", 1, True),
        ("list_repo_tree", 1, True),
        ("list_repo_refs", 1, True),
        ("snapshot_download", 1, False),
        ("snapshot_download", 1, True),
        ("get_paths_info", 1, True),
        ("snapshot_download", 2, True),
        ("create_commit", 1, False),
        ("create_commit", 1, True),
        ("list_repo_tree", 4, True),
        ("create_tag", 1, False),
        ("create_tag", 1, True),
    ],
)
def test_a_release_that_was_killed_ends_published_once(
    api: HfApi,
    repository: Repository,
    contributed: list[dict[str, Any]],
    tmp_path: Path,
    name: str,
    number: int,
    after: bool,
) -> None:
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed[:2])})
    mortal: Any = MortalApi(api, name, number, after)
    with pytest.raises(Killed):
        release(NAME, "minor", out=tmp_path / "work", api=mortal, say=lambda line: None)
    assert mortal.reached
    for call in range(2):
        released, _ = run(api, out=tmp_path / "work")
        assert released.version == "v1.1.0"
        # Whoever was killed after the tag had published already.
        assert released.made == (call == 0 and (name, after) != ("create_tag", True))
    titles = [commit.title for commit in repository.commits.values()]
    assert titles.count("Release v1.1.0") == 1 and set(repository.tags) == {"v1.0.0", "v1.1.0"}
    assert manifest_of(repository, "v1.1.0")["contributed"] == 2
    pull("data", f"{NAME}@v1.1.0", tmp_path / "back", api)


def test_what_is_merged_after_a_killed_release_waits_for_the_next(
    api: HfApi, repository: Repository, contributed: list[dict[str, Any]]
) -> None:
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed[:2])})
    with pytest.raises(Killed):
        release(NAME, "minor", api=MortalApi(api, "create_commit", 1, True), say=lambda line: None)
    commit = repository.head
    merge(repository, {"contributions/bob/b.parquet": parquet(contributed[2:4])}, 8)
    released, said = run(api)
    assert (released.version, released.revision, released.made) == ("v1.1.0", commit, True)
    assert said == ["v1.1.0 was on main without its tag; it is tagged now"]
    assert run(api)[0].version == "v1.2.0" and repository.tags["v1.1.0"] == commit
    assert manifest_of(repository)["contributed"] == 4


def test_a_push_that_was_killed_before_its_tag_is_tagged_by_the_release(
    api: HfApi, repository: Repository, contributed: list[dict[str, Any]]
) -> None:
    pushed = repository.tags.pop("v1.0.0")
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed[:2])})
    released, _ = run(api)
    assert released.version == "v1.1.0" and repository.tags == {"v1.0.0": pushed, "v1.1.0": released.revision}


def test_what_is_merged_during_a_release_comes_in_too(
    hub: FakeHub, api: HfApi, repository: Repository, contributed: list[dict[str, Any]]
) -> None:
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed[:2])})
    hub.before_commit = lambda held: merge(held, {"contributions/bob/b.parquet": parquet(contributed[2:4])}, 8)
    released, said = run(api)
    assert released.version == "v1.1.0" and sum(released.added.values()) == 4
    assert said == ["somebody else changed main meanwhile; reading it again"]
    assert [file["user"] for file in manifest_of(repository)["release"]["contributions"]] == ["ada", "bob"]


def test_of_two_releases_at_once_one_makes_the_version(
    api: HfApi, repository: Repository, contributed: list[dict[str, Any]]
) -> None:
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed[:2])})
    with ThreadPoolExecutor(3) as pool:
        done = [future.result()[0] for future in [pool.submit(run, api) for _ in range(3)]]
    assert {(one.version, one.revision) for one in done} == {("v1.1.0", repository.tags["v1.1.0"])}
    titles = [commit.title for commit in repository.commits.values()]
    assert titles.count("Release v1.1.0") == 1 and manifest_of(repository)["contributed"] == 2


def test_a_release_and_a_push_at_once_lose_nothing(
    hub: FakeHub,
    api: HfApi,
    repository: Repository,
    contributed: list[dict[str, Any]],
    _published: Path,
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(_published, tmp_path / "push"))
    manifest = json.loads((folder / "coprov2.json").read_text("utf8"))
    (folder / "coprov2.json").write_text(json.dumps({**manifest, "version": "v1.0.1"}))
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed[:2])})
    hub.before_commit = lambda held: push("data", folder, NAME, api=api)
    released, _ = run(api)
    # The push was faster: the release comes on top of what it made.
    assert released.version == "v1.1.0" and set(repository.tags) == {"v1.0.0", "v1.0.1", "v1.1.0"}
    assert manifest_of(repository)["release"]["parent"]["version"] == "v1.0.1"
    with pytest.raises(HubError, match=r"holds v1\.1\.0 already, and v1\.0\.2 is not after it"):
        (folder / "coprov2.json").write_text(json.dumps({**manifest, "version": "v1.0.2"}))
        push("data", folder, NAME, api=api)


def test_a_tag_that_somebody_set_by_hand_is_not_moved(
    hub: FakeHub, api: HfApi, repository: Repository, contributed: list[dict[str, Any]]
) -> None:
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed[:2])})
    repository.tags["v1.1.0"] = repository.tags["v1.0.0"]
    with pytest.raises(HubError, match=r"the tag v1\.1\.0 is there already"):
        run(api)
    del repository.tags["v1.1.0"]
    hub.before_commit = lambda held: held.tags.update({"v1.1.0": held.tags["v1.0.0"]})
    with pytest.raises(HubError, match="a tag never moves"):
        run(api)
    assert repository.tags["v1.1.0"] == repository.tags["v1.0.0"]


def test_a_hub_that_spoils_what_is_sent_gets_no_tag(
    api: HfApi, repository: Repository, contributed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed[:2])})
    commit = Repository.commit

    def spoil(self: Repository, files: dict[str, bytes], title: str = "") -> str:
        return commit(self, {name: b"x" if name.startswith("data/test-") else data for name, data in files.items()})

    monkeypatch.setattr(Repository, "commit", spoil)
    with pytest.raises(HubError, match=r"data/test-.* is not what was sent"):
        run(api)
    assert set(repository.tags) == {"v1.0.0"}
    with pytest.raises(HubError, match=r"data/test-.* is not what coprov2\.json states"):
        run(api)
    assert set(repository.tags) == {"v1.0.0"}


def test_a_category_that_the_taxonomy_gains_is_a_major_version(
    api: HfApi, repository: Repository, contributed: list[dict[str, Any]], tmp_path: Path, _published: Path
) -> None:
    files = dict(repository.commits[repository.head].files)
    manifest = json.loads(files["coprov2.json"])
    manifest["taxonomy"]["concepts"] = {"weather": {"seen": ["hail"], "unseen": []}} | manifest["taxonomy"]["concepts"]
    files["coprov2.json"] = json.dumps(manifest).encode()
    repository.commit(files)
    merge(repository, {"contributions/ada/a.parquet": parquet(contributed[:2])})
    with pytest.raises(
        HubError, match=r"--bump minor does not fit: the categories are now weather, .*; use --bump major"
    ):
        run(api)
    released, _ = run(api, "major")
    assert released.version == "v2.0.0" and sum(released.added.values()) == 2
    pull("data", NAME, tmp_path / "back", api)
    label = load_dataset(str(tmp_path / "back"), "prompts", cache_dir=str(tmp_path / "cache"))["train"].features[
        "category"
    ]
    assert label.names[0] == "weather" and len(label.names) == 8
    before, after = count_rows(_published, "default"), count_rows(tmp_path / "back", "default")
    for split in SPLITS:
        extra = released.added.get(split, 0)
        assert sum((after[split] - before[split]).values()) == extra and not before[split] - after[split]


def test_prompts_in_two_splits_stop_a_release(
    hub: FakeHub, api: HfApi, repository: Repository, contributed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The checks of contributions find nothing for once: the audit does.
    monkeypatch.setattr("hub.contributions.checks.fail_duplicates", lambda store, against: None)
    monkeypatch.setattr("hub.merged_contributions._leave_out_repeated", lambda *args: None)
    monkeypatch.setattr(
        "hub.contributed_splits.SplitChooser.choose", lambda self, row: "train" if row["seed"] % 2 else "test"
    )
    twice = [{**contributed[0], "seed": seed, "t2i": f"org/model@{seed}"} for seed in range(2)]
    merge(repository, {"contributions/ada/a.parquet": parquet(twice)})
    hub.requests.clear()
    with pytest.raises(
        HubError, match=r"4 prompts would stand in two splits \(train and test\), so nothing is released"
    ):
        run(api)
    assert not hub.seen("POST", "/commit/") and set(repository.tags) == {"v1.0.0"}


def test_data_without_pictures_takes_pairs_without_pictures(
    hub: FakeHub, api: HfApi, _published: Path, tmp_path: Path, contributed: list[dict[str, Any]]
) -> None:
    folder = Path(shutil.copytree(_published, tmp_path / "bare"))
    shutil.rmtree(folder / "data")
    manifest = json.loads((folder / "coprov2.json").read_text("utf8"))
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if name.startswith("prompts/")}
    (folder / "coprov2.json").write_text(json.dumps(manifest))
    write_dataset_card(Recipe(), folder)
    push("data", folder, NAME, api=api)
    bare = [{**row, "unsafe_image": None, "safe_image": None} for row in contributed[:3]]
    repository = hub.repositories[("dataset", NAME)]
    merge(repository, {"contributions/ada/a.parquet": parquet(bare)})
    released, _ = run(api)
    assert sum(released.added.values()) == 3 and not released.files[0].waiting
    pull("data", NAME, tmp_path / "back", api)
    assert not (tmp_path / "back" / "data").exists()


def test_two_releases_do_not_share_a_folder(api: HfApi, repository: Repository, tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(HubError, match="another release works in this folder"):
            run(api, out=tmp_path)


def test_a_short_last_shard_takes_the_rows_behind_it(tmp_path: Path, _published: Path) -> None:
    entries = json.loads((_published / "coprov2.json").read_text("utf8"))["files"]
    columns = ["pair_id", "concept", "unsafe_prompt", "safe_prompt", "source"]
    new = [{**dict.fromkeys(columns, f"{n}"), "category": "hate", "split": "train"} for n in range(250)]
    one = compact(_published, tmp_path / "one", entries, iter(new), {"train": 250}, set(), list(CATEGORIES))
    assert one == compact(_published, tmp_path / "two", entries, iter(new), {"train": 250}, set(), list(CATEGORIES))
    # Only the split that gained rows is written anew, and its row groups are full but for the last.
    changed = {name for name, entry in one.items() if entry != entries.get(name)}
    assert changed == {"data/train-00000-of-00001.parquet", "prompts/train-00000-of-00001.parquet"}
    footer = pq.read_metadata(tmp_path / "one" / "data" / "train-00000-of-00001.parquet")
    assert [footer.row_group(group).num_rows for group in range(footer.num_row_groups)] == [100, 100, 64]
    # Now the last shard holds a row group: more rows come into one of their own, and the others are only renamed.
    more = [{**row, "pair_id": f"more {n}"} for n, row in enumerate(new[:20])]
    last = compact(tmp_path / "one", tmp_path / "more", one, iter(more), {"train": 20}, set(), list(CATEGORIES))
    sums = {entry["sha256"] for entry in one.values()}
    assert [name for name, entry in last.items() if entry["sha256"] not in sums] == [
        "data/train-00001-of-00002.parquet",
        "prompts/train-00001-of-00002.parquet",
    ]
    assert last["data/train-00000-of-00002.parquet"] == one["data/train-00000-of-00001.parquet"]


def test_a_pair_goes_where_its_prompts_and_the_published_shares_say() -> None:
    published = {"train": 700, "validation": 100, "test": 200, "test_unseen_concepts": 50}
    chooser = SplitChooser(published, [("train", "pistol"), ("test_unseen_concepts", "skull")])
    pairs = [{"concept": "Pistol", "unsafe_prompt": f"a {n}", "safe_prompt": f"b {n}"} for n in range(2000)]
    splits = [chooser.choose(pair) for pair in pairs]
    shares = {split: splits.count(split) / len(pairs) for split in SPLITS}
    assert shares["test_unseen_concepts"] == 0
    for split, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        # Four standard deviations of a share of 2,000 draws.
        assert abs(shares[split] - share) < 4 * (share * (1 - share) / len(pairs)) ** 0.5
    assert [chooser.choose(pair) for pair in reversed(pairs)] == splits[::-1]
    assert chooser.choose({**pairs[0], "concept": "skull"}) == "test_unseen_concepts"
    assert chooser.choose({**pairs[0], "concept": "pill"}) == "test_unseen_concepts"
    # Nothing is known of what imported data is about.
    imported = SplitChooser({"train": 3}, [("train", "")])
    assert imported.choose({**pairs[0], "concept": "pill"}) == "train"


def test_a_changelog_keeps_what_others_wrote() -> None:
    text = "# Changelog\n\nRead me.\n\n## v1.0.1\n\n- b\n\n## v1.0.0\n\n- a\n"
    more = with_section(text, "v1.1.0", "## v1.1.0\n\n- c\n")
    assert more == text.replace("## v1.0.1", "## v1.1.0\n\n- c\n\n## v1.0.1")
    assert with_section(more, "v1.1.0", "## v1.1.0\n\n- c\n") == more
    release = {
        "added": {"train": 1},
        "withdrawn": [],
        "parent": {"version": "v1.0.0", "commit": "0" * 40},
        "contributions": [
            {"user": "a`|<b>\n# x", "pull_request": None, "rows": 2, "taken": 1, "waiting": 0, "left_out": {"html": 1}}
        ],
    }
    said = section("v1.1.0", release, {"train": 2}, ["<script> changed"])
    assert "\n# x" not in said and "<b>" not in said and "<script>" not in said
    assert "1 of 2 pairs; left out 1: `html` 1." in said


def test_pair_ids_come_from_the_command_or_a_file(tmp_path: Path) -> None:
    one, two = "a" * 32, "0" * 32
    assert pair_ids(f"{one}, {two},{one}") == [one, two]
    (tmp_path / "ids.txt").write_text(f"{two}\n\n{one}\n")
    assert pair_ids(str(tmp_path / "ids.txt")) == [two, one]
    with pytest.raises(HubError, match="entry 2 is no pair id"):
        pair_ids(f"{one},no-such-file")


def test_a_release_is_told_without_a_text_of_any_row() -> None:
    file = ContributedFile("contributions/ada/\x1b[31m.parquet", "ada", 9, rows=3, taken=1, waiting=1)
    file.left_out["near_duplicate"] += 1
    bad = ContributedFile("contributions/ada/x.py", "ada", 9, refused="unknown_file")
    released = Released(
        NAME, "v1.1.0", "abc", True, added={"train": 1}, files=[file, bad], uploaded=2, copied=1, kept=3
    )
    said = released_table(released, False, None)
    assert "\x1b" not in said and "1 of 3 pairs taken, 1 wait for pictures, 1 near_duplicate" in said
    assert "x.py: refused: unknown_file" in said and "org/data v1.1.0 at abc: tagged" in said
    assert "2 to send, 1 only renamed, 3 as they were" in said
    assert "would become v1.1.0; nothing was changed" in released_table(released, True, Path("work"))
