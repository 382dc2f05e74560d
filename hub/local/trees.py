"""What is in a repository: trees in pages, and facts about single paths, each with its last commit when asked."""

import base64
import binascii
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from hub.local.access import find_repository
from hub.local.call import Call, answer
from hub.local.errors import Refusal, bad_request, entry_not_found
from hub.local.git_store import Commit, Entry, GitStore
from hub.local.names import EXPANDED_PAGE, MAX_PATHS_INFO, PLURAL, TREE_PAGE, check_path
from hub.local.records import timestamp
from hub.local.routing import Endpoint

if TYPE_CHECKING:
    from starlette.responses import Response


def tree(call: Call) -> "Response":
    """GET /api/T/R/tree/{revision}[/{path}]. The next page's link names the commit, so that pages fit together."""
    repository = find_repository(call, "read")
    store = call.hub.git(repository)
    commit = store.resolve(call.params["revision"])
    folder = _folder(call.params.get("path", ""), commit)
    expand = call.flag("expand")
    size = EXPANDED_PAGE if expand else TREE_PAGE
    after = _after(call.first("cursor"))
    found = list(islice(store.entries(commit, folder, call.flag("recursive"), after), size + 1))
    page, headers = found[:size], {}
    if len(found) > size:
        cursor = base64.urlsafe_b64encode(page[-1].path.encode()).decode()
        query = urlencode({"recursive": call.flag("recursive"), "expand": expand, "cursor": cursor})
        place = f"{PLURAL[repository.type]}/{repository.full_name}/tree/{commit}"
        path = f"/{quote(folder, safe='/')}" if folder else ""
        headers["Link"] = f'<{call.hub.origin}/api/{place}{path}?{query}>; rel="next"'
    return answer(describe(store, commit, page, expand), headers=headers)


def _folder(path: str, commit: str) -> str:
    if not path:
        return ""
    try:
        return check_path(path, folder=True)
    except Refusal:
        raise entry_not_found(path, commit) from None


def _after(cursor: str) -> str:
    try:
        return check_path(base64.b64decode(cursor, b"-_", validate=True).decode()) if cursor else ""
    except (binascii.Error, ValueError, Refusal):
        raise bad_request("Invalid cursor") from None


def describe(store: GitStore, commit: str, entries: Iterable[Entry], expand: bool) -> list[dict[str, Any]]:
    """Entries as the Hub writes them: type, oid, size and path; lfs; and, expanded, the last commit."""
    known = list(entries)
    last = store.last_commits(commit, [entry.path for entry in known]) if expand else {}
    return [_describe(store, entry, expand, last.get(entry.path)) for entry in known]


def _describe(store: GitStore, entry: Entry, expand: bool, last: Commit | None) -> dict[str, Any]:
    if entry.folder:
        found: dict[str, Any] = {"type": "directory", "oid": entry.oid, "size": 0, "path": entry.path}
    else:
        blob = store.blob(entry.oid)
        found = {"type": "file", "oid": entry.oid, "size": blob.size, "path": entry.path}
        if blob.pointer:
            found["lfs"] = {"oid": blob.pointer.oid, "size": blob.pointer.size, "pointerSize": blob.pointer.length}
    if last is not None:
        found["lastCommit"] = {"id": last.oid, "title": last.title, "date": timestamp(last.created)}
    return found


def paths_info(call: Call) -> "Response":
    """POST /api/T/R/paths-info/{revision}: the paths that are there, in the order asked."""
    repository = find_repository(call, "read")
    asked = call.form()
    paths = [path for path in asked.get("paths", []) if path]
    if len(paths) > MAX_PATHS_INFO:
        raise Refusal(413, f"Payload too large: more than {MAX_PATHS_INFO} paths")
    store = call.hub.git(repository)
    commit = store.resolve(call.params["revision"])
    expand = [value.lower() for value in asked.get("expand", [])][:1] in (["1"], ["true"])
    entries = [entry for path in dict.fromkeys(paths) if (entry := _find(store, commit, path)) is not None]
    return answer(describe(store, commit, entries, expand))


def _find(store: GitStore, commit: str, path: str) -> Entry | None:
    try:
        return store.entry(commit, check_path(path, folder=True))
    except Refusal:
        # No file can have such a name; unknown paths are left out.
        return None


ENDPOINTS = [
    Endpoint("GET", "api/{type}/{namespace}/{name}/tree/{revision}", tree),
    Endpoint("GET", "api/{type}/{namespace}/{name}/tree/{revision}/{path*}", tree),
    Endpoint("POST", "api/{type}/{namespace}/{name}/paths-info/{revision}", paths_info),
]
