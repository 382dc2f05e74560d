"""Downloads: resolve and raw, LFS objects directly or by redirect to the second origin, signed URLs."""

from typing import TYPE_CHECKING

from hub.local.access import find_repository
from hub.local.call import Call
from hub.local.errors import Refusal, entry_not_found
from hub.local.files import Content, give
from hub.local.names import check_oid, check_path, check_size
from hub.local.pointers import Pointer
from hub.local.routing import Endpoint, page_endpoints

if TYPE_CHECKING:
    from starlette.responses import Response

    from hub.local.hub import LocalHub

SIGNED_SECONDS = 3600.0


def resolve(call: Call) -> "Response":
    """GET and HEAD /{P}{R}/resolve/{revision}/{path}."""
    return _give(call, follow=True)


def raw(call: Call) -> "Response":
    """GET /{P}{R}/raw/{revision}/{path}: what git holds, the pointer in place of an LFS object."""
    return _give(call, follow=False)


def _give(call: Call, follow: bool) -> "Response":
    path = call.params["path"]
    shown = call.hub.open_readme and path == "README.md"
    repository = find_repository(call, "read" if shown else "content")
    store = call.hub.git(repository)
    commit = store.resolve(call.params["revision"])
    try:
        entry = store.entry(commit, check_path(path))
    except Refusal:
        # No file can have such a name.
        entry = None
    if entry is None or entry.folder:
        raise entry_not_found(path, commit)
    headers = {"X-Repo-Commit": commit}
    blob = store.blob(entry.oid)
    if blob.pointer is None or not follow:
        data = store.read(entry.oid)
        return give(call, Content(len(data), entry.oid, path, data=data, headers=headers))
    # Merging two texts line by line can make a pointer that no commit was asked for: what the repository does not hold
    # it does not give, whatever its tree says.
    pointer = blob.pointer
    if not call.hub.lfs.claimed(repository.id, [pointer.oid]) or not call.hub.lfs.has(pointer.oid, pointer.size):
        raise entry_not_found(path)
    return _give_object(call, pointer, path, headers)


def _give_object(call: Call, pointer: Pointer, path: str, headers: dict[str, str]) -> "Response":
    from starlette.responses import Response

    if call.hub.cdn_origin is None:
        where = call.hub.lfs.path(pointer.oid)
        return give(call, Content(pointer.size, pointer.oid, path, path=where, headers=headers))
    linked = {"X-Linked-ETag": f'"{pointer.oid}"', "X-Linked-Size": str(pointer.size)}
    location = download_url(call.hub, pointer.oid, pointer.size, path)
    return Response(status_code=302, headers={**headers, **linked, "Location": location, "Cache-Control": "no-store"})


def download_url(hub: "LocalHub", oid: str, size: int, name: str = "") -> str:
    """A URL that gives one LFS object for an hour, to whoever has it; the caller has checked who gets it."""
    token = hub.signer.sign("lfs-get", {"oid": oid, "size": size, "name": name.rpartition("/")[2]}, SIGNED_SECONDS)
    return f"{hub.cdn_origin or hub.origin}/lfs/{oid}?token={token}"


def signed_object(call: Call) -> "Response":
    """GET and HEAD /lfs/{oid}?token=...: an LFS object by a signed URL, on either origin."""
    oid = check_oid(call.params["oid"])
    claims = call.hub.signer.open("lfs-get", call.first("token"))
    if claims["oid"] != oid:
        raise Refusal(403, "Invalid signature")
    if call.hub.lfs.size(oid) is None:
        raise Refusal(404, "Not found")
    content = Content(check_size(claims["size"], 1 << 62), oid, claims["name"] or oid, path=call.hub.lfs.path(oid))
    return give(call, content)


CDN_ENDPOINTS = [Endpoint("GET", "lfs/{oid}", signed_object)]
ENDPOINTS = [
    *page_endpoints("GET", "/resolve/{revision}/{path*}", resolve),
    *page_endpoints("GET", "/raw/{revision}/{path*}", raw),
    *CDN_ENDPOINTS,
]
