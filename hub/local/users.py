"""Users, organizations and tokens: `users.yaml` in the hub's folder, read again when it has changed.

orgs:
  - {name: team, fullname: The team, members: {alice: write, bob: read}}
users:
  - name: alice
    fullname: Alice
    email: alice@example.org
    admin: false            # true: may read and write everything
    tokens:
      - {name: laptop, token: hf_..., role: write}   # or read
"""

import hashlib
import hmac
import os
import secrets
import sys
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from hub.local.errors import LocalHubError
from hub.local.names import RESERVED, is_name

ROLES = ("read", "write", "admin")


@dataclass(frozen=True)
class User:
    """A user as one token lets him act.

    Args:
        name, fullname, email: of the user.
        orgs (`dict[str, str]`): his role (read, write or admin) by organization.
        admin (`bool`): whether he may read and write everything.
        role (`str`): of the token: read or write.
        token_name (`str`): the token's display name.
    """

    name: str
    fullname: str = ""
    email: str | None = None
    orgs: dict[str, str] = field(default_factory=dict)
    admin: bool = False
    role: str = "read"
    token_name: str = ""

    @property
    def id(self) -> str:
        """24 hexadecimal digits that stay the same for a name."""
        return hashlib.sha256(f"user {self.name}".encode()).hexdigest()[:24]


def may_write(user: User, namespace: str) -> bool:
    """Whether a user, by a token that may write, owns a namespace or writes for the organization of that name."""
    same = user.name.lower() == namespace.lower()
    roles = {name.lower(): role for name, role in user.orgs.items()}
    return user.role == "write" and (user.admin or same or roles.get(namespace.lower()) in ("write", "admin"))


def belongs(user: User, namespace: str) -> bool:
    """Whether a namespace is the user's own or of an organization he is in."""
    return user.admin or namespace.lower() in (user.name.lower(), *(name.lower() for name in user.orgs))


def write_users(path: Path, users: list[dict[str, Any]], orgs: list[dict[str, Any]] | None = None) -> None:
    """Write `users.yaml`, readable by its owner alone, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf8") as file:
        yaml.safe_dump({"orgs": orgs or [], "users": users}, file, sort_keys=False, allow_unicode=True)
    os.replace(part, path)


def make_users(path: Path) -> str:
    """Write a `users.yaml` with one user, admin, and one random token, which is returned to be shown once."""
    token = f"hf_{secrets.token_urlsafe(30)}"
    entry = {"name": "admin", "admin": True, "tokens": [{"name": "first", "token": token, "role": "write"}]}
    write_users(path, [entry])
    return token


class Users:
    """The users of a hub by name and by token.

    Raises:
        `LocalHubError`: where the file is missing or not as this module's docstring shows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._users: dict[str, User] = {}
        self._orgs: dict[str, str] = {}
        self._tokens: list[tuple[bytes, User]] = []
        self._refresh()

    def by_token(self, token: str) -> User | None:
        """The user whom a token stands for. Compares every token's hash, so that its time tells nothing."""
        self._refresh()
        asked, found = _digest(token), None
        for digest, user in self._tokens:
            if hmac.compare_digest(digest, asked):
                found = user
        return found

    def get(self, name: str) -> User | None:
        """The user of a name, in any case of letters; his role is read."""
        self._refresh()
        return self._users.get(name.lower())

    def org(self, name: str) -> str | None:
        """The full name of an organization, or None where there is none of that name."""
        self._refresh()
        return self._orgs.get(name.lower())

    def _refresh(self) -> None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            raise LocalHubError(f"{self.path}: no such file; start the server once to make one") from None
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp == self._stamp:
            return
        with self._lock:
            if found.st_mode & 0o077:
                self.path.chmod(0o600)
            try:
                self._users, self._orgs, self._tokens = _read(self.path)
            except LocalHubError as error:
                if self._stamp is None:
                    raise
                # A mistake made while the server runs locks nobody out: what was read before stays in force.
                print(f"hub: {error}; the users read before stay in force", file=sys.stderr)
            self._stamp = stamp


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf8", "replace")).digest()


def _read(path: Path) -> tuple[dict[str, User], dict[str, str], list[tuple[bytes, User]]]:
    def entries(table: Any, key: str, fields: set[str], where: str) -> list[dict[str, Any]]:
        found = table.get(key) or []
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            raise LocalHubError(f"{path}: {where}{key}: expected a list of mappings")
        for entry in found:
            if unknown := set(entry) - fields:
                raise LocalHubError(f"{path}: {where}{key}: unknown field {sorted(map(str, unknown))[0]!r}")
        return found

    try:
        table = yaml.safe_load(path.read_text("utf8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError):
        raise LocalHubError(f"{path}: not YAML") from None
    if not isinstance(table, dict):
        raise LocalHubError(f"{path}: expected a mapping with users and orgs")
    users: dict[str, User] = {}
    orgs: dict[str, str] = {}
    members: dict[str, dict[str, str]] = {}
    for entry in entries(table, "orgs", {"name", "fullname", "members"}, ""):
        name = _name(path, entry, {*orgs})
        orgs[name.lower()] = str(entry.get("fullname") or name)
        given = entry.get("members") or {}
        if not isinstance(given, dict):
            raise LocalHubError(f"{path}: orgs: {name}: members: expected a mapping of users to roles")
        for member, role in given.items():
            if role not in ROLES:
                raise LocalHubError(f"{path}: orgs: {name}: role {role!r}, expected read, write or admin")
            members.setdefault(str(member).lower(), {})[name] = role
    tokens: list[tuple[bytes, User]] = []
    for entry in entries(table, "users", {"name", "fullname", "email", "admin", "tokens"}, ""):
        name = _name(path, entry, {*orgs, *users})
        fullname, email = str(entry.get("fullname") or name), entry.get("email")
        user = User(name, fullname, email and str(email), members.pop(name.lower(), {}), entry.get("admin") is True)
        users[name.lower()] = user
        for token in entries(entry, "tokens", {"name", "token", "role"}, f"{name}: "):
            if not isinstance(token.get("token"), str) or len(token["token"]) < 8 or token.get("role") not in ROLES[:2]:
                raise LocalHubError(
                    f"{path}: {name}: tokens: expected a token of 8 characters or more, role read or write"
                )
            shown = str(token.get("name") or "token")
            tokens.append((_digest(token["token"]), replace(user, role=token["role"], token_name=shown)))
    if members:
        raise LocalHubError(f"{path}: orgs: no user is called {sorted(members)[0]!r}")
    if len({digest for digest, _ in tokens}) < len(tokens):
        raise LocalHubError(f"{path}: one token is given twice")
    return users, orgs, tokens


def _name(path: Path, entry: dict[str, Any], taken: set[str]) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not is_name(name) or name.lower() in RESERVED or name.lower() in taken:
        raise LocalHubError(f"{path}: name {name!r}: not a name, reserved, or given twice")
    return name
