"""Discussions and pull requests over HTTP (rows 22 to 26): lists, details, comments, titles, status, merges.

Whoever may read the repository may read them, except for a diff, which is content. Writing takes a token that may
write; `require_hand` is for what is left to a discussion's author and to those who may write to the repository."""

import re
from typing import TYPE_CHECKING, Any

from hub.local import discussion_records, pull_requests
from hub.local.access import check, find_repository, may_read_content
from hub.local.call import Call, answer
from hub.local.discussion_records import Discussion, Event
from hub.local.errors import Refusal, bad_request, no_write
from hub.local.names import (
    DISCUSSIONS_PAGE,
    MAX_DISCUSSION,
    MAX_DISCUSSION_TITLE,
    MAX_DISCUSSIONS,
    MAX_EVENTS,
    MAX_TEXT,
    MIN_DISCUSSION_TITLE,
    check_text,
)
from hub.local.pull_requests import find, locked, require_hand
from hub.local.routing import Endpoint
from hub.local.users import User

if TYPE_CHECKING:
    from starlette.responses import Response

    from hub.local.hub import LocalHub, Repository

_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


def list_discussions(call: Call) -> "Response":
    """GET /api/T/R/discussions: newest first, a page at a time."""
    repository = find_repository(call, "read")
    page = call.first("p", "0")
    if not page.isascii() or not page.isdigit() or len(page) > 9 or int(page) > MAX_DISCUSSIONS:
        raise bad_request("Invalid p: expected the number of a page, from 0")
    kind = _choice(call, "type", ("all", "discussion", "pull_request"), "all")
    status = _choice(call, "status", ("all", "open", "closed"), "all")
    start = int(page) * DISCUSSIONS_PAGE
    with locked(call.hub, repository, call.user):
        found, count = discussion_records.page(
            call.hub.records.connection(),
            repository.id,
            start,
            DISCUSSIONS_PAGE,
            kind,
            status,
            call.first("author") or None,
        )
    shown = [_describe(repository, discussion) for discussion in found]
    return answer({"discussions": shown, "count": count, "start": start})


def details(call: Call) -> "Response":
    """GET /api/T/R/discussions/{num}: events, and what a pull request changes; `?diff=1` for the diff, which only
    those get who may read the repository's content."""
    repository = find_repository(call, "read")
    num = _number(call)
    with locked(call.hub, repository, call.user) as git:
        discussion = find(call.hub, repository, num)
        said = discussion_records.events(call.hub.records.connection(), repository.id, num)
        head = git.reference(discussion.ref) if discussion.base else None
        tip = git.reference(discussion.base) if discussion.base else None
    events = [event.as_json() for event in said]
    found = _describe(repository, discussion)
    if discussion.is_pull_request:
        diff = call.flag("diff") and may_read_content(call.hub, repository, call.user)
        found |= pull_requests.changes(git, discussion, tip, head, diff)
        commits = pull_requests.commit_events(git, discussion, head) if head else []
        # Sorting is stable; git knows whole seconds only, so the comment that opened it is kept in front.
        events = events[:1] + sorted(events[1:] + commits, key=lambda event: str(event["createdAt"]))
    return answer({**found, "events": events})


def create(call: Call) -> "Response":
    """POST /api/T/R/discussions: a discussion, or a draft pull request at the head of main."""
    repository = find_repository(call, "read")
    user, body = _writer(call), call.fields()
    title = _title(body.get("title"))
    description = check_text(body.get("description", ""), "description", MAX_TEXT)
    pull_request = body.get("pullRequest", False)
    if not isinstance(pull_request, bool):
        raise bad_request("Invalid pullRequest: expected true or false")
    if pull_request:
        check(call.hub, repository, user, "content")
    with locked(call.hub, repository, user) as git:
        if pull_request:
            base = "refs/heads/main"
            head = git.resolve(base)
            num, _ = pull_requests.open_pull_request(
                call.hub, repository, user, title, description, base, head, draft=True
            )
        else:
            num = pull_requests.free_number(call.hub, repository)
            with call.hub.records.transaction() as connection:
                discussion = discussion_records.add(connection, repository.id, num, user.name, title, description)
            (comment,) = discussion_records.events(call.hub.records.connection(), repository.id, num)
    if not pull_request:
        _tell(call.hub, "create", "discussion", repository, user, discussion, comment)
    return answer({"num": num, "url": f"{call.hub.origin}/{repository.page}/discussions/{num}"})


def comment(call: Call) -> "Response":
    """POST .../comment: whoever may read the repository may comment."""
    repository = find_repository(call, "read")
    user, num = _writer(call), _number(call)
    raw = _comment(call.fields().get("comment"))
    with locked(call.hub, repository, user), call.hub.records.transaction() as connection:
        discussion = _find_with_room(call.hub, repository, num, len(raw))
        event = discussion_records.add_comment(connection, repository.id, num, user.name, raw)
    _tell(call.hub, "create", "discussion.comment", repository, user, discussion, event)
    return answer({"newMessage": event.as_json()})


def edit(call: Call) -> "Response":
    """POST .../comment/{id}/edit: by the comment's author alone."""
    repository = find_repository(call, "read")
    user, num = _writer(call), _number(call)
    raw = _comment(call.fields().get("content"))
    with locked(call.hub, repository, user), call.hub.records.transaction() as connection:
        discussion = _find_with_room(call.hub, repository, num, len(raw))
        event = _find_comment(call, repository, num)
        if event.author != user.name:
            raise Refusal(403, "Forbidden: only its author may edit a comment")
        if event.data["hidden"]:
            raise Refusal(403, "Forbidden: a hidden comment cannot be edited")
        event = discussion_records.edit_comment(connection, event, user.name, raw)
    _tell(call.hub, "update", "discussion.comment", repository, user, discussion, event)
    return answer({"updatedComment": event.as_json()})


def hide(call: Call) -> "Response":
    """POST .../comment/{id}/hide: by the comment's author or a writer; its text is deleted."""
    repository = find_repository(call, "read")
    user, num = _writer(call), _number(call)
    with locked(call.hub, repository, user), call.hub.records.transaction() as connection:
        discussion = find(call.hub, repository, num)
        event = _find_comment(call, repository, num)
        if event.author != user.name:
            check(call.hub, repository, user, "write")
        if not event.data["hidden"]:
            event = discussion_records.hide_comment(connection, event, user.name)
    _tell(call.hub, "update", "discussion.comment", repository, user, discussion, event)
    return answer({"updatedComment": event.as_json()})


def rename(call: Call) -> "Response":
    """POST .../title: by its author or a writer."""
    repository = find_repository(call, "read")
    user, num = _writer(call), _number(call)
    title = _title(call.fields().get("title"))
    with locked(call.hub, repository, user), call.hub.records.transaction() as connection:
        require_hand(repository, find(call.hub, repository, num), user)
        discussion = _find_with_room(call.hub, repository, num, len(title))
        event = discussion_records.set_title(connection, discussion, user.name, title)
        discussion = find(call.hub, repository, num)
    _tell(call.hub, "update", "discussion", repository, user, discussion)
    return answer({"newTitle": event.as_json()})


def set_status(call: Call) -> "Response":
    """POST .../status: open or closed, by its author or a writer. A draft that was opened is never a draft again, and
    a merged pull request stays merged."""
    repository = find_repository(call, "read")
    user, num, body = _writer(call), _number(call), call.fields()
    status = body.get("status")
    if status not in ("open", "closed"):
        raise bad_request("Invalid status: expected open or closed")
    raw = _optional_comment(body.get("comment"))
    with locked(call.hub, repository, user), call.hub.records.transaction() as connection:
        require_hand(repository, find(call.hub, repository, num), user)
        discussion = _find_with_room(call.hub, repository, num, len(raw))
        if discussion.status == "merged":
            raise Refusal(400, f"Pull request {num} is merged: its status does not change any more")
        if discussion.status == status:
            raise Refusal(400, f"Discussion {num} is {status} already")
        said = discussion_records.add_comment(connection, repository.id, num, user.name, raw) if raw else None
        event = discussion_records.set_status(connection, discussion, user.name, status)
        discussion = find(call.hub, repository, num)
    if said:
        _tell(call.hub, "create", "discussion.comment", repository, user, discussion, said)
    _tell(call.hub, "update", "discussion", repository, user, discussion)
    return answer({"newStatus": event.as_json()})


def merge(call: Call) -> "Response":
    """POST .../merge: by a writer."""
    repository = find_repository(call, "read")
    user, num = _writer(call), _number(call)
    raw = _optional_comment(call.fields().get("comment"))
    event = pull_requests.merge(call.hub, repository, user, num, raw)
    return answer({"newStatus": event.as_json()})


def _choice(call: Call, name: str, choices: tuple[str, ...], default: str) -> str:
    value = call.first(name, default)
    if value not in choices:
        raise bad_request(f"Invalid {name}: expected {', '.join(choices)}")
    return value


def _number(call: Call) -> int:
    text = call.params["num"]
    if not _NUMBER.fullmatch(text):
        raise bad_request("Invalid number of a discussion")
    return int(text)


def _writer(call: Call) -> User:
    """The user, by a token that may write.

    Raises:
        `Refusal`: 401 or 403.
    """
    if call.user is None or call.user.role != "write":
        raise no_write(call.user)
    return call.user


def _title(value: object) -> str:
    title = value.strip() if isinstance(value, str) else value
    title = check_text(title, "title", MAX_DISCUSSION_TITLE, MIN_DISCUSSION_TITLE)
    if _CONTROL.search(title):
        raise bad_request("Invalid title: expected one line without control characters")
    return title


def _comment(value: object) -> str:
    text = check_text(value, "comment", MAX_TEXT, 1)
    if not text.strip():
        raise bad_request("Invalid comment: it is empty")
    return text


def _optional_comment(value: object) -> str:
    return "" if value is None or value == "" else _comment(value)


def _find_with_room(hub: "LocalHub", repository: "Repository", num: int, characters: int) -> Discussion:
    """The discussion, where so many more characters have room in it."""
    discussion = find(hub, repository, num)
    count, size = discussion_records.room(hub.records.connection(), repository.id, num)
    if count >= MAX_EVENTS or size + characters > MAX_DISCUSSION:
        raise Refusal(403, f"Discussion {num} is full: at most {MAX_EVENTS} events and {MAX_DISCUSSION} characters")
    return discussion


def _find_comment(call: Call, repository: "Repository", num: int) -> Event:
    connection = call.hub.records.connection()
    event = discussion_records.find_comment(connection, repository.id, num, call.params["comment"])
    if event is None:
        raise Refusal(404, "Comment not found")
    return event


def _describe(repository: "Repository", discussion: Discussion) -> dict[str, Any]:
    return {
        "num": discussion.num,
        "title": discussion.title,
        "author": {"name": discussion.author},
        "createdAt": discussion.created,
        "status": discussion.status,
        "repo": {"name": repository.full_name, "type": repository.type},
        "isPullRequest": discussion.is_pull_request,
    }


def _tell(
    hub: "LocalHub",
    action: str,
    scope: str,
    repository: "Repository",
    user: User,
    discussion: Discussion,
    said: Event | None = None,
) -> None:
    event = {"action": action, "scope": scope, "repository": repository, "user": user, "discussion": discussion}
    hub.emit({**event, "comment": said} if said else event)


_ALL = "api/{type}/{namespace}/{name}/discussions"
_ONE = f"{_ALL}/{{num}}"
ENDPOINTS = [
    Endpoint("GET", _ALL, list_discussions),
    Endpoint("POST", _ALL, create),
    Endpoint("GET", _ONE, details),
    Endpoint("POST", f"{_ONE}/comment", comment),
    Endpoint("POST", f"{_ONE}/comment/{{comment}}/edit", edit),
    Endpoint("POST", f"{_ONE}/comment/{{comment}}/hide", hide),
    Endpoint("POST", f"{_ONE}/title", rename),
    Endpoint("POST", f"{_ONE}/status", set_status),
    Endpoint("POST", f"{_ONE}/merge", merge),
]
