"""One module per SAP executable: which dialect it speaks, its paths, headers and body amendments. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.neutral import Encoded, Loss


class Ask(Struct, frozen=True):
    """What is wanted of a deployment. ``betas``: values of the client's ``anthropic-beta`` header, in order, once
    each; ``refused``: flags that the deployment has refused."""

    stream: bool = False
    betas: tuple[str, ...] = ()
    refused: frozenset[str] = frozenset()


class Prepared(Struct, frozen=True):
    """A request as a deployment takes it. ``path`` is appended to the deployment's URL, query included;
    ``headers`` beside Authorization, AI-Resource-Group and Content-Type. ``betas``: flags that stand in the body."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    losses: tuple[Loss, ...] = ()
    betas: tuple[str, ...] = ()


class Backend(Protocol):
    """How to ask one executable. ``dialect``: what it speaks."""

    @property
    def dialect(self) -> str: ...

    def read_ahead(self, envelope: Envelope) -> Iterator[None]:
        """What :meth:`relayed` will have to read of a large body, in steps between which others can have their turn.
        Raises Fault(MALFORMED) as it does."""
        ...

    def relayed(self, envelope: Envelope, deployment: Deployment, ask: Ask) -> Prepared:
        """The client's own bytes, edited only where SAP demands it."""
        ...

    def translated(self, encoded: Encoded, deployment: Deployment, ask: Ask) -> Prepared:
        """A body that this dialect's encoder wrote, with what SAP demands."""
        ...
