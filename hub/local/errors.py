"""What the server refuses and how it says so: status, message and code of the Hub's error table."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub.local.users import User


class LocalHubError(Exception):
    """The server cannot start or its folder is not as it should be: one line that names the file and the way out."""


class Refusal(Exception):
    """An answer that is not a success. It becomes `{"error": message}` with X-Error-Message and X-Error-Code.

    Args:
        status (`int`): HTTP status, 4xx or 5xx.
        message (`str`): one line for the caller. It never holds what the caller may not know.
        code (`str`, *optional*): the Hub's name for the error, by which the client chooses its exception.
        headers (`dict`, *optional*): further headers.
        body (`dict`, *optional*): further fields of the JSON body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: dict[str, str] | None = None,
        body: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers or {}
        self.body = body or {}


def repository_not_found(user: "User | None") -> Refusal:
    """The one answer for a repository that is missing and for one that the caller may not know of."""
    return Refusal(404 if user else 401, "Repository not found", "RepoNotFound")


def revision_not_found(revision: str) -> Refusal:
    """No branch, tag, reference or commit of that name."""
    return Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(path: str, commit: str | None = None) -> Refusal:
    """No file of that path; the commit lets the client's cache remember it."""
    headers = {"X-Repo-Commit": commit} if commit else {}
    return Refusal(404, f"Entry not found: {path}", "EntryNotFound", headers)


def gated(user: "User | None", name: str) -> Refusal:
    """The repository may be seen, its content only by those who were given access."""
    if user is None:
        said = f"Access to {name} is restricted. You must be authenticated and have access to it."
        return Refusal(401, said, "GatedRepo")
    return Refusal(403, f"Access to {name} is restricted and you are not in the authorized list.", "GatedRepo")


def no_write(user: "User | None") -> Refusal:
    """The repository may be read, not written."""
    if user is None:
        return Refusal(401, "Invalid username or password.")
    if user.role != "write":
        return Refusal(403, "Forbidden: this token may only read; a token with the role write is needed")
    return Refusal(403, "Forbidden: you have no write access to this repository")


def bad_request(message: str) -> Refusal:
    """What was sent is not what this endpoint takes."""
    return Refusal(400, message)
