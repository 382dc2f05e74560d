"""Upload by Xet, the client's default: a token for a repository, then xorbs and shards sent with it.

Only the sending half of the protocol (https://huggingface.co/docs/xet: "CAS API Documentation") is served. Files are
put together from their chunks at once and kept in the LFS store under their sha256, so that everything is given by
plain HTTP; nothing here offers downloads, deduplication by other users' chunks, or upload grants: the client falls
back on a 404.
"""

import re
import shutil
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from starlette.responses import Response

from hub.local.access import check, find_repository, may_read_object
from hub.local.call import Call, answer
from hub.local.errors import Refusal, no_write
from hub.local.names import MAX_LFS_OBJECT
from hub.local.routing import Endpoint
from hub.local.xet_format import SHARD_BYTES, XORB_BYTES, XetFile, XetFormatError, read_shard
from hub.local.xet_store import UnknownXorb

if TYPE_CHECKING:
    from hub.local.hub import Repository
    from hub.local.users import User

# Seconds a token is good for; the client asks for another before that is over.
TOKEN_SECONDS = 3600
# Bytes that stay free on the disk, so that git and the records can still be written.
FREE_BYTES = 1 << 30
_PURPOSE = "xet"
_XORB = re.compile(r"[0-9a-f]{64}")


def write_token(call: Call) -> Response:
    """GET xet-write-token/{revision}: a signed token and where to send xorbs and shards.

    Whoever may open a pull request may upload: those who may read the content and hold a token that writes. What is
    uploaded shows nowhere before a commit, which checks the right to the branch.
    """
    repository = find_repository(call, "content")
    if call.user is None or call.user.role != "write":
        raise no_write(call.user)
    call.hub.xet.drop_unused()
    place = call.hub.xet.place(call.user.name.lower())
    claims = {"user": call.user.name, "repository": repository.id, "place": place}
    token = call.hub.signer.sign(_PURPOSE, claims, TOKEN_SECONDS)
    expires = int(time.time()) + TOKEN_SECONDS
    url = f"{call.hub.origin}/xet/{place}"
    headers = {"X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires), "X-Xet-Cas-Url": url}
    return answer({"accessToken": token, "exp": expires, "casUrl": url}, headers=headers)


def receive_xorb(call: Call) -> Response:
    """POST v1/xorbs/default/{hash}: keeps a xorb."""
    user, _ = _bearer(call)
    xorb = call.params["xorb"]
    if not _XORB.fullmatch(xorb):
        raise Refusal(400, "Invalid xorb hash: expected 64 lower-case hexadecimal digits")
    _room(call, XORB_BYTES)
    new = call.hub.xet.receive(user.name.lower(), xorb, call.chunks(XORB_BYTES))
    return answer({"was_inserted": new})


def receive_shard(call: Call) -> Response:
    """POST v1/shards: puts the shard's files together and into the LFS store; answered when all of them are there."""
    user, repository = _bearer(call)
    try:
        files = read_shard(call.body(SHARD_BYTES))
    except XetFormatError as error:
        raise Refusal(400, f"Shard: {error}") from None
    for file in files:
        if file.size > MAX_LFS_OBJECT:
            raise Refusal(413, f"File {file.sha256}: {file.size} bytes are more than the {MAX_LFS_OBJECT} allowed")
    _room(call, sum(file.size for file in files))
    store, name = call.hub.xet, user.name.lower()
    try:
        with store.reader(name) as read:
            for file in files:
                _keep(call, user, file, (piece for segment in file.segments for piece in read(segment)))
    except XetFormatError as error:
        raise Refusal(400, f"Xorb: {error}") from None
    except UnknownXorb as error:
        # The client counts on an upload of earlier times that is gone here. The next token leads it to another place,
        # for which it remembers nothing, and it sends everything.
        store.forget(name)
        raise Refusal(400, f"Xorb {error} is not kept here any more: send the files once more") from None
    if call.hub.get(repository.id) is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    call.hub.lfs.claim(repository.id, [file.sha256 for file in files])
    store.note([(file.sha256, file.segments) for file in files], name)
    return answer({"result": 1})


def _keep(call: Call, user: "User", file: XetFile, pieces: Iterator[bytes]) -> None:
    """Stores a file. One that is there already, and that the user may read by other ways anyhow, is left as it is."""
    if call.hub.lfs.has(file.sha256, file.size) and may_read_object(call.hub, file.sha256, user):
        return
    call.hub.lfs.receive(file.sha256, file.size, pieces)


def _bearer(call: Call) -> tuple["User", "Repository"]:
    """The user and repository that the request's token is for, if it is for this place and the right still stands."""
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Refusal(401, "A token of xet-write-token is needed")
    try:
        claims = call.hub.signer.open(_PURPOSE, token.strip())
    except Refusal as refusal:
        # The client asks for a new token when it reads 401.
        raise Refusal(401, refusal.message) from None
    user, repository = call.hub.users.get(claims["user"]), call.hub.get(claims["repository"])
    if user is None or claims["place"] != call.params["place"]:
        raise Refusal(403, "The token is for another place")
    if repository is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    check(call.hub, repository, user, "content")
    return user, repository


def _room(call: Call, size: int) -> None:
    if shutil.disk_usage(call.hub.root).free < size + FREE_BYTES:
        raise Refusal(507, f"The Hub's disk has no room for {size} bytes")


ENDPOINTS = [
    Endpoint("GET", "api/{type}/{namespace}/{name}/xet-write-token/{revision}", write_token),
    Endpoint("POST", "xet/{place}/v1/xorbs/default/{xorb}", receive_xorb, signed=True),
    Endpoint("POST", "xet/{place}/v1/shards", receive_shard, signed=True),
]
