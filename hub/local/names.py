"""Names, paths and bounds: the one place that says what may be called how, and how big anything may be."""

import re
from typing import Literal

from hub.local.errors import Refusal

RepositoryType = Literal["model", "dataset", "space"]
TYPES: dict[str, RepositoryType] = {"models": "model", "datasets": "dataset", "spaces": "space"}
PLURAL: dict[str, str] = {kind: plural for plural, kind in TYPES.items()}
# What stands before a repository's name in the URL of its page and files.
PREFIX: dict[str, str] = {"model": "", "dataset": "datasets/", "space": "spaces/"}

# Bytes, unless said otherwise.
MAX_URL = 8192
MAX_JSON = 4 << 20
MAX_JSON_DEPTH = 32
MAX_FORM = 1 << 20
MAX_REGULAR = 10 << 20  # a larger file goes to the LFS store, as on the Hub
MAX_NDJSON_LINE = (MAX_REGULAR * 4 // 3) + (64 << 10)
MAX_COMMIT_BODY = 2 << 30
MAX_OPERATIONS = 50_000  # operations a commit
MAX_LFS_OBJECT = 200 << 30  # the Hub documents 200 GB a file
MAX_LFS_BATCH = 1000  # objects a batch request
MAX_PREUPLOAD = 1000  # files a preupload request
MAX_PATHS_INFO = 1000  # paths a paths-info request
TREE_PAGE = 1000  # entries a page of a tree
EXPANDED_PAGE = 100  # entries a page where each entry's last commit is looked up
COMMITS_PAGE = 50
LIST_PAGE = 1000  # repositories a page
MAX_PATH = 1024
MAX_SEGMENT = 255
MAX_SEGMENTS = 40
MAX_REVISION = 250
MAX_TITLE = 500  # characters of a commit's summary or a discussion's title
MIN_DISCUSSION_TITLE = 3
MAX_DISCUSSION_TITLE = 200  # the client documents 3 to 200 characters
MAX_TEXT = 65_536  # characters of a description, a message or a comment
MAX_CARD = 512 << 10
DISCUSSIONS_PAGE = 50
MAX_DISCUSSIONS = 100_000  # discussions and pull requests of a repository
MAX_EVENTS = 2000  # events of a discussion
MAX_DISCUSSION = 8 << 20  # characters of a discussion's events, with the history of edited comments
MAX_DIFF = 2 << 20  # characters of a pull request's diff
MAX_PULL_REQUEST_COMMITS = 1000  # commits of a pull request that are listed
ACCESS_PAGE = 1000  # access requests a page
MAX_FORM_FIELDS = 50  # fields of a request for access
MAX_FORM_FIELD = 2000  # characters of a field's name and of its answer
MAX_REASON = 200  # characters of the reason for a rejection, as the client documents
MAX_WEBHOOKS = 20  # webhooks of a user
MAX_WATCHED = 50  # what a webhook watches
MAX_WEBHOOK_URL = 2000  # characters
MAX_SECRET = 200  # characters
BODY_PAUSE = 60.0  # seconds without a byte after which a request is given up
BODY_RATE = 16 << 10  # bytes a second that a body must come with, once those seconds are over

# Namespaces that would read as another part of a URL.
_RESERVED = "api blob buckets datasets docs kernels lfs login models new organizations raw resolve settings spaces tree"
RESERVED = frozenset(_RESERVED.split())
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}", re.ASCII)
_SHA = re.compile(r"[0-9a-f]{40}")
_OID = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_name(text: str) -> bool:
    """Whether `text` may be the name of a user, an organization or a repository."""
    return bool(_NAME.fullmatch(text)) and "--" not in text and ".." not in text and not text.endswith((".git", "."))


def check_name(text: object, what: str) -> str:
    """`text` if it is a name.

    Raises:
        `Refusal`: 400 where it is not.
    """
    if not isinstance(text, str) or not is_name(text):
        raise Refusal(
            400, f"Invalid {what}: letters, digits, '-', '_', '.', at most 96, no '--', '..' or '.git' at the end"
        )
    return text


def is_sha(text: str) -> bool:
    """Whether `text` is the full name of a git object."""
    return bool(_SHA.fullmatch(text))


def check_oid(oid: object) -> str:
    """`oid` if it is a sha256 in lower-case hexadecimal digits."""
    if not isinstance(oid, str) or not _OID.fullmatch(oid):
        raise Refusal(422, "Invalid LFS object id: expected the sha256 as 64 lower-case hexadecimal digits")
    return oid


def check_size(size: object, limit: int, what: str = "size") -> int:
    """`size` if it is a whole number from 0 to `limit`."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Refusal(422, f"Invalid {what}: expected a number of bytes")
    if size > limit:
        raise Refusal(413, f"Invalid {what}: {size} bytes are more than the {limit} allowed")
    return size


def check_path(path: object, folder: bool = False) -> str:
    """A file's path inside a repository.

    Args:
        path: what was sent.
        folder (`bool`, *optional*, defaults to `False`): whether one "/" at the end is taken off.

    Raises:
        `Refusal`: 422 for an empty, absolute or too long path, backslashes, control characters, and the segments
        "", ".", ".." and ".git" in any case.
    """
    if not isinstance(path, str):
        raise Refusal(422, "Invalid path: expected text")
    if folder and path.endswith("/"):
        path = path[:-1]
    reason = _path_fault(path)
    if reason:
        raise Refusal(422, f"Invalid path: {reason}")
    return path


def _path_fault(path: str) -> str | None:
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "it is not Unicode text"
    segments = path.split("/")
    if not path:
        return "it is empty"
    if size > MAX_PATH or len(segments) > MAX_SEGMENTS:
        return f"more than {MAX_PATH} bytes or {MAX_SEGMENTS} folders"
    if "\\" in path or _CONTROL.search(path):
        return "it holds a backslash or a control character"
    for segment in segments:
        if segment in ("", ".", ".."):
            return "it holds an empty segment, '.' or '..'"
        if _is_git_folder(segment):
            return "no segment may be '.git'"
        if len(segment.encode()) > MAX_SEGMENT:
            return f"a segment has more than {MAX_SEGMENT} bytes"
    return None


# Characters that some file systems leave out of names, so that ".g{200c}it" would be ".git" there.
_IGNORED = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])


def _is_git_folder(segment: str) -> bool:
    plain = segment.translate(_IGNORED).lower().rstrip(". ")
    return plain in (".git", "git~1") or plain.startswith((".git:", "git~1:"))


def check_branch(name: object, what: str = "branch") -> str:
    """A branch's or tag's name that git takes and that no commit id or reference can be mistaken for.

    Raises:
        `Refusal`: 400 where it is not one.
    """
    if not isinstance(name, str) or not 0 < len(name) <= MAX_REVISION or not name.isprintable() or not name.isascii():
        raise Refusal(400, f"Invalid {what} name: expected 1 to {MAX_REVISION} printable ASCII characters")
    segments = name.split("/")
    bad = any(c in name for c in " ~^:?*[\\") or ".." in name or "@{" in name or name.startswith("-") or name == "@"
    bad = bad or any(not s or s.startswith(".") or s.endswith((".lock", ".")) for s in segments)
    if bad or is_sha(name) or segments[0] == "refs" or name in ("HEAD", "None"):
        raise Refusal(400, f"Invalid {what} name: git does not take it, or it reads as a commit or a reference")
    return name


def check_text(text: object, what: str, limit: int, least: int = 0) -> str:
    """Text of `least` to `limit` characters without NUL.

    Raises:
        `Refusal`: 400 where it is not.
    """
    if not isinstance(text, str) or "\0" in text:
        raise Refusal(400, f"Invalid {what}: expected text")
    if not least <= len(text) <= limit:
        raise Refusal(400, f"Invalid {what}: expected {least} to {limit} characters, found {len(text)}")
    return text


def header_text(text: str) -> str:
    """`text` as it may stand in a header: printable ASCII, at most 1,000 characters."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:1000])
