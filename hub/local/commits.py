"""Commits: the operations of one request, checked, written as blobs, then one tree, one commit, one swap.

Everything that can be refused is refused, and every blob written, before the repository's lock is taken; under it
stand only reading the reference, the tree's edit and the compare-and-swap."""

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hub.local import pull_requests
from hub.local.access import check, find_repository
from hub.local.attributes import check_attributes, with_lfs_lines
from hub.local.call import Call, answer, read_json
from hub.local.errors import Refusal, bad_request, revision_not_found
from hub.local.git_store import GitStore, Stale
from hub.local.git_trees import Edit
from hub.local.lfs import hold, uploader
from hub.local.metadata import faults
from hub.local.names import (
    MAX_CARD,
    MAX_COMMIT_BODY,
    MAX_LFS_OBJECT,
    MAX_NDJSON_LINE,
    MAX_OPERATIONS,
    MAX_REGULAR,
    MAX_TEXT,
    MAX_TITLE,
    check_oid,
    check_path,
    check_size,
    check_text,
)
from hub.local.pointers import pointer_text, read_pointer
from hub.local.routing import Endpoint

if TYPE_CHECKING:
    from starlette.responses import Response

    from hub.local.hub import Repository
    from hub.local.users import User

STALE = "The branch was updated since you opened this page. Please refresh and try again."


@dataclass
class Changes:
    """What a commit asks for: its message, the parent it was made on, and the operations in their order."""

    title: str = ""
    description: str = ""
    parent: str | None = None
    edits: list[Edit] = field(default_factory=list)
    objects: dict[str, int | None] = field(default_factory=dict)
    lfs_paths: dict[str, str] = field(default_factory=dict)
    # The LFS paths that were put below a folder, so that deleting one need not look through all of them.
    lfs_below: dict[str, set[str]] = field(default_factory=dict)
    attributes_changed: bool = False

    @property
    def message(self) -> str:
        """Summary and description as git keeps them."""
        return f"{self.title}\n\n{self.description}".strip() + "\n"


@dataclass(frozen=True)
class Target:
    """Where a commit goes: the reference, and the pull request's number where it is one."""

    reference: str
    number: int | None = None


def commit(call: Call) -> "Response":
    """POST /api/T/R/commit/{revision}."""
    repository = find_repository(call, "content")
    user = uploader(call)
    opens = call.flag("create_pr")
    target = find_target(call, repository, opens)
    changes = read_changes(call, repository, user)
    with call.hub.writing(repository, user) as store:
        oid, number = _apply(call, repository, user, store, target, changes, opens)
    page = f"{call.hub.origin}/{repository.page}"
    done: dict[str, Any] = {"success": True, "commitOid": oid, "commitUrl": f"{page}/commit/{oid}", "hookOutput": ""}
    if number is not None and opens:
        done["pullRequestUrl"] = f"{page}/discussions/{number}"
    return answer(done)


def find_target(call: Call, repository: "Repository", opens: bool) -> Target:
    """The reference that a commit is for, if the caller may move it (or, where it opens a pull request, start from it).

    Raises:
        `Refusal`: 404 RevisionNotFound for tags, commits and what is not there; 403 without the right.
    """
    revision = call.params["revision"]
    store = call.hub.git(repository)
    number = _pull_request(revision)
    if number is not None and not opens:
        pull_requests.check_push(call.hub, repository, call.user, number)
        return Target(revision, number)
    if not opens:
        check(call.hub, repository, call.user, "write")
    name = f"refs/heads/{revision.removeprefix('refs/heads/')}"
    if number is not None or store.reference(name) is None:
        raise revision_not_found(revision)
    return Target(name)


def _pull_request(revision: str) -> int | None:
    digits = revision.removeprefix("refs/pr/")
    return int(digits) if digits != revision and digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def _apply(
    call: Call, repository: "Repository", user: "User", store: GitStore, target: Target, changes: Changes, opens: bool
) -> tuple[str, int | None]:
    """Write tree and commit and move the reference; the commit and the pull request's number. Under the lock."""
    # A long body gives time to be shut out, and to merge or close the pull request.
    check(call.hub, call.hub.get(repository.id) or repository, user, "content")
    if target.number is not None:
        pull_requests.check_push(call.hub, repository, user, target.number)
    head = store.reference(target.reference)
    if head is None:
        raise revision_not_found(call.params["revision"])
    parent = _parent(store, head, changes.parent, opens)
    edits = with_lfs_lines(store, parent, changes.edits, list(changes.lfs_paths), changes.attributes_changed)
    tree = store.edit(store.tree(parent), edits)
    oid = store.commit(tree, [parent], user.name, changes.message)
    if opens:
        number, _ = pull_requests.open_pull_request(
            call.hub, repository, user, changes.title, changes.description, target.reference, oid, draft=False
        )
        return oid, number
    try:
        store.swap(target.reference, head, oid)
    except Stale:
        raise Refusal(412, STALE) from None
    moved = [{"ref": target.reference, "oldSha": head, "newSha": oid}]
    call.hub.emit(
        {"action": "update", "scope": "repo.content", "repository": repository, "user": user, "updatedRefs": moved}
    )
    return oid, target.number


def _parent(store: GitStore, head: str, said: str | None, opens: bool) -> str:
    if said is None or head.startswith(said):
        return head
    if opens and len(said) == 40:
        # A pull request may start from an older state of its branch.
        known = store.find_commit(said)
        if known is not None and store.is_ancestor(known, head):
            return known
    raise Refusal(412, STALE)


def read_changes(call: Call, repository: "Repository", user: "User") -> Changes:
    """The operations of a commit's body; every file's bytes are in git when this returns, under no reference.

    Raises:
        `Refusal`: 400, 413 or 422, naming the operation by its number and path.
    """
    changes = Changes()
    store = call.hub.git(repository)
    count = -1
    for count, line in enumerate(call.lines(MAX_COMMIT_BODY, MAX_NDJSON_LINE)):
        if count > MAX_OPERATIONS:
            raise Refusal(413, f"Payload too large: more than {MAX_OPERATIONS} operations in one commit")
        operation = read_json(line)
        if not isinstance(operation, dict) or not isinstance(operation.get("value"), dict):
            raise bad_request(f"Invalid commit: line {count + 1}: expected an object with key and value")
        key, value = operation.get("key"), operation["value"]
        if (count == 0) != (key == "header"):
            raise bad_request("Invalid commit: the first line, and only that, is the header")
        if key == "header":
            _read_header(changes, value)
        else:
            _read_operation(call, repository, store, changes, key, value)
    if count < 0:
        raise bad_request("Invalid commit: it is empty; expected a header")
    sizes = hold(call.hub, repository, user, changes.objects)
    for number, edit in enumerate(changes.edits):
        if edit.blob in sizes:
            # A sha256, so far, of an LFS object: now its pointer's blob.
            changes.edits[number] = Edit(edit.path, store.write_blob(pointer_text(edit.blob, sizes[edit.blob])))
    return changes


def _read_header(changes: Changes, value: dict[str, Any]) -> None:
    changes.title = check_text(value.get("summary"), "summary", MAX_TITLE, 1)
    if "\n" in changes.title or "\r" in changes.title:
        raise bad_request("Invalid summary: expected one line")
    changes.description = check_text(value.get("description") or "", "description", MAX_TEXT)
    parent = value.get("parentCommit")
    if parent is not None:
        is_hex = isinstance(parent, str) and all(c in "0123456789abcdef" for c in parent)
        if not is_hex or not 7 <= len(parent) <= 40:
            raise bad_request("Invalid parentCommit: expected 7 to 40 lower-case hexadecimal digits")
        changes.parent = parent


def _read_operation(
    call: Call, repository: "Repository", store: GitStore, changes: Changes, key: Any, value: dict[str, Any]
) -> None:
    folder = key in ("deletedFolder", "deletedFile")
    path = check_path(value.get("path"), folder=folder)
    changes.attributes_changed |= path.rpartition("/")[2] == ".gitattributes" or folder
    if key == "file":
        data = _content(path, value)
        _check_file(call, repository, path, data, changes)
        changes.edits.append(Edit(path, store.write_blob(data)))
        changes.lfs_paths.pop(path, None)
    elif key == "lfsFile":
        if value.get("algo", "sha256") != "sha256":
            raise bad_request(f"{path}: the algorithm of an LFS file is sha256")
        oid, size = check_oid(value.get("oid")), value.get("size")
        changes.objects[oid] = check_size(size, MAX_LFS_OBJECT) if size is not None else changes.objects.get(oid)
        changes.lfs_paths[path] = oid
        for end in (at for at, character in enumerate(path) if character == "/"):
            changes.lfs_below.setdefault(path[:end], set()).add(path)
        # Its pointer is written when the sizes of all objects are known.
        changes.edits.append(Edit(path, oid))
    elif folder:
        changes.edits.append(Edit(path))
        for gone in (path, *changes.lfs_below.pop(path, ())):
            changes.lfs_paths.pop(gone, None)
    else:
        raise bad_request("Invalid commit: expected the key file, lfsFile, deletedFile or deletedFolder")


def _content(path: str, value: dict[str, Any]) -> bytes:
    content, encoding = value.get("content"), value.get("encoding", "utf-8")
    if not isinstance(content, str) or encoding not in ("base64", "utf-8"):
        raise bad_request(f"{path}: expected content as text in base64 or utf-8")
    if encoding == "utf-8":
        data = content.encode()
    else:
        try:
            data = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            raise bad_request(f"{path}: the content is not base64") from None
    if len(data) > MAX_REGULAR:
        raise bad_request(f"{path}: {len(data)} bytes are more than the {MAX_REGULAR} of a file outside LFS")
    return data


def _check_file(call: Call, repository: "Repository", path: str, data: bytes, changes: Changes) -> None:
    pointer = read_pointer(data)
    if pointer is not None:
        # A pointer stands for an object: who writes one must have it.
        said = changes.objects.get(pointer.oid, pointer.size)
        if said != pointer.size:
            raise bad_request(f"{path}: an LFS pointer whose size is another than that of its object")
        changes.objects[pointer.oid] = pointer.size
    if path.rpartition("/")[2] == ".gitattributes":
        check_attributes(path, data)
    if path == "README.md" and pointer is None:
        head = data[: MAX_CARD + 4].decode("utf8", "replace")
        errors, _ = faults(head, repository.type)
        if errors:
            raise Refusal(
                400,
                f"Invalid metadata in README.md: {errors[0]}",
                body={"errors": [{"message": said} for said in errors]},
            )


ENDPOINTS = [Endpoint("POST", "api/{type}/{namespace}/{name}/commit/{revision}", commit)]
