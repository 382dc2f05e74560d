"""A pull request as it stands at one commit: what it would change, and what of that is refused before any download.

Everything is read at exact commits and treated as hostile. What the files hold is `hub.contributions`' concern, the
merge `hub.merging`'s."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hub.client import HubError, content_id, is_same, one_line
from hub.contributions.limits import LIMITS
from hub.contributions.reading import name_fault
from hub.contributions.reasons import FILES
from hub.contributions.schema import source_of
from hub.folders import read_file

REPO_TYPE = "dataset"
PLACE = "contributions"
ATTRIBUTES = ".gitattributes"
# What a tree may list and a log may hold. The Hub asks for less than 100,000 files a repository (its storage limits).
MOST_ENTRIES = 200_000
MOST_COMMITS = 20_000
MOST_ATTRIBUTES = 1_000_000
# Characters of a path that are shown.
LONGEST_PATH = 200
# What is listed of a kind of refusal before the rest is only counted.
MOST_NAMED = 20
DATA_SUFFIXES = (".parquet", ".jsonl", ".csv")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

# Names that no Windows checkout can hold.
_RESERVED = re.compile(r"(?i:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?|[.-].*|.*[. ]")
_LFS_LINE = "{path} filter=lfs diff=lfs merge=lfs -text"

# Why a pull request is refused before its files are read: a code, and what it means.
REFUSALS: dict[str, str] = {
    "no_pull_request": "it is a discussion, not a pull request",
    "not_open": "it is closed or merged",
    "other_base": "it does not aim at main",
    "no_author": "its author has no account any more, so nobody can have agreed to the licence",
    "no_common_commit": "it shares no commit with main",
    "too_many_commits": f"its history has more than {MOST_COMMITS:,} commits",
    "too_many_entries": f"its tree has more than {MOST_ENTRIES:,} entries",
    "empty": "it changes nothing",
    "conflict": "main holds something else at the same path",
    "added_outside": f"a file outside {PLACE}/ is added",
    "changed_outside": f"a file outside {PLACE}/ is changed",
    "deleted_outside": f"a file outside {PLACE}/ is deleted",
    "renamed_outside": f"a file outside {PLACE}/ is moved",
    "attributes": f"{ATTRIBUTES} is changed other than by the Hub's own line for an added file",
    "others_folder": f"a file lies outside {PLACE}/AUTHOR/",
    "changed": "a contribution that is published is changed",
    "deleted": "a contribution that is published is deleted",
    "renamed": "a contribution that is published is moved",
    "odd_entry": "a folder without files, which may be a submodule",
    "name_outside": FILES["name_outside"],
    "name_characters": FILES["name_characters"],
    "name_too_long": FILES["name_too_long"],
    "too_deep": FILES["too_deep"],
    "reserved_name": "a name that begins with a dot or dash, ends in a dot or space, or is a device's on Windows",
    "same_name": "paths that differ in case or in the spelling of accents alone",
    "file_type": f"a file that is none of {', '.join((*DATA_SUFFIXES, *PICTURE_SUFFIXES))}",
    "pictures_alone": "pictures without a metadata file that lists them",
    "no_bytes": "a file without content",
    "too_many_files": f"it adds more than {LIMITS.files:,} files",
    "too_many_bytes": f"it adds more than {LIMITS.bytes:,} bytes",
    "head_moved": "somebody pushed to it during the review",
}


class Refused(HubError):
    """A pull request cannot be read at all: `code` is one of `REFUSALS`."""

    def __init__(self, code: str, where: str) -> None:
        super().__init__(f"{where}: {REFUSALS[code]}")
        self.code = code


@dataclass(frozen=True)
class Entries:
    """The tree of a commit: `huggingface_hub.RepoFile` by path, and the folders."""

    files: dict[str, Any]
    folders: frozenset[str]


@dataclass(frozen=True)
class Refusal:
    """A refusal of the pull request as a whole: its code, how often, and the paths (at most `MOST_NAMED`) as
    `shown` writes them."""

    code: str
    count: int
    paths: list[str]

    @property
    def sentence(self) -> str:
        """What the code means."""
        return REFUSALS[self.code]


@dataclass(frozen=True)
class PullRequest:
    """A pull request, pinned.

    Args:
        repository (`str`), number (`int`), author (`str`), status (`str`): as the Hub states them.
        sha (`str`): of `refs/pr/N` when it was read: the reviewed commit. base (`str`): the newest commit of main that
            it contains. main (`str`): the head of main then.
        added (`dict`): `huggingface_hub.RepoFile` by path: the files it would add to `contributions/`.
        attributes (`str`, *optional*): git's id of its `.gitattributes`, where the Hub added a line to it.
        refusals (`list`): why it is refused whatever its files hold; empty where nothing speaks against it.
    """

    repository: str
    number: int
    author: str
    status: str
    sha: str
    base: str
    main: str
    added: dict[str, Any] = field(repr=False)
    attributes: str | None
    refusals: list[Refusal]

    @property
    def size(self) -> int:
        """Bytes of the added files."""
        return sum(entry.size for entry in self.added.values())


def head_of(api: Any, name: str, number: int) -> str:
    """The commit at `refs/pr/N`, asked of the Hub and of no cache."""
    return str(api.repo_info(name, repo_type=REPO_TYPE, revision=f"refs/pr/{number}").sha)


def read_entries(api: Any, name: str, sha: str) -> Entries:
    """The tree of a commit, of bounded length.

    Raises:
        `Refused`: `too_many_entries`.
    """
    from huggingface_hub.hf_api import RepoFile

    files, folders = {}, set()
    entries = api.list_repo_tree(name, recursive=True, revision=sha, repo_type=REPO_TYPE)
    for entry in islice(entries, MOST_ENTRIES + 1):
        if isinstance(entry, RepoFile):
            files[entry.path] = entry
        else:
            folders.add(entry.path)
    if len(files) + len(folders) > MOST_ENTRIES:
        raise Refused("too_many_entries", f"{name} at {sha}")
    return Entries(files, frozenset(folders))


def commit_ids(api: Any, name: str, revision: str) -> Iterator[str]:
    """The commits of a revision, newest first, page by page: the client's own listing reads them all before it gives
    one, and a hostile history has no end."""
    from urllib.parse import quote

    from huggingface_hub.utils import build_hf_headers, paginate

    url = f"{api.endpoint}/api/{REPO_TYPE}s/{name}/commits/{quote(revision, safe='')}"
    for item in paginate(url, params={}, headers=build_hf_headers(token=api.token)):
        yield str(item["id"])


def merge_base(api: Any, name: str, sha: str, main: str) -> str:
    """The newest commit of main that a pull request contains.

    Main's order is trusted, the pull request's is not: with forged dates an older commit would come first, and a
    change that takes main's work back would look like none.

    Raises:
        `Refused`: `too_many_commits` or `no_common_commit`.
    """
    theirs = set(islice(commit_ids(api, name, sha), MOST_COMMITS + 1))
    if len(theirs) > MOST_COMMITS:
        raise Refused("too_many_commits", f"{name} at {sha}")
    for commit in islice(commit_ids(api, name, main), MOST_COMMITS):
        if commit in theirs:
            return commit
    raise Refused("no_common_commit", f"{name} at {sha}")


def read_pull_request(api: Any, name: str, number: int) -> PullRequest:
    """Read a pull request at its head and find what speaks against it, downloading nothing but `.gitattributes`.

    Args:
        api (`huggingface_hub.HfApi`): the client.
        name (`str`): org/name of the dataset. number (`int`): the N of `refs/pr/N`.

    Raises:
        `Refused`: `no_pull_request` or `not_open`.
        `HubError`: where the Hub refuses.
    """
    where = f"{name} pull request {number}"
    with one_line(where):
        details = api.get_discussion_details(name, number, repo_type=REPO_TYPE)
        if not details.is_pull_request:
            raise Refused("no_pull_request", where)
        if details.status not in ("open", "draft"):
            raise Refused("not_open", where)
        sha = head_of(api, name, number)
        main = str(api.repo_info(name, repo_type=REPO_TYPE, revision="main").sha)
        found = _Findings()
        if details.target_branch not in ("main", "refs/heads/main"):
            found.add("other_base", "")
        if not _is_account(details.author):
            found.add("no_author", "")
        base, added, attributes = "", {}, None
        try:
            base = merge_base(api, name, sha, main)
            before, after = read_entries(api, name, base), read_entries(api, name, sha)
            added = _compare(before, after, details.author, found)
            if ATTRIBUTES in _changed(before, after):
                attributes = _check_attributes(api, name, before, after, base, sha, set(added), found)
        except Refused as error:
            found.add(error.code, "")
        # `conflicting_files` is True where the Hub has no list of them.
        for path in [""] if details.conflicting_files is True else details.conflicting_files or []:
            found.add("conflict", path)
    _check_amount(added, found)
    return PullRequest(
        name, number, details.author, details.status, sha, base, main, added, attributes, found.refusals()
    )


def _is_account(author: str) -> bool:
    try:
        source_of(author)
    except ValueError:
        return False
    # So the client names an author whose account is gone.
    return author != "deleted"


class _Findings:
    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._paths: dict[str, list[str]] = {}

    def add(self, code: str, path: str) -> None:
        self._counts[code] += 1
        named = self._paths.setdefault(code, [])
        if path and len(named) < MOST_NAMED:
            named.append(shown(path))

    def refusals(self) -> list[Refusal]:
        """In the order of `REFUSALS`."""
        return [Refusal(code, self._counts[code], self._paths[code]) for code in REFUSALS if code in self._counts]


def shown(text: str) -> str:
    r"""A path or name as it may be shown anywhere: all but letters, digits and `._/-` as `\x40` or `\u202e`.

    Nothing of a terminal, Markdown or HTML is left in it. Cut at `LONGEST_PATH` characters."""
    cut = text if len(text) <= LONGEST_PATH else f"{text[:LONGEST_PATH]}..."
    return re.sub(r"[^A-Za-z0-9._/-]", lambda match: _escape(ord(match[0])), cut)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _changed(before: Entries, after: Entries) -> Iterator[str]:
    for path in sorted(before.files.keys() | after.files.keys()):
        old, new = before.files.get(path), after.files.get(path)
        if old is None or new is None or (content_id(old), old.size) != (content_id(new), new.size):
            yield path


def _compare(before: Entries, after: Entries, author: str, found: _Findings) -> dict[str, Any]:
    """The added files below `contributions/`; whatever else differs becomes a finding."""
    added: dict[str, Any] = {}
    paths = [path for path in _changed(before, after) if path != ATTRIBUTES]
    arrived = {content_id(after.files[path]) for path in paths if path not in before.files}
    for path in paths:
        old, new = before.files.get(path), after.files.get(path)
        outside = "" if path.startswith(f"{PLACE}/") else "_outside"
        if new is None:
            # A path that goes while its content comes elsewhere was moved; saying so saves the author a question.
            found.add(f"{'renamed' if content_id(old) in arrived else 'deleted'}{outside}", path)
        elif old is None and outside:
            found.add("added_outside", path)
        elif old is None:
            added[path] = new
            _check_path(path, author, found)
            if new.size <= 0:
                found.add("no_bytes", path)
        else:
            found.add(f"changed{outside}", path)
    for path in sorted(after.folders - before.folders):
        if not any(name.startswith(f"{path}/") for name in added):
            found.add("odd_entry", path)
    if not added and not paths:
        found.add("empty", "")
    return added


def _check_path(path: str, author: str, found: _Findings) -> None:
    place, _, name = path.removeprefix(f"{PLACE}/").partition("/")
    fault = name_fault(path)
    if fault:
        found.add(fault, path)
    elif any(_RESERVED.fullmatch(part) for part in path.split("/")):
        found.add("reserved_name", path)
    elif not name or place != author:
        found.add("others_folder", path)
    elif not name.lower().endswith((*DATA_SUFFIXES, *PICTURE_SUFFIXES)):
        found.add("file_type", path)


def _check_amount(added: dict[str, Any], found: _Findings) -> None:
    if len(added) > LIMITS.files:
        found.add("too_many_files", "")
    if sum(entry.size for entry in added.values()) > LIMITS.bytes:
        found.add("too_many_bytes", "")
    folded = Counter(map(_fold, added))
    for path in added:
        if folded[_fold(path)] > 1:
            found.add("same_name", path)
    if added and not any(path.lower().endswith(DATA_SUFFIXES) for path in added):
        found.add("pictures_alone", "")


def _fold(path: str) -> str:
    """What file systems that ignore case, or decompose accents, make of a path."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _check_attributes(
    api: Any, name: str, before: Entries, after: Entries, base: str, sha: str, added: set[str], found: _Findings
) -> str | None:
    """Allow what the Hub itself writes there: a line that stores an added file as LFS, below the lines that were there.

    Anything else could change how files of other people are stored or shown. Returns git's id of an allowed one."""
    entries = [tree.files[ATTRIBUTES] for tree in (before, after) if ATTRIBUTES in tree.files]
    old, new = before.files.get(ATTRIBUTES), after.files.get(ATTRIBUTES)
    if new is not None and max(entry.size for entry in entries) <= MOST_ATTRIBUTES:
        with TemporaryDirectory(prefix="coprov2-") as folder:
            texts = [
                fetch(api, name, commit, ATTRIBUTES, entry, Path(folder) / commit).read_bytes() if entry else b""
                for entry, commit in ((old, base), (new, sha))
            ]
        kept, lines = ([line for line in text.split(b"\n") if line] for text in texts)
        allowed = {_LFS_LINE.format(path=path).encode() for path in added}
        if lines[: len(kept)] == kept and set(lines[len(kept) :]) <= allowed:
            return content_id(new)
    found.add("attributes", ATTRIBUTES)
    return None


def fetch(api: Any, name: str, sha: str, path: str, entry: Any, folder: Path) -> Path:
    """Download one file of a commit into a folder of its own, past every cache, and check it by its checksum.

    Args:
        path (`str`): of the file; the caller has checked it. entry (`RepoFile`): its entry in the commit's tree.
        folder (`Path`): a fresh one.

    Raises:
        `HubError`: where what came is not what the tree lists.
    """
    with one_line(f"{name} at {sha}"):
        got = Path(
            api.hf_hub_download(
                name, path, repo_type=REPO_TYPE, revision=sha, local_dir=folder, cache_dir=folder / ".cache" / "hub"
            )
        )
    if got.is_symlink() or not is_same(read_file(got), entry):
        raise HubError(f"{name} at {sha}: {shown(path)}: differs from its checksum on the Hub; review again")
    return got


def download(api: Any, pull_request: PullRequest, folder: Path) -> Path:
    """Fetch the added files of a pull request without refusals into a fresh folder; returns the folder of its author.

    Raises:
        `HubError`: where the Hub refuses, or a file differs from its checksum.
    """
    if pull_request.refusals:
        raise ValueError("a pull request with refusals is not downloaded")
    for path, entry in pull_request.added.items():
        fetch(api, pull_request.repository, pull_request.sha, path, entry, folder)
    return folder / PLACE / pull_request.author
