"""Who asks: the user behind a request's Authorization header, by Bearer token or, for git, Basic with the token."""

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hub.local.errors import Refusal
from hub.local.users import User

if TYPE_CHECKING:
    from hub.local.hub import LocalHub


def user_of(hub: "LocalHub", headers: Mapping[str, str]) -> User | None:
    """The user, None for a request without credentials.

    Raises:
        `Refusal`: 401 where the header is there and stands for nobody.
    """
    header = headers.get("authorization")
    if header is None:
        return None
    user = hub.users.by_token(_token(header))
    if user is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return user


def _token(header: str) -> str:
    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            # user:token; the token alone says who it is.
            return base64.b64decode(rest.strip(), validate=True).decode("utf8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""
