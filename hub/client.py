"""What push and pull share in talking to a Hub: names, trees, and errors in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hub.folders import LocalFile
from recipes import RecipeError


class HubError(RecipeError):
    """The Hub refused, or holds something else than was expected."""


def check_name(name: str) -> str:
    """`name` if it is of the form org/name.

    Raises:
        `HubError`: where it is not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise HubError(f"{name!r}: not a repository's name: {error}") from None
    if name.count("/") != 1:
        raise HubError(f"{name!r}: not a repository's name, expected org/name")
    return name


def status_of(error: Exception) -> int | None:
    """The HTTP status behind an error of the client, or None."""
    return getattr(getattr(error, "response", None), "status_code", None)


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turn the client's errors into a `HubError` of one line that begins with `what`."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    try:
        yield
    except HfHubHTTPError as error:
        status = status_of(error)
        hint = {401: "; log in by `hf auth login`", 403: "; your token may not do this, or access is not granted yet"}
        said = _printable(getattr(error, "server_message", None) or str(error))
        raise HubError(f"{what}: the Hub answered {status}: {said}{hint.get(status or 0, '')}") from None
    except LocalTokenNotFoundError:
        raise HubError(f"{what}: no token; log in by `hf auth login`") from None
    except (httpx.TransportError, OfflineModeIsEnabled, ConnectionError) as error:
        raise HubError(f"{what}: the Hub cannot be reached: {_printable(str(error))}") from None
    except RuntimeError as error:
        # So the client says that a transfer failed, over LFS (the cause is its own error) as over Xet.
        if not _is_of_the_client(error):
            raise
        said = _printable(str(error.__cause__ or error))
        raise HubError(f"{what}: the transfer broke off: {said}; run the same command again") from None


def _is_of_the_client(error: BaseException) -> bool:
    """Whether an error was raised by the client's own code, or by what it calls that is no Python."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("huggingface_hub.")


def _printable(text: str) -> str:
    """The last line of what a Hub said, without control characters."""
    lines = text.strip().splitlines() or ["no reason given"]
    return "".join(letter if letter.isprintable() else " " for letter in lines[-1])


def read_tree(api: Any, name: str, repo_type: str, revision: str) -> dict[str, Any]:
    """The files of a repository at a revision: `huggingface_hub.RepoFile` by path."""
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(name, recursive=True, revision=revision, repo_type=repo_type)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def content_id(remote: Any) -> str:
    """The checksum by which a Hub names a file: sha256 of an LFS file, git's blob id of any other."""
    return str(remote.lfs.sha256) if remote.lfs else str(remote.blob_id)


def is_same(local: LocalFile, remote: Any) -> bool:
    """Whether a local file and a `RepoFile` have the same content."""
    return content_id(remote) == (local.sha256 if remote.lfs else local.blob)
