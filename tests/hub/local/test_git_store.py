"""Git repositories: edits of trees, pages, references, merges."""

from pathlib import Path

import pytest

from hub.local.errors import Refusal
from hub.local.git_store import GitStore, ReferenceExists, Stale, remove_stale_locks
from hub.local.git_trees import Edit


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    return GitStore.make(
        tmp_path / "x.git", {"README.md": b"hello", "a/b/c.txt": b"c", "a/d.txt": b"d"}, "owner", "first"
    )


def files(store: GitStore, commit: str) -> dict[str, bytes]:
    return {e.path: store.read(e.oid) for e in store.entries(commit, recursive=True) if not e.folder}


def add(store: GitStore, changes: dict[str, bytes | None], parent: str | None = None, author: str = "owner") -> str:
    """A commit that puts and deletes files; no reference is moved."""
    parent = parent or store.resolve("main")
    edits = [Edit(path, None if data is None else store.write_blob(data)) for path, data in changes.items()]
    return store.commit(store.edit(store.tree(parent), edits), [parent], author, "\n".join(changes) or "nothing")


def test_an_edit_changes_what_it_names_and_nothing_else(store: GitStore) -> None:
    new = add(store, {"a/b/new.txt": b"n", "README.md": b"other", "a/d.txt": None, "deep/er/file": b"f"})
    expected = {"README.md": b"other", "a/b/c.txt": b"c", "a/b/new.txt": b"n", "deep/er/file": b"f"}
    assert files(store, new) == expected


def test_a_folder_goes_with_its_last_file(store: GitStore) -> None:
    new = add(store, {"a/b/c.txt": None})
    assert {e.path for e in store.entries(new, recursive=True)} == {"README.md", "a", "a/d.txt"}


def test_a_folder_is_deleted_whole(store: GitStore) -> None:
    assert files(store, add(store, {"a": None})) == {"README.md": b"hello"}


def test_edits_are_applied_in_their_order(store: GitStore) -> None:
    assert files(store, add(store, {"a": None, "a/x": b"x"}))["a/x"] == b"x"
    assert files(store, add(store, {"README.md": None, "README.md/x": b"x"}))["README.md/x"] == b"x"
    tree = store.tree(store.resolve("main"))
    blob = store.write_blob(b"1")
    assert store.edit(tree, [Edit("n/x", blob), Edit("n/x")]) == tree


REFUSED = [
    (["nothing"], [None], 404),
    (["a/nothing"], [None], 404),
    (["README.md/x"], [None], 404),
    (["README.md/x"], [b"1"], 400),
    (["a"], [b"1"], 400),
    (["a/b"], [b"1"], 400),
    (["n/x", "n"], [b"1", b"2"], 400),
    (["a", "a"], [None, None], 404),
]


@pytest.mark.parametrize(("paths", "contents", "status"), REFUSED)
def test_an_edit_that_cannot_be_is_refused(
    store: GitStore, paths: list[str], contents: list[bytes | None], status: int
) -> None:
    edits = [Edit(path, data and store.write_blob(data)) for path, data in zip(paths, contents, strict=True)]  # type: ignore[arg-type]
    with pytest.raises(Refusal) as refused:
        store.edit(store.tree(store.resolve("main")), edits)
    assert refused.value.status == status


def test_git_itself_finds_nothing_wrong_with_an_edited_tree(store: GitStore, tmp_path: Path) -> None:
    import subprocess

    # git sorts a folder as if its name ended in "/": names around "a" test the order.
    new = add(store, {"a.txt": b"1", "a-b": b"2", "a0": b"3", "a/b/z": b"4", "ü/ö": b"5"})
    store.swap("refs/heads/main", store.resolve("main"), new)
    done = subprocess.run(["git", "-C", str(store.path), "fsck", "--strict"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pages_from_every_entry_on_make_the_whole_listing(store: GitStore) -> None:
    commit = add(store, {f"a/{name}": b"1" for name in ("b.txt", "b/0", "b0", "c/d/e")})
    for recursive in (False, True):
        whole = list(store.entries(commit, recursive=recursive))
        for number, entry in enumerate(whole):
            assert list(store.entries(commit, recursive=recursive, after=entry.path)) == whole[number + 1 :]


@pytest.mark.parametrize("after", ["nothing", "a/nothing", "README.md/x"])
def test_a_cursor_that_names_no_entry_is_refused(store: GitStore, after: str) -> None:
    with pytest.raises(Refusal):
        list(store.entries(store.resolve("main"), recursive=True, after=after))


def test_a_revision_is_a_branch_then_a_tag_then_a_reference_then_a_commit(store: GitStore) -> None:
    main, one, two = store.resolve("main"), add(store, {"one": b"1"}), add(store, {"two": b"2"})
    store.swap("refs/tags/x", None, one)
    assert store.resolve("x") == one
    store.swap("refs/heads/x", None, two)
    assert store.resolve("x") == two
    store.swap("refs/pr/1", None, one)
    assert store.resolve("refs/pr/1") == one
    assert store.resolve("refs/tags/x") == one
    assert store.resolve(main) == store.resolve("HEAD") == main


@pytest.mark.parametrize(
    "revision", ["", "nothing", "0" * 40, "../HEAD", "refs/", "refs/heads/", "a b", "main^", "main~1"]
)
def test_what_names_no_commit_is_not_found(store: GitStore, revision: str) -> None:
    with pytest.raises(Refusal) as refused:
        store.resolve(revision)
    assert refused.value.code == "RevisionNotFound"


def test_a_blob_or_tree_is_no_revision(store: GitStore) -> None:
    for oid in (store.write_blob(b"x"), store.tree(store.resolve("main"))):
        with pytest.raises(Refusal):
            store.resolve(oid)


def test_a_reference_moves_only_from_where_it_is(store: GitStore) -> None:
    main, one, two = store.resolve("main"), add(store, {"one": b"1"}), add(store, {"two": b"2"})
    store.swap("refs/heads/main", main, one)
    with pytest.raises(Stale):
        store.swap("refs/heads/main", main, two)
    with pytest.raises(ReferenceExists):
        store.swap("refs/heads/main", None, two)
    with pytest.raises(ReferenceExists):
        store.swap("refs/heads/main/below", None, two)
    with pytest.raises(Stale):
        store.swap("refs/heads/nothing", one, two)
    assert store.resolve("main") == one
    store.swap("refs/heads/main", one, None)
    assert store.reference("refs/heads/main") is None


def test_an_annotated_tag_is_read_as_its_commit(store: GitStore) -> None:
    main = store.resolve("main")
    store.annotate("v1.0.0", main, "owner", "the first")
    assert store.references("refs/tags/") == {"refs/tags/v1.0.0": main}
    with pytest.raises(ReferenceExists):
        store.annotate("v1.0.0", main, "owner", "again")


def test_a_merge_takes_both_sides_and_names_what_conflicts(store: GitStore) -> None:
    ours = add(store, {"README.md": b"ours", "ours": b"1"})
    theirs = add(store, {"a/d.txt": b"theirs", "theirs": b"2"})
    tree, conflicts = store.merge(ours, theirs, store.resolve("main"))
    assert tree and not conflicts
    merged = files(store, store.commit(tree, [ours], "owner", "merge"))
    assert merged == {"README.md": b"ours", "a/b/c.txt": b"c", "a/d.txt": b"theirs", "ours": b"1", "theirs": b"2"}
    other = add(store, {"README.md": b"theirs"})
    assert store.merge(ours, other, store.resolve("main")) == (None, ["README.md"])


def test_after_a_squash_a_merge_compares_with_the_base_it_is_given(store: GitStore) -> None:
    base = store.resolve("main")
    theirs = add(store, {"theirs": b"2"})
    squashed = store.commit(store.tree(base), [], "owner", "squash")
    assert store.merge_base(squashed, theirs) is None
    tree, conflicts = store.merge(squashed, theirs, base)
    assert tree == store.tree(theirs) and not conflicts


def test_a_merge_does_not_follow_renames(store: GitStore) -> None:
    text = "".join(f"line {number}\n" for number in range(50)).encode()
    base = add(store, {"contributions/x.txt": text})
    ours = add(store, {"contributions/x.txt": None, "elsewhere/x.txt": text}, base)
    theirs = add(store, {"contributions/x.txt": text + b"more\n"}, base)
    assert store.merge(ours, theirs, base) == (None, ["contributions/x.txt"])


def test_the_last_commit_of_each_path_is_the_one_that_gave_it_its_content(store: GitStore) -> None:
    first = store.resolve("main")
    second = add(store, {"a/b/c.txt": b"new", "x": b"1"}, first)
    third = add(store, {"x": b"2", "README.md": b"other"}, second)
    fourth = add(store, {"README.md": b"hello"}, third)
    found = store.last_commits(fourth, ["a", "a/b/c.txt", "a/d.txt", "x", "README.md", "nothing"])
    assert {path: commit.oid for path, commit in found.items()} == {
        "a": second,
        "a/b/c.txt": second,
        "a/d.txt": first,
        "x": third,
        "README.md": fourth,
    }


def test_the_log_is_read_in_pages_and_names_all_authors(store: GitStore) -> None:
    commit = store.resolve("main")
    for number in range(5):
        tree = store.tree(commit)
        message = f"number {number}\n\nwhy\n\nCo-authored-by: stranger <stranger@example.org>"
        commit = store.commit(tree, [commit], "owner", message)
    assert store.count(commit) == 6
    assert [c.title for c in store.log(commit, 1, 2)] == ["number 3", "number 2"]
    assert store.read_commit(commit).authors == ["owner", "stranger"]


def test_what_a_killed_process_left_locked_is_free_again(store: GitStore) -> None:
    lock = store.path / "refs/heads/main.lock"
    lock.write_text("")
    main, new = store.resolve("main"), add(store, {"x": b"1"})
    with pytest.raises(OSError, match="lock"):
        store.swap("refs/heads/main", main, new)
    assert remove_stale_locks(store.path) == 1
    store.swap("refs/heads/main", main, new)


def test_a_deleted_repository_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refused:
        GitStore(tmp_path / "nothing.git")
    assert refused.value.code == "RepoNotFound"
