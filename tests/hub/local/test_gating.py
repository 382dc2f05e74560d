"""Access to gated repositories: asked for as a browser does, decided by the stock client."""

from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import get_session, httpx

from hub.local import gating
from hub.local.process import Running
from tests.hub.local.serving import client, status_of

KIND: Any = {"repo_type": "dataset"}
New = Callable[..., str]


def _ask(server: Running, name: str, who: str | None, fields: dict[str, str] | None = None) -> httpx.Response:
    headers = {"authorization": f"Bearer hf_{who}_token"} if who else {}
    return get_session().post(f"{server.url}/datasets/{name}/ask-access", headers=headers, data=fields or {})


def _may_read(server: Running, name: str, who: str | None) -> bool:
    try:
        client(server, who).auth_check(name, **KIND)
    except GatedRepoError:
        return False
    return True


def _names(requests: Any) -> list[str]:
    return [request.username for request in requests]


def test_a_request_is_accepted_rejected_and_cancelled(server: Running, new_repository: New) -> None:
    name, writer = new_repository(gated="manual"), client(server, "writer")
    assert not _may_read(server, name, "stranger")
    asked = _ask(server, name, "stranger", {"Affiliation": "A school", "I agree": "on"})
    assert (asked.status_code, asked.json()) == (200, {"status": "pending"})
    assert not _may_read(server, name, "stranger")
    (request,) = writer.list_pending_access_requests(name, **KIND)
    assert (request.username, request.fullname, request.status) == ("stranger", "stranger", "pending")
    assert request.email == "stranger@example.org"
    assert request.fields == {"Affiliation": "A school", "I agree": "on"}

    writer.accept_access_request(name, "stranger", **KIND)
    assert _may_read(server, name, "stranger")
    assert _names(writer.list_accepted_access_requests(name, **KIND)) == ["stranger"]

    writer.reject_access_request(name, "stranger", rejection_reason="Not this time", **KIND)
    assert not _may_read(server, name, "stranger")
    assert _names(writer.list_rejected_access_requests(name, **KIND)) == ["stranger"]
    again = _ask(server, name, "stranger")
    assert again.status_code == 403 and not _may_read(server, name, "stranger")

    writer.cancel_access_request(name, request_id=request.request_id, **KIND)
    assert _names(writer.list_pending_access_requests(name, **KIND)) == ["stranger"]
    assert _names(writer.list_rejected_access_requests(name, **KIND)) == []
    assert not _may_read(server, name, "stranger")


def test_automatic_gating_accepts_at_once(server: Running, new_repository: New) -> None:
    name = new_repository(gated="auto")
    assert not _may_read(server, name, "stranger")
    assert _ask(server, name, "stranger").json() == {"status": "accepted"}
    assert _may_read(server, name, "stranger") and not _may_read(server, name, "author")
    assert _names(client(server, "owner").list_accepted_access_requests(name, **KIND)) == ["stranger"]


def test_access_is_to_files_by_every_way(server: Running, new_repository: New) -> None:
    name, stranger = new_repository(gated="manual"), client(server, "stranger")
    writer = client(server, "writer")
    writer.create_commit(name, [CommitOperationAdd("a.txt", b"x")], commit_message="Add", **KIND)
    url = f"{server.url}/datasets/{name}/resolve/main/a.txt"
    headers = {"authorization": "Bearer hf_stranger_token"}
    assert get_session().get(url, headers=headers).status_code == 403
    assert get_session().get(url).status_code == 401
    writer.grant_access(name, "stranger", **KIND)
    assert get_session().get(url, headers=headers).content == b"x"
    assert get_session().get(url).status_code == 401
    assert stranger.repo_info(name, **KIND).gated == "manual"


def test_granting_needs_no_request_and_tells_no_address(server: Running, new_repository: New) -> None:
    name, writer = new_repository(gated="manual"), client(server, "writer")
    writer.grant_access(name, "stranger", **KIND)
    assert _may_read(server, name, "stranger")
    (request,) = writer.list_accepted_access_requests(name, **KIND)
    assert (request.username, request.email, request.fields) == ("stranger", None, None)
    writer.cancel_access_request(name, "stranger", **KIND)
    _ask(server, name, "stranger", {"Affiliation": "A school"})
    (request,) = writer.list_pending_access_requests(name, **KIND)
    assert (request.email, request.fields) == ("stranger@example.org", {"Affiliation": "A school"})
    writer.grant_access(name, "stranger", **KIND)
    (request,) = writer.list_accepted_access_requests(name, **KIND)
    assert request.fields == {"Affiliation": "A school"} and request.email == "stranger@example.org"


def _refused(call: Callable[[], object]) -> int:
    with pytest.raises(HfHubHTTPError) as refused:
        call()
    return status_of(refused.value)


def test_statuses_are_those_that_the_client_documents(server: Running, new_repository: New) -> None:
    name, writer = new_repository(gated="manual"), client(server, "writer")
    _ask(server, name, "stranger")
    assert _refused(lambda: writer.cancel_access_request(name, "stranger", **KIND)) == 404
    assert _refused(lambda: writer.accept_access_request(name, "nobody", **KIND)) == 404
    assert _refused(lambda: writer.accept_access_request(name, "author", **KIND)) == 404
    assert _refused(lambda: writer.accept_access_request(name, request_id="0" * 24, **KIND)) == 404
    assert _refused(lambda: writer.grant_access(name, "nobody", **KIND)) == 404
    writer.accept_access_request(name, "stranger", **KIND)
    assert _refused(lambda: writer.accept_access_request(name, "stranger", **KIND)) == 404
    assert _refused(lambda: writer.grant_access(name, "stranger", **KIND)) == 400
    assert _refused(lambda: writer.grant_access(name, "owner", **KIND)) == 400
    reason = "x" * 201
    assert _refused(lambda: writer.reject_access_request(name, "stranger", rejection_reason=reason, **KIND)) == 400
    assert _may_read(server, name, "stranger")


def test_a_repository_that_is_not_gated_says_so(server: Running, new_repository: New) -> None:
    name, writer = new_repository(), client(server, "writer")
    assert _refused(lambda: list(writer.list_pending_access_requests(name, **KIND))) == 400
    assert _refused(lambda: writer.accept_access_request(name, "stranger", **KIND)) == 400
    assert _refused(lambda: writer.grant_access(name, "stranger", **KIND)) == 400
    assert _ask(server, name, "stranger").status_code == 400


def test_who_has_access_need_not_ask(server: Running, new_repository: New) -> None:
    name = new_repository(gated="manual")
    for who in ("owner", "writer", "reader"):
        assert _may_read(server, name, who) and _ask(server, name, who).status_code == 400
    assert _ask(server, name, None).status_code == 401
    assert _names(client(server, "owner").list_pending_access_requests(name, **KIND)) == []


_DECISIONS: dict[str, Callable[[HfApi, str], object]] = {
    "pending": lambda api, name: list(api.list_pending_access_requests(name, **KIND)),
    "accepted": lambda api, name: list(api.list_accepted_access_requests(name, **KIND)),
    "rejected": lambda api, name: list(api.list_rejected_access_requests(name, **KIND)),
    "accept": lambda api, name: api.accept_access_request(name, "stranger", **KIND),
    "grant": lambda api, name: api.grant_access(name, "stranger", **KIND),
}


@pytest.mark.parametrize("decision", _DECISIONS)
def test_only_a_writer_decides(server: Running, new_repository: New, decision: str) -> None:
    name = new_repository(gated="manual")
    _ask(server, name, "stranger")
    for who, read_only, status in (
        (None, False, 401),
        ("stranger", False, 403),
        ("reader", False, 403),
        ("owner", True, 403),
    ):
        api = client(server, who, read_only)
        assert _refused(lambda api=api: _DECISIONS[decision](api, name)) == status
    assert not _may_read(server, name, "stranger")
    _DECISIONS[decision](client(server, "writer"), name)


@pytest.mark.parametrize("decision", _DECISIONS)
def test_a_private_repository_is_not_told_of(server: Running, new_repository: New, decision: str) -> None:
    name = new_repository(private=True, gated="auto")
    with pytest.raises(RepositoryNotFoundError) as refused:
        _DECISIONS[decision](client(server, "stranger"), name)
    assert status_of(refused.value) == 404
    assert _ask(server, name, "stranger").json() == _ask(server, "team/not-there", "stranger").json()
    assert _ask(server, name, "stranger").status_code == 404


@pytest.mark.parametrize(
    "fields",
    [
        {f"field {number}": "x" for number in range(gating.MAX_FORM_FIELDS + 1)},
        {"field": "x" * (gating.MAX_FORM_FIELD + 1)},
        {"x" * (gating.MAX_FORM_FIELD + 1): "x"},
        {"field": "a\x00b"},
        {"": "x"},
    ],
    ids=["many", "long", "long name", "NUL", "no name"],
)
def test_a_form_is_bounded(server: Running, new_repository: New, fields: dict[str, str]) -> None:
    name = new_repository(gated="auto")
    assert _ask(server, name, "stranger", fields).status_code == 400
    assert not _may_read(server, name, "stranger")


@pytest.mark.parametrize(
    "body",
    [
        {"status": "accepted"},
        {"user": "stranger", "requestId": "0" * 24, "status": "accepted"},
        {"user": "stranger", "status": "granted"},
        {"user": "stranger"},
        {"user": ["stranger"], "status": "accepted"},
        {"user": "stranger", "status": ["accepted"]},
        {"user": "stranger", "status": "accepted", "rejectionReason": "x"},
        [],
    ],
    ids=str,
)
def test_a_decision_that_is_none_is_refused(server: Running, new_repository: New, body: object) -> None:
    name = new_repository(gated="manual")
    _ask(server, name, "stranger")
    response = get_session().post(
        f"{server.url}/api/datasets/{name}/user-access-request/handle",
        headers={"authorization": "Bearer hf_writer_token"},
        json=body,
    )
    assert response.status_code == 400
    assert _names(client(server, "writer").list_pending_access_requests(name, **KIND)) == ["stranger"]
