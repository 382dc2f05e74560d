"""users.yaml: what it may hold, who may read it, and what a mistake in it does."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub.local.errors import LocalHubError
from hub.local.users import Users, belongs, make_users, may_write, write_users

TOKENS = [{"name": "t", "token": "hf_alice_token", "role": "write"}]
ALICE = {"name": "Alice", "tokens": TOKENS}
BOB = {"name": "bob", "tokens": [{"name": "t", "token": "hf_bob_token", "role": "write"}]}


def users(path: Path, entries: list[dict[str, Any]], orgs: list[dict[str, Any]] | None = None) -> Users:
    write_users(path / "users.yaml", entries, orgs)
    return Users(path / "users.yaml")


def test_a_token_stands_for_its_user_and_role(tmp_path: Path) -> None:
    found = users(tmp_path, [ALICE, BOB], [{"name": "team", "members": {"alice": "admin", "bob": "read"}}])
    alice, bob = found.by_token("hf_alice_token"), found.by_token("hf_bob_token")
    assert alice and bob and (alice.name, alice.role, alice.orgs) == ("Alice", "write", {"team": "admin"})
    assert may_write(alice, "TEAM") and may_write(alice, "alice") and not may_write(alice, "bob")
    assert belongs(bob, "team") and not may_write(bob, "team") and not belongs(bob, "Alice")
    known = found.get("ALICE")
    assert known and known.role == "read", "a user without his token may write nothing"
    assert found.by_token("hf_alice_toke") is None and found.by_token("") is None and found.by_token("\ud800") is None


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "users.yaml"
    token = make_users(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    found = Users(path).by_token(token)
    assert found and found.admin and found.role == "write"
    assert path.stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other.yaml"
    assert make_users(other) != token


def test_a_change_counts_at_once_and_a_mistake_locks_nobody_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = users(tmp_path, [ALICE])
    write_users(tmp_path / "users.yaml", [BOB])
    assert found.by_token("hf_alice_token") is None and found.by_token("hf_bob_token")
    (tmp_path / "users.yaml").write_text("users: [")
    assert found.by_token("hf_bob_token")
    said = capsys.readouterr().err
    assert "not YAML" in said and "hf_" not in said
    write_users(tmp_path / "users.yaml", [ALICE])
    assert found.by_token("hf_alice_token")


BAD = {
    "no mapping": "- a",
    "no YAML": "users: [",
    "no list": "users: {name: a}",
    "an unknown field": "users: [{name: a, password: b}]",
    "a bad name": "users: [{name: 'a b'}]",
    "a reserved name": "users: [{name: datasets}]",
    "a name given twice": "users: [{name: a}, {name: A}]",
    "an organization's name": "orgs: [{name: a}]\nusers: [{name: a}]",
    "a short token": "users: [{name: a, tokens: [{token: hf, role: read}]}]",
    "a token given twice": yaml.safe_dump({"users": [ALICE, {"name": "b", "tokens": TOKENS}]}),
    "a role there is not": "users: [{name: a, tokens: [{token: hf_long_enough, role: admin}]}]",
    "a member's role there is not": "orgs: [{name: o, members: {a: king}}]\nusers: [{name: a}]",
    "a member there is not": "orgs: [{name: o, members: {a: read}}]",
    "members that are no mapping": "orgs: [{name: o, members: [a]}]\nusers: [{name: a}]",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_mistake_is_one_line_that_names_the_file_and_no_token(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "users.yaml"
    path.write_text(BAD[kind])
    with pytest.raises(LocalHubError) as error:
        Users(path)
    said = str(error.value)
    assert said.startswith(str(path)) and "\n" not in said and "hf_" not in said


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LocalHubError, match="no such file"):
        Users(tmp_path / "users.yaml")


def test_a_file_swapped_for_one_of_the_same_size_and_time_is_read_again(tmp_path: Path) -> None:
    found = users(tmp_path, [ALICE])
    path = tmp_path / "users.yaml"
    before = path.stat()
    write_users(path, [{**ALICE, "tokens": [{"name": "t", "token": "hf_clara_token", "role": "write"}]}])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found.by_token("hf_clara_token") and found.by_token("hf_alice_token") is None
