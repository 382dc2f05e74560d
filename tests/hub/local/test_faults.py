"""Faults on order: they meet the requests they name, so often and no oftener; the log says what was asked."""

import http.client
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hub.local.errors import LocalHubError
from hub.local.faults import read_faults
from hub.local.process import start


def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request("GET", parts.path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_faults_are_played_as_often_as_ordered_and_the_log_tells(tmp_path: Path) -> None:
    order, log = tmp_path / "faults.json", tmp_path / "requests.jsonl"
    order.write_text(json.dumps([{"method": "GET", "path": "whoami", "status": 503, "times": 2}]))
    users: list[dict[str, Any]] = [{"name": "alice", "tokens": [{"token": "hf_alice", "role": "write"}]}]
    options = ["--faults", str(order), "--request-log", str(log)]
    with start(tmp_path / "hub", users=users, options=options) as server:
        url = f"{server.url}/api/whoami-v2"
        sent = {"Authorization": "Bearer hf_alice"}
        assert [get(url, sent)[0] for _ in range(3)] == [503, 503, 200]
        part = tmp_path / "next.json"
        part.write_text(json.dumps([{"path": "^/api/whoami-v2$", "truncate": 10}]))
        os.replace(part, order)
        with pytest.raises(http.client.IncompleteRead) as broken:
            get(url, sent)
        assert len(broken.value.partial) == 10
        assert get(url, {"Range": "bytes=0-4"})[0] == 401
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    asked = {"method": "GET", "path": "/api/whoami-v2"}
    assert [line["status"] for line in lines] == [503, 503, 200, 200, 401]
    assert lines[0] == {**asked, "status": 503} and lines[-1] == {**asked, "status": 401, "range": "bytes=0-4"}
    assert "hf_alice" not in log.read_text()


def test_a_server_without_the_option_has_no_faults(tmp_path: Path) -> None:
    (tmp_path / "faults.json").write_text(json.dumps([{"path": ".", "status": 503, "times": 9}]))
    with start(tmp_path) as server:
        assert get(f"{server.url}/api/whoami-v2")[0] == 401


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({}, "expected a list"),
        ([{"path": "("}], "fault 0"),
        ([{"status": 500}], "fault 0"),
        ([{"path": "a"}], "one of status and truncate"),
        ([{"path": "a", "status": 200}], "within 400 to 599"),
        ([{"path": "a", "status": 500, "truncate": 1}], "one of status and truncate"),
        ([{"path": "a", "truncate": -1}], "below 0"),
        ([{"path": "a", "status": "503"}], "whole numbers"),
        ([{"path": "a", "status": 503, "often": 1}], "often"),
    ],
)
def test_a_wrong_list_is_refused_with_its_entry(tmp_path: Path, entries: Any, said: str) -> None:
    (tmp_path / "faults.json").write_text(json.dumps(entries))
    with pytest.raises(LocalHubError, match=said):
        read_faults(tmp_path / "faults.json")
