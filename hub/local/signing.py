"""Signed tokens: what a URL without credentials may do, for whom and until when (HMAC-SHA256 over JSON)."""

import base64
import binascii
import hashlib
import hmac
import json
import time
from typing import Any

from hub.local.errors import Refusal


class Signer:
    """Signs and opens tokens with the hub's key (32 random bytes that stay in its records)."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, purpose: str, claims: dict[str, Any], seconds: float) -> str:
        """A token of URL-safe characters.

        Args:
            purpose (`str`): what it is for; a token of another purpose opens nothing.
            claims (`dict`): what it is bound to (JSON values).
            seconds (`float`): how long it opens something.
        """
        body = json.dumps({**claims, "for": purpose, "until": int(time.time() + seconds)}, separators=(",", ":"))
        text = base64.urlsafe_b64encode(body.encode()).rstrip(b"=").decode()
        return f"{text}.{self._mac(text)}"

    def open(self, purpose: str, token: str | None) -> dict[str, Any]:
        """The claims of a token.

        Raises:
            `Refusal`: 403 where it was not signed here, is for something else, or its time is over.
        """
        text, _, mac = (token or "").partition(".")
        if not text.isascii() or not mac.isascii() or not hmac.compare_digest(mac, self._mac(text)):
            raise Refusal(403, "Invalid signature")
        try:
            claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except (binascii.Error, ValueError):
            raise Refusal(403, "Invalid signature") from None
        if claims.get("for") != purpose or claims.get("until", 0) < time.time():
            raise Refusal(403, "The signed URL is for something else or has expired")
        return claims

    def _mac(self, text: str) -> str:
        return hmac.new(self._key, text.encode("ascii"), hashlib.sha256).hexdigest()
