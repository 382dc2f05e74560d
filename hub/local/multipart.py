"""Large LFS objects in parts (the Hub's "multipart" transfer): one signed URL a part, then a completion request.

Parts are written into one file at their offsets, so that nothing is copied when it is complete. The client sends them
in order; then the checksum is known with the last one. Parts in another order, or a server that was started anew, cost
one reading of the file.
"""

import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from hub.local.call import Call, answer
from hub.local.errors import Refusal
from hub.local.routing import Endpoint

if TYPE_CHECKING:
    from hub.local.hub import LocalHub, Repository

# Bytes a part and from which on objects are sent in parts; larger parts where there would be more than MAX_PARTS.
PART_BYTES = 64 << 20
MAX_PARTS = 1000
# Seconds that an upload may take.
URL_SECONDS = 24 * 3600
MAX_COMPLETION = 1 << 20
# URLs of parts in one answer, some 350 bytes each; a file past them is sent in one request.
MAX_URLS = 20_000
_PURPOSE = "lfs-parts"


@dataclass
class _Upload:
    """An upload under way: one request at a time, and the checksum of parts 1 to `last`."""

    until: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    last: int = 0
    whole: Any = field(default_factory=hashlib.sha256)


_uploads: dict[str, _Upload] = {}
_uploads_lock = threading.Lock()


@contextmanager
def _upload(hub: "LocalHub", claims: dict[str, Any]) -> Iterator[_Upload]:
    # Nothing may write into the file while its checksum is taken and it is moved into the store. An entry therefore
    # stays until no URL of its upload is good any more.
    now = time.time()
    with _uploads_lock:
        found = _uploads.get(claims["upload"])
        if found is None:
            for over in [key for key, upload in _uploads.items() if upload.until < now and not upload.lock.locked()]:
                # What its client never completed goes with it.
                shutil.rmtree(_folder(hub, {"upload": over}), ignore_errors=True)
                del _uploads[over]
            found = _uploads[claims["upload"]] = _Upload(claims["until"])
    with found.lock:
        yield found


def upload_action(hub: "LocalHub", repository: "Repository", oid: str, size: int) -> dict[str, Any]:
    """The batch request's `upload` action for an object above `PART_BYTES`: completion URL, part size, part URLs."""
    part = max(PART_BYTES, -(-size // MAX_PARTS))
    claims = {"repository": repository.id, "oid": oid, "size": size, "part": part, "upload": secrets.token_hex(12)}
    token = hub.signer.sign(_PURPOSE, claims, URL_SECONDS)
    parts = -(-size // part)
    header = {f"{number:05d}": f"{hub.origin}/lfs-parts/{token}/{number}" for number in range(1, parts + 1)}
    return {"href": f"{hub.origin}/lfs-parts/{token}", "header": {"chunk_size": str(part), **header}}


def receive_part(call: Call) -> Response:
    """PUT of one part; its ETag is its sha256."""
    claims = call.hub.signer.open(_PURPOSE, call.params["token"])
    number, parts = call.params["number"], -(-claims["size"] // claims["part"])
    if not number.isascii() or not number.isdigit() or len(number) > 5 or not 1 <= int(number) <= parts:
        raise Refusal(404, f"Part {number[:20]!r}: this upload has parts 1 to {parts}")
    index = int(number)
    begin = (index - 1) * claims["part"]
    length = min(claims["part"], claims["size"] - begin)
    with _upload(call.hub, claims) as upload:
        etag = _write_part(call, _folder(call.hub, claims), index, begin, length, upload)
    return Response(status_code=200, headers={"ETag": f'"{etag}"'})


def _write_part(call: Call, folder: Path, index: int, begin: int, length: int, upload: _Upload) -> str:
    folder.mkdir(exist_ok=True)
    for old in folder.glob(f"{index}.*"):
        old.unlink()
    whole = upload.whole.copy() if index == upload.last + 1 else None
    if index <= upload.last:
        # The part comes once more, perhaps with other bytes: the checksum is taken from the file in the end.
        upload.last = -1
    etag, count = hashlib.sha256(), 0
    with open(os.open(folder / "content", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.seek(begin)
        for chunk in call.chunks(length):
            count += len(chunk)
            file.write(chunk)
            etag.update(chunk)
            if whole is not None:
                whole.update(chunk)
    if count != length:
        raise Refusal(400, f"Part {index}: {count} bytes came, it has {length}")
    (folder / f"{index}.{etag.hexdigest()}").touch()
    if whole is not None:
        upload.last, upload.whole = index, whole
    return etag.hexdigest()


def complete(call: Call) -> Response:
    """POST of the list of parts: the object is stored if all of them are here and the checksum is right."""
    claims = call.hub.signer.open(_PURPOSE, call.params["token"])
    named = _named_parts(call.fields(MAX_COMPLETION), claims["oid"])
    with _upload(call.hub, claims) as upload:
        _complete(call.hub, claims, named, upload)
    return answer({})


def _complete(hub: "LocalHub", claims: dict[str, Any], named: dict[int, str], upload: _Upload) -> None:
    oid, folder = claims["oid"], _folder(hub, claims)
    if not folder.is_dir() and oid in hub.lfs.claimed(claims["repository"], [oid]) and hub.lfs.has(oid, claims["size"]):
        return  # asked once more by a client that did not hear the answer
    parts = -(-claims["size"] // claims["part"])
    here = dict(path.name.split(".") for path in folder.glob("*.*")) if folder.is_dir() else {}
    missing = [n for n in range(1, parts + 1) if str(n) not in here]
    if missing:
        raise Refusal(400, f"LFS object {oid}: parts are missing: {_some(missing)}; send the object once more")
    wrong = [n for n in range(1, parts + 1) if named.get(n) != here[str(n)]]
    if wrong or len(named) != parts:
        raise Refusal(
            400, f"LFS object {oid}: {parts} parts came; the list differs at part {_some(wrong or [parts + 1])}"
        )
    content = folder / "content"
    if (upload.whole.hexdigest() if upload.last == parts else _checksum(content)) != oid:
        _remove(folder)
        raise Refusal(400, f"LFS object {oid}: the content has another checksum")
    if hub.get(claims["repository"]) is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    hub.lfs.keep(oid, content)
    hub.lfs.claim(claims["repository"], [oid])
    _remove(folder)


def _named_parts(fields: dict[str, Any], oid: str) -> dict[int, str]:
    parts = fields.get("parts")
    if fields.get("oid") != oid or not isinstance(parts, list) or len(parts) > MAX_PARTS:
        raise Refusal(400, "Invalid completion: expected the object's oid and its list of parts")
    named = {}
    for part in parts:
        number, etag = (part.get("partNumber"), part.get("etag")) if isinstance(part, dict) else (None, None)
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(etag, str):
            raise Refusal(400, "Invalid completion: a part has a partNumber and an etag")
        named[number] = etag.strip('"')
    return named


def _folder(hub: "LocalHub", claims: dict[str, Any]) -> Path:
    return hub.root / "tmp" / f"parts-{claims['upload']}"


def _checksum(content: Path) -> str:
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink(missing_ok=True)
    folder.rmdir()


def _some(numbers: list[int]) -> str:
    return json.dumps(numbers[:10])[1:-1] + (" and more" if len(numbers) > 10 else "")


ENDPOINTS = [
    Endpoint("PUT", "lfs-parts/{token}/{number}", receive_part),
    Endpoint("POST", "lfs-parts/{token}", complete),
]
