"""Opaque tokens with provenance: a seal of one model family travels through clients of another dialect unharmed.

Towards an upstream an encoder writes a seal only if its own family minted it (:func:`native`). Towards a client every
seal is written (:func:`carried`): the dialect's own as it is, a foreign one as the base64 of ``aicp1.<family>.<value>``
(so it always begins with ``YWljcDEu``), which the client returns and :func:`restore` unwraps. Base64 as a whole, since
Gemini clients decode the slot and send it back in the URL-safe alphabet.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from aicore_proxy.protocol.neutral import Family, Seal

PREFIX = "aicp1."
WRAPPED = "YWljcDEu"
"""How every wrapped seal begins, in both base64 alphabets."""

Sealer = Callable[[Seal | None], str | None]
"""Gives the wire value for a seal, or None where it must be left out."""


def native(family: Family) -> Sealer:
    """A sealer towards an upstream of ``family``: its own seals as they are, all others left out."""

    def write(seal: Seal | None) -> str | None:
        return seal.value if seal is not None and seal.family == family else None

    return write


def carried(family: Family) -> Sealer:
    """A sealer towards a client whose dialect is at home with ``family``: foreign seals wrapped."""

    def write(seal: Seal | None) -> str | None:
        if seal is None:
            return None
        return seal.value if seal.family == family else wrap(seal)

    return write


def wrap(seal: Seal) -> str:
    """The form in which a foreign seal travels through a client."""
    return base64.b64encode(f"{PREFIX}{seal.family}.{seal.value}".encode()).decode()


def restore(value: str | None, family: Family) -> Seal | None:
    """The seal in a slot of a dialect at home with ``family``: unwrapped if ours, else ``family``'s own."""
    if not value:
        return None
    if value.startswith(WRAPPED):
        try:
            padded = value + "=" * (-len(value) % 4)
            text = base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True).decode()
        except ValueError:  # no base64, no ASCII, no UTF-8
            return Seal(family, value)
        owner, _, minted = text.removeprefix(PREFIX).partition(".")
        return Seal(owner, minted)
    return Seal(family, value)
