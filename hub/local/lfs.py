"""Git LFS: the batch request, direct uploads by signed URLs, and their verification (git-lfs, docs/api)."""

from typing import TYPE_CHECKING, Any

from hub.local.access import find_repository, may_read_object
from hub.local.call import Call, answer
from hub.local.errors import Refusal, bad_request, no_write
from hub.local.multipart import MAX_PARTS, MAX_URLS, PART_BYTES, upload_action
from hub.local.names import MAX_LFS_BATCH, MAX_LFS_OBJECT, check_oid, check_size
from hub.local.resolve import download_url
from hub.local.routing import Endpoint, page_endpoints

if TYPE_CHECKING:
    from starlette.responses import Response

    from hub.local.hub import LocalHub, Repository
    from hub.local.users import User

MEDIA_TYPE = {"Content-Type": "application/vnd.git-lfs+json"}
SIGNED_SECONDS = 24 * 3600.0  # a large object takes its time


def batch(call: Call) -> "Response":
    """POST /{P}{R}.git/info/lfs/objects/batch.

    Who may read a repository's content may upload objects to it: a pull request needs that. An upload that the store
    has already is asked for again unless the repository holds it or the user may read it somewhere.
    """
    repository = find_repository(call, "content")
    asked = call.fields()
    operation, objects = asked.get("operation"), asked.get("objects")
    if operation not in ("upload", "download") or not isinstance(objects, list) or len(objects) > MAX_LFS_BATCH:
        raise bad_request(f"Invalid batch: expected operation upload or download and at most {MAX_LFS_BATCH} objects")
    transfers = asked.get("transfers") or []
    if not isinstance(transfers, list):
        raise bad_request("Invalid batch: expected transfers as a list")
    if asked.get("hash_algo", "sha256") != "sha256":
        raise Refusal(409, "Invalid batch: the hash algorithm is sha256")
    wanted = [_wanted(entry) for entry in objects]
    held = call.hub.lfs.claimed(repository.id, {oid for oid, _ in wanted})
    if operation == "download":
        found = [_download(call.hub, oid, size, oid in held) for oid, size in wanted]
    else:
        user = uploader(call)
        found, left = [], MAX_URLS if "multipart" in transfers else 0
        for oid, size in wanted:
            plan = _upload(call, repository, user, oid, size, oid in held, left >= MAX_PARTS)
            left -= len(plan.get("actions", {}).get("upload", {}).get("header", {}))
            found.append(plan)
    return answer({"transfer": "basic", "objects": found, "hash_algo": "sha256"}, headers=MEDIA_TYPE)


def uploader(call: Call) -> "User":
    """The user of a request that brings content.

    Raises:
        `Refusal`: 401 for an anonymous one, 403 for a token that may only read.
    """
    if call.user is None or call.user.role != "write":
        raise no_write(call.user)
    return call.user


def _wanted(entry: Any) -> tuple[str, int]:
    if not isinstance(entry, dict):
        raise bad_request("Invalid batch: expected objects of oid and size")
    return check_oid(entry.get("oid")), check_size(entry.get("size"), MAX_LFS_OBJECT)


def _download(hub: "LocalHub", oid: str, size: int, held: bool) -> dict[str, Any]:
    if not held or not hub.lfs.has(oid, size):
        return {"oid": oid, "size": size, "error": {"code": 404, "message": "Object does not exist"}}
    return {"oid": oid, "size": size, "actions": {"download": {"href": download_url(hub, oid, size)}}}


def _upload(
    call: Call, repository: "Repository", user: "User", oid: str, size: int, held: bool, parts: bool
) -> dict[str, Any]:
    hub = call.hub
    if (held or may_read_object(hub, oid, user)) and hub.lfs.has(oid):
        if not hub.lfs.has(oid, size):
            return {"oid": oid, "size": size, "error": {"code": 422, "message": "The object has another size"}}
        if not held:
            hub.lfs.claim(repository.id, [oid])
        return {"oid": oid, "size": size}
    verify = {"href": f"{hub.origin}/{repository.page}.git/info/lfs/verify"}
    if parts and size > PART_BYTES:
        upload = upload_action(hub, repository, oid, size)
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}
    bound = {"oid": oid, "size": size, "repository": repository.id, "user": user.name}
    token = hub.signer.sign("lfs-put", bound, SIGNED_SECONDS)
    upload = {"href": f"{hub.origin}/lfs/{oid}?token={token}", "header": {}}
    return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}


def put(call: Call) -> "Response":
    """PUT /lfs/{oid}?token=...: the bytes of an object; the signature stands in for credentials."""
    oid = check_oid(call.params["oid"])
    claims = call.hub.signer.open("lfs-put", call.first("token"))
    repository = call.hub.get(claims["repository"])
    if claims["oid"] != oid or repository is None:
        raise Refusal(403, "Invalid signature")
    call.hub.lfs.receive(oid, claims["size"], call.chunks(claims["size"]))
    call.hub.lfs.claim(repository.id, [oid])
    return answer({}, headers={"ETag": f'"{oid}"'})


def verify(call: Call) -> "Response":
    """POST /{P}{R}.git/info/lfs/verify: whether an upload has arrived."""
    repository = find_repository(call, "content")
    oid, size = _wanted(call.fields())
    if oid not in call.hub.lfs.claimed(repository.id, [oid]) or not call.hub.lfs.has(oid, size):
        raise Refusal(404, "Object does not exist")
    return answer({}, headers=MEDIA_TYPE)


def hold(hub: "LocalHub", repository: "Repository", user: "User", objects: dict[str, int | None]) -> dict[str, int]:
    """Make sure that a repository may refer to LFS objects, and give their sizes in bytes.

    Args:
        objects (`dict`): the size that was said, or None, by oid.

    Raises:
        `Refusal`: 400 for an object that the repository does not hold and the user cannot read elsewhere (the same
        whether the store has it or not), or whose size is another.
    """
    held = hub.lfs.claimed(repository.id, objects)
    sizes: dict[str, int] = {}
    for oid, said in objects.items():
        size = hub.lfs.size(oid) if oid in held or may_read_object(hub, oid, user) else None
        if size is None:
            raise bad_request(f"LFS object {oid} has not been uploaded to this repository")
        if said is not None and said != size:
            raise bad_request(f"LFS object {oid} has {size} bytes, not {said}")
        sizes[oid] = size
    if missing := set(objects) - held:
        hub.lfs.claim(repository.id, missing)
    return sizes


ENDPOINTS = [
    *page_endpoints("POST", ".git/info/lfs/objects/batch", batch),
    *page_endpoints("POST", ".git/info/lfs/verify", verify),
    Endpoint("PUT", "lfs/{oid}", put),
]
