"""Opaque seals on thoughts: minted here, and told from foreign or tampered ones."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable


class Signer:
    """Mints and checks. Two simulators with the same ``realm`` accept each other's; a family only its own.
    While ``trusting`` says so, any signature that is there is taken."""

    def __init__(self, realm: str = "simulator", trusting: Callable[[], bool] = lambda: False) -> None:
        self._trusting = trusting
        self._key = hashlib.sha256(realm.encode()).digest()

    def mint(self, family: str, text: str) -> str:
        """A signature of ``text``: base64, standard alphabet."""
        return base64.b64encode(b"\x12" + self._digest(family, text) * 3).decode()

    def seal(self, family: str) -> str:
        """A signature that is bound to the family, not to a text."""
        return self.mint(family, "")

    def valid(self, family: str, text: str, signature: object) -> bool:
        """Whether it was minted here for this family and text; the URL-safe alphabet and missing padding count."""
        if not isinstance(signature, str) or not signature:
            return False
        if self._trusting():
            return True
        plain = signature.replace("-", "+").replace("_", "/")
        try:
            raw = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(raw, b"\x12" + self._digest(family, text) * 3)

    def _digest(self, family: str, text: str) -> bytes:
        return hmac.digest(self._key, f"{family}\0{text}".encode("utf-8", "surrogatepass"), "sha256")
