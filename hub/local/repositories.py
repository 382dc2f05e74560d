"""Repositories as a whole: who am I, create, delete, move, settings, information, lists, the right to access."""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from hub.local.access import check, find_repository
from hub.local.call import Call, answer
from hub.local.errors import Refusal, bad_request, repository_not_found
from hub.local.git_store import Entry, GitStore
from hub.local.metadata import card_data, faults
from hub.local.names import LIST_PAGE, MAX_JSON, PLURAL, PREFIX, RESERVED, check_name, check_text
from hub.local.records import timestamp
from hub.local.routing import Endpoint
from hub.local.users import User, belongs, may_write

if TYPE_CHECKING:
    from starlette.responses import Response

    from hub.local.hub import LocalHub, Repository


def require_user(call: Call) -> User:
    """The user of a request.

    Raises:
        `Refusal`: 401 for an anonymous one.
    """
    if call.user is None:
        raise Refusal(401, "Invalid username or password.")
    return call.user


def whoami(call: Call) -> "Response":
    """GET /api/whoami-v2."""
    user = require_user(call)
    orgs = [
        {
            "type": "org",
            "name": name,
            "fullname": call.hub.users.org(name) or name,
            "roleInOrg": role,
            "isEnterprise": False,
        }
        for name, role in sorted(user.orgs.items())
    ]
    token = {"displayName": user.token_name, "role": user.role}
    return answer(
        {
            "type": "user",
            "id": user.id,
            "name": user.name,
            "fullname": user.fullname,
            "email": user.email,
            "emailVerified": user.email is not None,
            "isPro": False,
            "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def _asked(call: Call) -> tuple[str, str, str, dict[str, Any]]:
    """Type, namespace and name of a request to create or delete, and its body."""
    user, body = require_user(call), call.fields()
    name, organization = body.get("name"), body.get("organization")
    if isinstance(name, str) and name.count("/") == 1 and not organization:
        organization, name = name.split("/")
    return _type(body), check_name(organization or user.name, "namespace"), check_name(name, "repository name"), body


def _type(body: dict[str, Any]) -> str:
    kind = body.get("type") or body.get("repoType") or "model"
    if not isinstance(kind, str) or kind not in PREFIX:
        raise bad_request("Invalid type: expected model, dataset or space")
    return kind


def _may_hold(call: Call, namespace: str) -> str:
    """The namespace as it is written in users.yaml, where the caller may keep repositories in it."""
    user = require_user(call)
    org, owner = call.hub.users.org(namespace), call.hub.users.get(namespace)
    allowed = may_write(user, namespace) and (org is not None or owner is not None)
    if not allowed or namespace.lower() in RESERVED:
        if user.role != "write":
            raise Refusal(403, "Forbidden: this token may only read; a token with the role write is needed")
        raise Refusal(403, f"Forbidden: you may not keep repositories under the namespace {namespace!r}")
    known = [name for name in user.orgs if name.lower() == namespace.lower()]
    return known[0] if known else owner.name if owner else namespace


def create(call: Call) -> "Response":
    """POST /api/repos/create."""
    kind, asked, name, body = _asked(call)
    namespace = _may_hold(call, asked)
    private = bool(_private(body))
    full_name = f"{namespace}/{name}"
    found = {"url": f"{call.hub.origin}/{PREFIX[kind]}{full_name}", "name": full_name}
    try:
        record = call.hub.add(kind, namespace, name, private, require_user(call), {".gitattributes": GIT_ATTRIBUTES})
    except FileExistsError:
        said = f"You already created this {kind} repo: {full_name}"
        raise Refusal(409, said, body={**found, "id": full_name}) from None
    call.hub.emit({"action": "create", "scope": "repo", "repository": record, "user": call.user})
    return answer({**found, "id": record.full_name})


def delete(call: Call) -> "Response":
    """DELETE /api/repos/delete."""
    kind, namespace, name, _ = _asked(call)
    repository = _named(call, kind, namespace, name)
    call.hub.remove(repository)
    call.hub.emit({"action": "delete", "scope": "repo", "repository": repository, "user": call.user})
    return answer({})


def _named(call: Call, kind: str, namespace: str, name: str) -> "Repository":
    """A repository that a body names, for its administrator; by its present name, for an old one may be a slip."""
    call.params = {"type": kind, "namespace": namespace, "name": name}
    found = find_repository(call, "admin")
    if found.full_name.lower() != f"{namespace}/{name}".lower():
        raise repository_not_found(call.user)
    return found


def move(call: Call) -> "Response":
    """POST /api/repos/move."""
    require_user(call)
    body = call.fields()
    kind, ends = _type(body), []
    for key in ("fromRepo", "toRepo"):
        namespace, _, name = str(body.get(key)).partition("/")
        ends.append((check_name(namespace, f"{key} namespace"), check_name(name, f"{key} name")))
    (namespace, name), (to_namespace, to_name) = ends
    repository = _named(call, kind, namespace, name)
    to_namespace = _may_hold(call, to_namespace)
    try:
        call.hub.move(repository, to_namespace, to_name)
    except FileExistsError:
        raise Refusal(409, f"A {kind} repository called {to_namespace}/{to_name} already exists") from None
    call.hub.emit({"action": "move", "scope": "repo", "repository": repository, "user": call.user})
    return answer({})


def settings(call: Call) -> "Response":
    """PUT /api/T/R/settings."""
    repository = find_repository(call, "admin")
    body = call.fields()
    gated = body.get("gated", False)
    if gated not in ("auto", "manual", False) or (gated is not False and not isinstance(gated, str)):
        raise bad_request("Invalid gated: expected auto, manual or false")
    call.hub.change(repository, _private(body), (gated or "") if "gated" in body else None)
    call.hub.emit({"action": "update", "scope": "repo.config", "repository": repository, "user": call.user})
    return answer({})


def _private(body: dict[str, Any]) -> bool | None:
    """Whether a body makes a repository private; None where it says nothing of that."""
    if body.get("visibility") not in (None, "private", "public"):
        raise bad_request("Invalid visibility: expected private or public")
    if not isinstance(body.get("private"), bool | None):
        raise bad_request("Invalid private: expected true or false")
    if body.get("visibility") is not None:
        return bool(body["visibility"] == "private")
    return body.get("private")


def info(call: Call) -> "Response":
    """GET /api/T/R and /api/T/R/revision/{revision}."""
    repository = find_repository(call, "read")
    return answer(describe(call.hub, repository, call.params.get("revision", "main"), True, call.flag("blobs")))


def describe(
    hub: "LocalHub", repository: "Repository", revision: str, files: bool, blobs: bool = False
) -> dict[str, Any]:
    """What the Hub tells of a repository at a revision; `files` adds their names, `blobs` their sizes and ids."""
    store = hub.git(repository)
    sha = store.resolve(revision)
    card = card_data(store, sha)
    found: dict[str, Any] = {
        "_id": repository.id,
        "id": repository.full_name,
        "author": repository.namespace,
        "sha": sha,
        "lastModified": timestamp(store.read_commit(sha).created),
        "createdAt": repository.created,
        "private": repository.private,
        "gated": repository.gated or False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": card_tags(card, repository.type),
    }
    if card:
        found["cardData"] = card
    if repository.type == "model":
        found["modelId"] = repository.full_name
        found |= {key: card[key] for key in ("library_name", "pipeline_tag", "model-index") if key in card}
    if files:
        found["siblings"] = [
            _sibling(store, entry, blobs) for entry in store.entries(sha, recursive=True) if not entry.folder
        ]
    return found


def _sibling(store: GitStore, entry: Entry, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": entry.path}
    blob = store.blob(entry.oid)
    found: dict[str, Any] = {"rfilename": entry.path, "size": blob.size, "blobId": blob.oid}
    if blob.pointer:
        pointer = blob.pointer
        found["lfs"] = {"sha256": pointer.oid, "size": pointer.size, "pointerSize": pointer.length}
    return found


# What a card's fields are called among a repository's tags.
_TAGGED = {"base_model": "base_model", "datasets": "dataset", "language": "language", "license": "license"}
_TAGGED |= {"size_categories": "size_categories", "task_categories": "task_categories"}


def card_tags(card: dict[str, Any], kind: str) -> list[str]:
    """The tags that the Hub shows and filters by: the card's own, and `license:mit` and the like."""
    tags = _list(card.get("tags"))
    if kind == "model":
        tags += _list(card.get("library_name")) + _list(card.get("pipeline_tag"))
    tags += [f"{name}:{value}" for key, name in _TAGGED.items() for value in _list(card.get(key))]
    return list(dict.fromkeys(tags))


def _list(value: Any) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def list_all(call: Call) -> "Response":
    """GET /api/T: the repositories that the caller may know of, newest first, in pages."""
    hub, author, search = call.hub, call.first("author").lower(), call.first("search").lower()
    filters = call.query.get("filter", [])
    limit, skip = _number(call, "limit", LIST_PAGE), _number(call, "cursor", 0)
    found = []
    for repository in hub.list_repositories(call.params["type"]):
        hidden = repository.private and not (call.user and belongs(call.user, repository.namespace))
        if hidden or (author and repository.namespace.lower() != author) or search not in repository.full_name.lower():
            continue
        try:
            item = describe(hub, repository, "main", call.flag("full"))
        except Refusal:
            # It was deleted since the records were read.
            continue
        if all(tag in item["tags"] for tag in filters):
            found.append(item)
    page, headers = found[skip : skip + min(limit, LIST_PAGE)], {}
    # With a limit, too, there is a next page: a client that wants more than a page holds asks on, and stops by itself.
    if len(found) > skip + len(page) and page:
        query = urlencode({**call.query, "cursor": skip + len(page)}, doseq=True)
        headers["Link"] = f'<{hub.origin}/api/{PLURAL[call.params["type"]]}?{query}>; rel="next"'
    return answer(page, headers=headers)


def _number(call: Call, key: str, default: int) -> int:
    text = call.first(key, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise bad_request(f"Invalid {key}: expected a number")
    return int(text)


def validate_yaml(call: Call) -> "Response":
    """POST /api/validate-yaml."""
    body = call.fields()
    content = check_text(body.get("content"), "content", MAX_JSON)
    errors, warnings = faults(content, str(body.get("repoType") or "model"))
    found = {"errors": [{"message": said} for said in errors], "warnings": [{"message": said} for said in warnings]}
    if errors:
        return answer({"error": "Invalid metadata", **found}, 400, {"X-Error-Message": "Invalid metadata in README.md"})
    return answer(found)


def auth_check(call: Call) -> "Response":
    """GET /api/T/R/auth-check and /auth-check/write."""
    repository = find_repository(call, "content")
    if call.params.get("right") == "write":
        check(call.hub, repository, call.user, "write")
    return answer({})


# Kinds of file that go to the LFS store whatever their size: binary formats of data, weights and media.
_BINARY = """
    7z arrow avi avro bin bmp bz2 ckpt feather flac ftz gif gguf gz h5 jpeg jpg joblib lz4 mkv model mov mp3 mp4
    msgpack npy npz ogg onnx ot parquet pb pickle pkl png pt pth rar safetensors sqlite tar tflite tgz tif tiff wasm
    wav webm webp xz zip zst
"""
GIT_ATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _BINARY.split()).encode()

ENDPOINTS = [
    Endpoint("GET", "api/whoami-v2", whoami),
    Endpoint("POST", "api/repos/create", create),
    Endpoint("DELETE", "api/repos/delete", delete),
    Endpoint("POST", "api/repos/move", move),
    Endpoint("POST", "api/validate-yaml", validate_yaml),
    Endpoint("GET", "api/{type}", list_all),
    Endpoint("PUT", "api/{type}/{namespace}/{name}/settings", settings),
    Endpoint("GET", "api/{type}/{namespace}/{name}", info),
    Endpoint("GET", "api/{type}/{namespace}/{name}/revision/{revision}", info),
    Endpoint("GET", "api/{type}/{namespace}/{name}/auth-check", auth_check),
    Endpoint("GET", "api/{type}/{namespace}/{name}/auth-check/write", auth_check, {"right": "write"}),
]
