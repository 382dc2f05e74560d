"""Gating (rows 27 to 29): requests for access to a repository's content, and what its writers decide on them.

`access.py` holds the table and reads it: an accepted request is what gives access."""

import json
import secrets
import sqlite3
from typing import TYPE_CHECKING, Any

from hub.local.access import find_repository, may_read_content
from hub.local.call import Call, answer
from hub.local.errors import Refusal, bad_request
from hub.local.names import ACCESS_PAGE, MAX_FORM_FIELD, MAX_FORM_FIELDS, MAX_REASON, PLURAL, check_text
from hub.local.records import timestamp
from hub.local.repositories import require_user
from hub.local.routing import Endpoint, page_endpoints

if TYPE_CHECKING:
    from starlette.responses import Response

    from hub.local.hub import LocalHub, Repository
    from hub.local.users import User

# Granting keeps the answers that were given, and asking makes of a granted request one that was asked for.
_WRITE = """INSERT INTO access_requests (id, repository, user, status, created, fields, granted)
    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (repository, user) DO UPDATE SET
    status = excluded.status, reason = NULL, granted = granted AND excluded.granted,
    fields = CASE WHEN excluded.granted THEN fields ELSE excluded.fields END"""
STATUSES = ("pending", "accepted", "rejected")


def ask(call: Call) -> "Response":
    """POST /{P}{R}/ask-access, with the fields of the form: accepted at once where gating is automatic, pending where
    somebody decides. Asking again while it is pending replaces the fields; after a rejection it is refused."""
    repository = find_repository(call, "read")
    user = require_user(call)
    _require_gated(repository)
    fields = _fields(call.form())
    if may_read_content(call.hub, repository, user):
        raise bad_request(f"You have access to {repository.full_name} already")
    status = "accepted" if repository.gated == "auto" else "pending"
    with call.hub.records.transaction() as connection:
        found = _request(connection, repository, "user", user.name)
        if found and found["status"] == "rejected":
            raise Refusal(403, f"Your request for access to {repository.full_name} was rejected", "GatedRepo")
        _write(connection, repository, user.name, status, fields)
    return answer({"status": status})


def list_requests(call: Call) -> "Response":
    """GET /api/T/R/user-access-request/{status}: newest first, a page at a time."""
    repository = find_repository(call, "write")
    _require_gated(repository)
    status = call.params["status"]
    cursor = call.first("cursor", "0")
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 9:
        raise bad_request("Invalid cursor")
    rows = call.hub.records.all(
        "SELECT * FROM access_requests WHERE repository = ? AND status = ? ORDER BY created DESC, id LIMIT ? OFFSET ?",
        repository.id,
        status,
        ACCESS_PAGE + 1,
        int(cursor),
    )
    headers = {}
    if len(rows) > ACCESS_PAGE:
        path = f"api/{PLURAL[repository.type]}/{repository.full_name}/user-access-request/{status}"
        headers["Link"] = f'<{call.hub.origin}/{path}?cursor={int(cursor) + ACCESS_PAGE}>; rel="next"'
    return answer([_describe(call.hub, row) for row in rows[:ACCESS_PAGE]], headers=headers)


def handle(call: Call) -> "Response":
    """POST .../user-access-request/handle: pending (cancel), accepted or rejected."""
    repository = find_repository(call, "write")
    _require_gated(repository)
    body = call.fields()
    status = body.get("status")
    if status not in STATUSES:
        raise bad_request(f"Invalid status: expected {', '.join(STATUSES)}")
    reason = body.get("rejectionReason")
    if reason is not None:
        if status != "rejected":
            raise bad_request("rejectionReason goes with the status rejected only")
        check_text(reason, "rejectionReason", MAX_REASON)
    name, request_id = body.get("user"), body.get("requestId")
    if (name is None) == (request_id is None):
        raise bad_request("Expected one of user and requestId")
    if name is not None:
        name = _known(call.hub, name).name
    with call.hub.records.transaction() as connection:
        key, value = ("user", name) if name is not None else ("id", check_text(request_id, "requestId", 100))
        found = _request(connection, repository, key, value)
        if found is None:
            raise Refusal(404, "This access request cannot be found")
        if found["status"] == status:
            raise Refusal(404, f"This access request is in the {status} list already")
        connection.execute(
            "UPDATE access_requests SET status = ?, reason = ? WHERE id = ?", (status, reason, found["id"])
        )
    return answer({})


def grant(call: Call) -> "Response":
    """POST .../user-access-request/grant: access for a user who need not have asked."""
    repository = find_repository(call, "write")
    _require_gated(repository)
    user = _known(call.hub, call.fields().get("user"))
    with call.hub.records.transaction() as connection:
        if may_read_content(call.hub, repository, user):
            raise bad_request(f"{user.name} has access to {repository.full_name} already")
        _write(connection, repository, user.name, "accepted", None)
    return answer({})


def _require_gated(repository: "Repository") -> None:
    if not repository.gated:
        raise bad_request(f"{repository.full_name} is not gated")


def _known(hub: "LocalHub", name: object) -> "User":
    user = hub.users.get(check_text(name, "user", 96, 1))
    if user is None:
        raise Refusal(404, "No user of this name")
    return user


def _fields(form: dict[str, list[str]]) -> dict[str, str]:
    """The answers of a form: one text a field, bounded."""
    if len(form) > MAX_FORM_FIELDS:
        raise bad_request(f"Invalid form: more than {MAX_FORM_FIELDS} fields")
    for name, values in form.items():
        check_text(name, "name of a field", MAX_FORM_FIELD, 1)
        check_text(", ".join(values), "field", MAX_FORM_FIELD)
    return {name: ", ".join(values) for name, values in form.items()}


def _request(connection: sqlite3.Connection, repository: "Repository", key: str, value: str) -> Any:
    sql = f"SELECT * FROM access_requests WHERE repository = ? AND {key} = ?"
    return connection.execute(sql, (repository.id, value)).fetchone()


def _write(
    connection: sqlite3.Connection,
    repository: "Repository",
    user: str,
    status: str,
    fields: dict[str, str] | None,
) -> None:
    """A request with its status: a new one, or another status (and other fields, where given) for the one there is."""
    given, granted = json.dumps(fields or {}), int(fields is None)
    row = (secrets.token_hex(12), repository.id, user, status, timestamp(), given, granted)
    connection.execute(_WRITE, row)


def _describe(hub: "LocalHub", row: Any) -> dict[str, Any]:
    user = hub.users.get(row["user"])
    shown: dict[str, Any] = {"user": row["user"], "fullname": user.fullname if user else row["user"]}
    # The address is told by asking for access; who was granted it has told nobody anything.
    if user and user.email and not row["granted"]:
        shown["email"] = user.email
    found = {"requestId": row["id"], "user": shown, "status": row["status"], "timestamp": row["created"]}
    if fields := json.loads(row["fields"]):
        found["fields"] = fields
    if row["reason"]:
        found["rejectionReason"] = row["reason"]
    return found


_REQUESTS = "api/{type}/{namespace}/{name}/user-access-request"
ENDPOINTS = [
    *page_endpoints("POST", "/ask-access", ask),
    *(Endpoint("GET", f"{_REQUESTS}/{status}", list_requests, {"status": status}) for status in STATUSES),
    Endpoint("POST", f"{_REQUESTS}/handle", handle),
    Endpoint("POST", f"{_REQUESTS}/grant", grant),
]
