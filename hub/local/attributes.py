"""Which paths go to the LFS store: what .gitattributes says, and the lines that a commit adds to it."""

from collections.abc import Iterable

from hub.local.errors import bad_request
from hub.local.git_store import GitStore
from hub.local.git_trees import Edit

MAX_ATTRIBUTES = 64 << 10  # bytes of one .gitattributes: every path of an upload is matched against every line
_LINE = "filter=lfs diff=lfs merge=lfs -text"


def check_attributes(path: str, data: bytes) -> None:
    """Refuse a .gitattributes that is too long to match paths against."""
    if len(data) > MAX_ATTRIBUTES:
        raise bad_request(f"{path}: {len(data)} bytes are more than the {MAX_ATTRIBUTES} allowed; use patterns")


def with_lfs_lines(store: GitStore, parent: str, edits: list[Edit], paths: Iterable[str], changed: bool) -> list[Edit]:
    """The edits, and one more that adds to .gitattributes a line for each LFS file that no line covers, as on the Hub.

    Args:
        parent (`str`): the commit that the edits are applied to.
        paths: of the LFS files that the edits put there.
        changed (`bool`): whether the edits may change any .gitattributes.

    Raises:
        `Refusal`: 400 where that would make .gitattributes too long.
    """
    wanted = list(paths)
    if not wanted:
        return edits
    at = parent
    if changed:
        # A commit that no reference ever names, to ask git what the new attributes say.
        at = store.commit(store.edit(store.tree(parent), edits), [parent], "hub", "attributes")
    missing = [path for path in wanted if store.attribute(at, path, "filter") != "lfs"]
    if not missing:
        return edits
    old = store.read_path(at, ".gitattributes", MAX_ATTRIBUTES) or b""
    text = old.decode("utf8", "surrogateescape")
    text += "" if not text or text.endswith("\n") else "\n"
    text += "".join(f"{_pattern(path)} {_LINE}\n" for path in missing)
    data = text.encode("utf8", "surrogateescape")
    if len(data) > MAX_ATTRIBUTES:
        said = (
            f"{len(missing)} LFS files, as {missing[0]}, are covered by no line of .gitattributes: add a pattern first"
        )
        raise bad_request(said)
    return [*edits, Edit(".gitattributes", store.write_blob(data))]


def _pattern(path: str) -> str:
    # "?" stands for any one character: it needs no quoting, which git and libgit2 read differently.
    plain = "".join("?" if c in " \t\"'*?[]#!" else c for c in path)
    return plain if "/" in plain else f"/{plain}"
