"""One request on its way: what was asked, by whom, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from msgspec import Struct

from aicore_proxy.gateway.keys import Caller
from aicore_proxy.gateway.seals import SealKeeper
from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.dialects import Decoding, Dialect
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import Loss, Request, Usage
from aicore_proxy.routing.affinity import WARM
from aicore_proxy.routing.health import Permit
from aicore_proxy.routing.outcome import Outcome
from aicore_proxy.routing.router import Plan


class Attempt(Struct):
    """One try at one deployment. Times in monotonic seconds. ``first_byte`` 0: none came."""

    deployment: Deployment
    number: int
    started: float
    first_byte: float = 0.0
    outcome: Outcome | None = None
    reason: str = ""
    losses: tuple[Loss, ...] = ()
    taught: tuple[str, ...] = ()
    """What the deployment said that it does not take, and was asked again without."""
    relayed: bool = True
    permit: Permit | None = None
    warm: bool | None = None
    """Whether the deployment held the conversation's prefix; None: the request belongs to none."""
    edge: bool = False
    """It failed on the way to the deployment."""
    missing: bool = False
    """SAP said that the deployment is not there, or not for us."""
    no_token: bool = False
    """SAP gave no token for it."""
    kind: str = ""
    """The kind of the Fault that it ended in."""
    usage: Usage | None = None
    """The tokens that the upstream counted, so far as it told them."""
    first_content: float = 0.0
    last_content: float = 0.0
    """Of a stream: when its first content came, and its last so far. 0: none came."""
    events: int = 0
    """Frames of a stream that were sent to the client."""
    ended: float = 0.0


class Planned(Struct, frozen=True):
    """A plan, and when it was made: monotonic seconds."""

    at: float
    plan: Plan


class Fallback(Struct, frozen=True):
    """Another model that may answer instead."""

    model: str
    deployments: tuple[Deployment, ...]


class Call:
    """One model call. Owned by the task that handles the request; its attempts are appended as they are made.

    ``model``: as the client named it; ``sap_model``: what that resolved to. ``deadline``: monotonic seconds until
    which content must have come; ``hurried``: the client's own, shorter than ours. ``betas``: the client's
    ``anthropic-beta`` values. ``strict``: any loss is a 400.
    ``embeds``: embeddings are wanted. ``read_at``: when the catalog of ``deployments`` was read, monotonic seconds.
    ``session``: the conversation's key (``gateway/session.py``); ``warm_seconds``: for which its prefix is cached.
    ``fallbacks``: models that are asked next where this one cannot answer, for reasons among ``falls_back_on``;
    ``fallback``: the one that is asked instead by now.
    """

    def __init__(
        self,
        *,
        request_id: str,
        caller: Caller,
        dialect: Dialect,
        envelope: Envelope,
        model: str,
        sap_model: str,
        deployments: tuple[Deployment, ...],
        stream: bool,
        deadline: float,
        seals: SealKeeper,
        hurried: bool = False,
        betas: tuple[str, ...] = (),
        strict: bool = False,
        embeds: bool = False,
        fallbacks: tuple[Fallback, ...] = (),
        falls_back_on: frozenset[Kind] = frozenset(),
        read_at: float = float("-inf"),
        session: int | None = None,
        warm_seconds: float = WARM,
    ) -> None:
        self.id = request_id
        self.caller = caller
        self.dialect = dialect
        self.envelope = envelope
        self.model = model
        self.sap_model = sap_model
        self.deployments = deployments
        self.stream = stream
        self.deadline = deadline
        self.hurried = hurried
        self.betas = betas
        self.strict = strict
        self.embeds = embeds
        self.seals = seals
        self.fallback = ""
        self._fallbacks = list(fallbacks)
        self._falls_back_on = falls_back_on
        self.read_at = read_at
        self.session = session
        self.warm_seconds = warm_seconds
        self.attempts: list[Attempt] = []
        self.plans: list[Planned] = []
        self._waited = 0.0
        self._waiting_since = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time within is SAP's, not ours."""
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waited += time.monotonic() - self._waiting_since
            self._waiting_since = 0.0

    def waited(self, now: float) -> float:
        """Seconds for which SAP was waited for until now."""
        return self._waited + (now - self._waiting_since if self._waiting_since else 0.0)

    @property
    def may_fall_back(self) -> bool:
        """Whether another model may still answer instead."""
        return bool(self._fallbacks)

    def fall_back(self, fault: Fault) -> bool:
        """Goes on to the next model, if ``fault`` is a reason and there is time; whether it did."""
        if fault.kind not in self._falls_back_on or not self._fallbacks or time.monotonic() >= self.deadline:
            return False
        following = self._fallbacks.pop(0)
        self.fallback = self.sap_model = following.model
        self.deployments = following.deployments
        return True

    @cached_property
    def request(self) -> Request:
        """The neutral form, for attempts that need a translation. Raises Fault(MALFORMED)."""
        decoding = Decoding(model=self.model, stream=self.stream, betas=self.betas)
        request = self.dialect.decode_request(self.envelope.decoded(), decoding)
        return self.seals.recalled(request, self.caller.key_id) if self.slotless else request

    @property
    def candidates(self) -> int | None:
        """How many are asked for, where the body says it in a number."""
        raw = bytes(self.envelope.members.get("n", b""))
        return int(raw) if raw.isdigit() and len(raw) < 6 else None

    @property
    def slotless(self) -> bool:
        """Whether the client's dialect has no place for seals."""
        return self.dialect.name == "openai_chat"
