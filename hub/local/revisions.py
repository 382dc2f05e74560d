"""Branches, tags, references, the list of commits, and the squash of a branch's history."""

import html
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hub.local.access import find_repository
from hub.local.call import Call, answer
from hub.local.errors import Refusal, bad_request, revision_not_found
from hub.local.git_store import ReferenceExists, Stale
from hub.local.lfs import uploader
from hub.local.names import COMMITS_PAGE, MAX_TEXT, PLURAL, check_branch, check_text
from hub.local.records import timestamp
from hub.local.routing import Endpoint

if TYPE_CHECKING:
    from starlette.responses import Response

    from hub.local.hub import Repository
    from hub.local.users import User

# A released version: its tag is never moved and never deleted.
_RELEASE = re.compile(r"v\d.*", re.DOTALL)


def refs(call: Call) -> "Response":
    """GET /api/T/R/refs."""
    store = call.hub.git(find_repository(call, "read"))

    def listed(prefix: str) -> list[dict[str, str]]:
        found = store.references(prefix)
        return [{"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid} for ref, oid in found.items()]

    found = {"branches": listed("refs/heads/"), "tags": listed("refs/tags/"), "converts": []}
    if call.flag("include_prs"):
        found["pullRequests"] = listed("refs/pr/")
    return answer(found)


def commits(call: Call) -> "Response":
    """GET /api/T/R/commits/{revision}, newest first."""
    repository = find_repository(call, "read")
    store = call.hub.git(repository)
    head = store.resolve(call.params["revision"])
    page = call.first("p", "0")
    if not page.isascii() or not page.isdigit() or len(page) > 7:
        raise bad_request("Invalid p: expected the number of a page, from 0")
    skip, total = int(page) * COMMITS_PAGE, store.count(head)
    formatted = "formatted" in [*call.query.get("expand[]", []), *call.query.get("expand", [])]
    found = []
    for commit in store.log(head, skip, COMMITS_PAGE):
        authors = [{"user": author} for author in commit.authors]
        item: dict[str, Any] = {"id": commit.oid, "title": commit.title, "message": commit.message}
        item |= {"authors": authors, "date": timestamp(commit.created)}
        if formatted:
            item["formatted"] = {"title": html.escape(commit.title), "message": html.escape(commit.message)}
        found.append(item)
    headers = {"X-Total-Count": str(total)}
    if skip + COMMITS_PAGE < total:
        place = f"{PLURAL[repository.type]}/{repository.full_name}/commits/{quote(head, safe='')}"
        more = "&expand[]=formatted" if formatted else ""
        headers["Link"] = f'<{call.hub.origin}/api/{place}?p={int(page) + 1}{more}>; rel="next"'
    return answer(found, headers=headers)


def _writing(call: Call) -> tuple["Repository", "User"]:
    return find_repository(call, "write"), uploader(call)


def create_branch(call: Call) -> "Response":
    """POST /api/T/R/branch/{branch}."""
    repository, user = _writing(call)
    branch = check_branch(call.params["branch"])
    start = call.fields().get("startingPoint")
    with call.hub.writing(repository, user) as store:
        commit = store.resolve(check_text(start, "startingPoint", 300) if start else "main")
        if store.reference(f"refs/tags/{branch}"):
            raise Refusal(409, f"Reference refs/tags/{branch} already exists")
        try:
            store.swap(f"refs/heads/{branch}", None, commit)
        except ReferenceExists:
            raise Refusal(409, f"Reference refs/heads/{branch} already exists") from None
    _moved(call, repository, user, f"refs/heads/{branch}", None, commit)
    return answer({})


def delete_branch(call: Call) -> "Response":
    """DELETE /api/T/R/branch/{branch}."""
    repository, user = _writing(call)
    branch = check_branch(call.params["branch"])
    if branch == "main":
        raise Refusal(403, "Cannot delete refs/heads/main")
    _delete(call, repository, user, f"refs/heads/{branch}")
    return answer({})


def _delete(call: Call, repository: "Repository", user: "User", name: str) -> None:
    with call.hub.writing(repository, user) as store:
        old = store.reference(name)
        if old is None:
            raise Refusal(404, f"Reference {name} does not exist", "RevisionNotFound")
        try:
            store.swap(name, old, None)
        except Stale:
            raise Refusal(412, f"Reference {name} has moved") from None
    _moved(call, repository, user, name, old, None)


def create_tag(call: Call) -> "Response":
    """POST /api/T/R/tag/{revision}."""
    repository, user = _writing(call)
    body = call.fields()
    tag = check_branch(body.get("tag"), "tag")
    message = check_text(body.get("message") or "", "message", MAX_TEXT)
    with call.hub.writing(repository, user) as store:
        commit = store.resolve(call.params["revision"])
        if store.reference(f"refs/heads/{tag}"):
            raise Refusal(409, f"Reference refs/heads/{tag} already exists")
        try:
            if message:
                store.annotate(tag, commit, user.name, message)
            else:
                store.swap(f"refs/tags/{tag}", None, commit)
        except ReferenceExists:
            raise Refusal(409, f"Tag reference exists already: {tag}") from None
    _moved(call, repository, user, f"refs/tags/{tag}", None, commit)
    return answer({})


def delete_tag(call: Call) -> "Response":
    """DELETE /api/T/R/tag/{tag}."""
    repository, user = _writing(call)
    tag = check_branch(call.params["tag"], "tag")
    if _RELEASE.fullmatch(tag):
        raise Refusal(403, f"Cannot delete refs/tags/{tag}: the tag of a released version stays where it is")
    _delete(call, repository, user, f"refs/tags/{tag}")
    return answer({})


def super_squash(call: Call) -> "Response":
    """POST /api/T/R/super-squash/{branch}: one root commit with the branch's tree; tags keep the old commits."""
    repository, user = _writing(call)
    branch = check_branch(call.params["branch"])
    message = check_text(call.fields().get("message") or "Super-squash history", "message", MAX_TEXT, 1)
    name = f"refs/heads/{branch}"
    with call.hub.writing(repository, user) as store:
        old = store.reference(name)
        if old is None:
            raise revision_not_found(branch)
        new = store.commit(store.tree(old), [], user.name, message)
        try:
            store.swap(name, old, new)
        except Stale:
            raise Refusal(412, f"Reference {name} has moved") from None
    _moved(call, repository, user, name, old, new)
    return answer({})


def _moved(call: Call, repository: "Repository", user: "User", name: str, old: str | None, new: str | None) -> None:
    moved = [{"ref": name, "oldSha": old, "newSha": new}]
    call.hub.emit(
        {"action": "update", "scope": "repo.content", "repository": repository, "user": user, "updatedRefs": moved}
    )


_AT = "api/{type}/{namespace}/{name}"
ENDPOINTS = [
    Endpoint("GET", f"{_AT}/refs", refs),
    Endpoint("GET", f"{_AT}/commits/{{revision}}", commits),
    Endpoint("POST", f"{_AT}/branch/{{branch}}", create_branch),
    Endpoint("DELETE", f"{_AT}/branch/{{branch}}", delete_branch),
    Endpoint("POST", f"{_AT}/tag/{{revision}}", create_tag),
    Endpoint("DELETE", f"{_AT}/tag/{{tag}}", delete_tag),
    Endpoint("POST", f"{_AT}/super-squash/{{branch}}", super_squash),
]
