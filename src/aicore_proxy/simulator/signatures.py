"""Opaque seals on thoughts: minted here, and told from tampered and foreign ones.

Claude's signatures hold on every platform, so one of a recorded conversation may be good though it was not minted here.
Refused is what can be told to be wrong: no base64, too short for a signature, one minted here for another family or
text, or altered, or wrapped in something else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable

SHORTEST = 12
"""Bytes of a signature that may be somebody else's."""
_DIGEST = 32
_LONG = re.compile(rb"[A-Za-z0-9+/_-]{100,}={0,2}")


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
        """Whether it was minted here for this family and text (the URL-safe alphabet and missing padding count), or may
        have been minted elsewhere."""
        if not isinstance(signature, str) or not signature:
            return False
        if self._trusting():
            return True
        raw = _decoded(signature)
        if raw is None:
            return False
        if hmac.compare_digest(raw, b"\x12" + self._digest(family, text) * 3):
            return True
        return len(raw) >= SHORTEST and not _ours(raw) and not _wraps(raw)

    def _digest(self, family: str, text: str) -> bytes:
        return hmac.digest(self._key, f"{family}\0{text}".encode("utf-8", "surrogatepass"), "sha256")


def _decoded(signature: str) -> bytes | None:
    plain = signature.replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _ours(raw: bytes) -> bool:
    """Whether it is one that was minted here, altered or not: the same digest three times, so two are alike."""
    return len(raw) > 2 * _DIGEST and len({raw[at : at + _DIGEST] for at in (1, 1 + _DIGEST, 1 + 2 * _DIGEST)}) < 3


def _wraps(raw: bytes) -> bool:
    """Whether one that was minted here stands in it, as when a proxy marks whose it is."""
    inner = (_decoded(run.decode()) for run in _LONG.findall(raw))
    return any(found is not None and _ours(found) for found in inner)
