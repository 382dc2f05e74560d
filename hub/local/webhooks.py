"""Webhooks (row 30): who is told what, and the payload as the Hub documents it. `deliveries.py` sends it.

An event is told to those who may read its repository at that moment and to nobody else. Whoever may keep a webhook can
make this server send POST requests to any address it reaches; users of a hub are trusted that far."""

import json
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hub.local.access import may_know
from hub.local.call import Call, answer
from hub.local.deliveries import Deliveries, Delivery
from hub.local.discussion_records import Discussion
from hub.local.discussion_records import Event as DiscussionEvent
from hub.local.errors import Refusal, bad_request, no_write
from hub.local.names import MAX_SECRET, MAX_WATCHED, MAX_WEBHOOK_URL, MAX_WEBHOOKS, PLURAL, check_text
from hub.local.routing import Endpoint
from hub.local.users import User

if TYPE_CHECKING:
    from starlette.responses import Response

    from hub.local.hub import Event, LocalHub, Repository

WEBHOOKS = """CREATE TABLE IF NOT EXISTS webhooks (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL COLLATE NOCASE, url TEXT NOT NULL, watched TEXT NOT NULL,
    domains TEXT NOT NULL, secret TEXT, disabled INTEGER NOT NULL DEFAULT 0)"""
DOMAINS = ("repo", "discussion")
WATCHED = ("model", "dataset", "space", "user", "org")
PAYLOAD_VERSION = 3


def attach(hub: "LocalHub", deliveries: Deliveries) -> None:
    """Have the hub's events delivered from now on."""
    hub.records.create(WEBHOOKS)

    def listen(event: "Event") -> None:
        for delivery in deliveries_of(hub, event):
            deliveries.add(delivery)

    hub.listeners.append(listen)


def deliveries_of(hub: "LocalHub", event: "Event") -> list[Delivery]:
    """What an event makes be sent: one delivery for each webhook that watches and whose owner may know of it."""
    repository: Repository = event["repository"]
    # As it is now: an event of settings tells of a repository that was made private with the record it had before.
    current = hub.get(repository.id) or repository
    domain = str(event["scope"]).partition(".")[0]
    payload: dict[str, Any] | None = None
    found = []
    for row in hub.records.all("SELECT * FROM webhooks WHERE NOT disabled ORDER BY rowid"):
        if domain not in json.loads(row["domains"]) or not _watches(json.loads(row["watched"]), repository):
            continue
        owner = hub.users.get(row["owner"])
        if owner is None or not may_know(current, owner):
            continue
        payload = payload or describe(hub, event, current)
        body = {**payload, "webhook": {"id": row["id"], "version": PAYLOAD_VERSION}}
        found.append(Delivery(row["id"], row["url"], row["secret"], json.dumps(body).encode()))
    return found


def describe(hub: "LocalHub", event: "Event", current: "Repository") -> dict[str, Any]:
    """The payload of an event, without the webhook's own part.

    Args:
        current (`Repository`): the repository's record as it is now; the event's own is as it was before.
    """
    moved = event["action"] == "move"
    repository: Repository = event["repository"] if moved else current
    page = f"{hub.origin}/{repository.page}"
    api = f"{hub.origin}/api/{PLURAL[repository.type]}/{repository.full_name}"
    repo: dict[str, Any] = {
        "type": repository.type,
        "name": repository.full_name,
        "id": repository.id,
        "private": repository.private,
        "url": {"web": page, "api": api},
        "owner": {"id": _user_id(hub, repository.namespace)},
    }
    scope = str(event["scope"])
    if scope.startswith("repo") and event["action"] != "delete":
        head = _head(hub, repository)
        repo |= {"headSha": head} if head else {}
    payload: dict[str, Any] = {"event": {"action": event["action"], "scope": scope}, "repo": repo}
    if moved:
        payload["movedTo"] = {"name": current.full_name, "owner": {"id": _user_id(hub, current.namespace)}}
    if scope == "repo.config":
        payload["updatedConfig"] = {"private": current.private}
    if "updatedRefs" in event:
        payload["updatedRefs"] = event["updatedRefs"]
    discussion: Discussion | None = event.get("discussion")
    if discussion is not None:
        payload["discussion"] = _describe_discussion(hub, discussion, page, api)
        comment: DiscussionEvent | None = event.get("comment")
        if comment is not None:
            payload["comment"] = {
                "id": comment.id,
                "author": {"id": _user_id(hub, comment.author)},
                "content": comment.data["raw"],
                "hidden": comment.data["hidden"],
                "url": {"web": f"{page}/discussions/{discussion.num}#{comment.id}"},
            }
    return payload


def _describe_discussion(hub: "LocalHub", discussion: Discussion, page: str, api: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": discussion.id,
        "title": discussion.title,
        "url": {"web": f"{page}/discussions/{discussion.num}", "api": f"{api}/discussions/{discussion.num}"},
        "status": discussion.status,
        "author": {"id": _user_id(hub, discussion.author)},
        "num": discussion.num,
        "isPullRequest": discussion.is_pull_request,
    }
    if discussion.base:
        merged = {"mergeCommitId": discussion.merge_commit} if discussion.merge_commit else {}
        found["changes"] = {"base": discussion.base, **merged}
    return found


def _head(hub: "LocalHub", repository: "Repository") -> str | None:
    try:
        return hub.git(repository).reference("refs/heads/main")
    except Refusal:
        return None  # deleted meanwhile


def _user_id(hub: "LocalHub", name: str) -> str:
    return (hub.users.get(name) or User(name)).id


def _watches(watched: list[dict[str, str]], repository: "Repository") -> bool:
    name, namespace = repository.full_name.lower(), repository.namespace.lower()
    return any(
        item["name"].lower() == (namespace if item["type"] in ("user", "org") else name)
        for item in watched
        if item["type"] in ("user", "org", repository.type)
    )


# Endpoints. A webhook is its owner's alone: for everybody else there is none of that id.


def list_webhooks(call: Call) -> "Response":
    """GET /api/settings/webhooks."""
    user = _owner(call)
    rows = call.hub.records.all("SELECT * FROM webhooks WHERE owner = ? ORDER BY rowid", user.name)
    return answer([_describe(row) for row in rows])


def create(call: Call) -> "Response":
    """POST /api/settings/webhooks."""
    user, body = _owner(call), call.fields()
    values = {"watched": [], **_checked(body)}
    if "url" not in values:
        raise bad_request("Invalid url: expected an http or https URL")
    if not values["watched"]:
        raise bad_request("Invalid watched: expected one item or more")
    id_ = secrets.token_hex(12)
    with call.hub.records.transaction() as connection:
        (count,) = connection.execute("SELECT count(*) FROM webhooks WHERE owner = ?", (user.name,)).fetchone()
        if count >= MAX_WEBHOOKS:
            raise Refusal(403, f"Forbidden: at most {MAX_WEBHOOKS} webhooks a user")
        connection.execute(
            "INSERT INTO webhooks (id, owner, url, watched, domains, secret) VALUES (?, ?, ?, ?, ?, ?)",
            (
                id_,
                user.name,
                values["url"],
                json.dumps(values["watched"]),
                json.dumps(values.get("domains", DOMAINS)),
                values.get("secret"),
            ),
        )
    return answer({"webhook": _describe(_find(call, id_))})


def show(call: Call) -> "Response":
    """GET /api/settings/webhooks/{id}."""
    return answer({"webhook": _describe(_find(call))})


def update(call: Call) -> "Response":
    """POST /api/settings/webhooks/{id}: what is given replaces what was; the client sends an empty `watched` where
    it gives none."""
    id_, values = _find(call)["id"], _checked(call.fields())
    if not values.get("watched"):
        values.pop("watched", None)
    with call.hub.records.transaction() as connection:
        for name, value in values.items():
            stored = value if name in ("url", "secret") else json.dumps(value)
            connection.execute(f"UPDATE webhooks SET {name} = ? WHERE id = ?", (stored, id_))
    return show(call)


def switch(call: Call) -> "Response":
    """POST /api/settings/webhooks/{id}/enable and /disable."""
    row = _find(call)
    with call.hub.records.transaction() as connection:
        disabled = int(call.params["switch"] == "disable")
        connection.execute("UPDATE webhooks SET disabled = ? WHERE id = ?", (disabled, row["id"]))
    return show(call)


def delete(call: Call) -> "Response":
    """DELETE /api/settings/webhooks/{id}."""
    row = _find(call)
    with call.hub.records.transaction() as connection:
        connection.execute("DELETE FROM webhooks WHERE id = ?", (row["id"],))
    return answer({})


def _owner(call: Call) -> User:
    if call.user is None or call.user.role != "write":
        raise no_write(call.user)
    return call.user


def _find(call: Call, id_: str | None = None) -> Any:
    user, id_ = _owner(call), id_ or call.params["id"]
    row = call.hub.records.one("SELECT * FROM webhooks WHERE id = ? AND owner = ?", id_, user.name)
    if row is None:
        raise Refusal(404, "Webhook not found")
    return row


def _describe(row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "url": row["url"],
        "watched": json.loads(row["watched"]),
        "domains": json.loads(row["domains"]),
        "secret": row["secret"],
        "disabled": bool(row["disabled"]),
    }


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    """What a request gives of a webhook, checked: some of url, watched, domains, secret."""
    if unknown := set(body) - {"url", "watched", "domains", "secret"}:
        raise bad_request(f"Webhooks of this server take url, watched, domains and secret, not {len(unknown)} others")
    found: dict[str, Any] = {}
    if body.get("url") is not None:
        found["url"] = check_url(body["url"])
    if "watched" in body:
        found["watched"] = _check_watched(body["watched"])
    if body.get("domains") is not None:
        domains = body["domains"]
        if not isinstance(domains, list) or not domains or any(domain not in DOMAINS for domain in domains):
            raise bad_request(f"Invalid domains: expected some of {', '.join(DOMAINS)}")
        found["domains"] = [domain for domain in DOMAINS if domain in domains]
    if body.get("secret") is not None:
        secret = check_text(body["secret"], "secret", MAX_SECRET)
        if not secret.isascii() or not secret.isprintable() or secret != secret.strip():
            raise bad_request("Invalid secret: expected printable ASCII, which a header can carry")
        found["secret"] = secret or None
    return found


def _check_watched(value: object) -> list[dict[str, str]]:
    if not isinstance(value, list) or len(value) > MAX_WATCHED:
        raise bad_request(f"Invalid watched: expected a list of at most {MAX_WATCHED} items")
    found = []
    for item in value:
        if not isinstance(item, dict) or item.get("type") not in WATCHED:
            raise bad_request(f"Invalid watched: expected {{type, name}}, the type one of {', '.join(WATCHED)}")
        found.append({"type": item["type"], "name": check_text(item.get("name"), "name of what is watched", 200, 1)})
    return found


def check_url(value: object) -> str:
    """An URL that may be delivered to: http or https, with a host, in printable ASCII, without a user or a fragment.

    Raises:
        `Refusal`: 400 where it is none.
    """
    url = check_text(value, "url", MAX_WEBHOOK_URL, 1)
    fault = bad_request("Invalid url: expected an http or https URL in ASCII, without user, blanks or fragment")
    if not url.isascii() or not url.isprintable() or any(c in url for c in ' "<>\\^`{|}#'):
        raise fault
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise fault from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or port == 0:
        raise fault
    return url


_ALL = "api/settings/webhooks"
ENDPOINTS = [
    Endpoint("GET", _ALL, list_webhooks),
    Endpoint("POST", _ALL, create),
    Endpoint("GET", f"{_ALL}/{{id}}", show),
    Endpoint("POST", f"{_ALL}/{{id}}", update),
    Endpoint("DELETE", f"{_ALL}/{{id}}", delete),
    Endpoint("POST", f"{_ALL}/{{id}}/enable", switch, {"switch": "enable"}),
    Endpoint("POST", f"{_ALL}/{{id}}/disable", switch, {"switch": "disable"}),
]
