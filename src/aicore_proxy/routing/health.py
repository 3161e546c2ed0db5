"""What is known of each deployment from its answers: breakers, cooldowns, load and latency.

Pure: time and chance are arguments; one event loop owns it. An attempt is begun and ended here, always both; whether a
deployment may be asked follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from statistics import median

from msgspec import Struct

from aicore_proxy.landscape import Deployment
from aicore_proxy.routing.breaker import DEFAULT, Breaker, Limits, State, Trip, Verdict
from aicore_proxy.routing.cooldown import Cooldowns
from aicore_proxy.routing.outcome import Outcome

VERDICTS = {
    Outcome.OK: Verdict.GOOD,
    Outcome.UNAVAILABLE: Verdict.BAD,
    Outcome.TIMEOUT: Verdict.BAD,
}
"""All others say nothing of the upstream."""
SLOW_AT_LEAST = 20.0
SLOW_FACTOR = 5.0
EDGE_WINDOW = 30.0
EDGE_DEPLOYMENTS = 3
"""Deployments whose connections or edge failed within the window: then it is their subaccount."""
PENALTY = 10.0
"""Seconds that a failure or a throttle counts as: a fast failure must never attract traffic."""
WEIGHT = 0.2
"""Of the newest latency in the moving average."""


class Reason(Enum):
    """Why a deployment is skipped."""

    BREAKER = "breaker"
    SUBACCOUNT = "subaccount"
    COOLDOWN = "cooldown"
    GONE = "gone"
    FULL = "full"


class Skip(Struct, frozen=True):
    """``until``: when it may be asked again, monotonic seconds, as far as is known."""

    reason: Reason
    until: float


class Permit(Struct):
    """An attempt that was begun. Handed to ``end`` once."""

    deployment: Deployment
    probe: bool
    subaccount_probe: bool
    ended: bool = False


class Ending(Struct, frozen=True):
    """How an attempt ended. ``first_byte``: seconds until the answer's first byte, None: none came. ``retry_after``:
    seconds that a throttle named. ``narrow``: the throttle is the deployment's own, not the model's in the subaccount.
    ``edge``: it failed on the way to the deployment (connection, the mesh in front of it). ``missing``: SAP says that
    the deployment is not there, or not for us."""

    outcome: Outcome
    first_byte: float | None = None
    retry_after: float | None = None
    narrow: bool = False
    edge: bool = False
    missing: bool = False


class _Known:
    """One deployment."""

    __slots__ = ("breaker", "gone_since", "in_flight", "last_good", "latency", "model")

    def __init__(self, model: str, limits: Limits) -> None:
        self.model = model
        self.breaker = Breaker(limits)
        self.in_flight = 0
        self.latency = 0.0
        self.last_good = True
        self.gone_since: float | None = None


class Health:
    """Owns what changes between requests. ``caps``: requests in flight at most, by deployment id; none: no limit."""

    def __init__(self, limits: Limits = DEFAULT, caps: Mapping[str, int] | None = None) -> None:
        self._limits = limits
        self._caps = caps or {}
        self._known: dict[str, _Known] = {}
        self._subaccounts: dict[str, Breaker] = {}
        self._edge_failures: dict[str, dict[str, float]] = {}
        self.cooldowns = Cooldowns()

    def skip(self, deployment: Deployment, now: float, read_at: float = float("-inf")) -> Skip | None:
        """Why ``deployment`` may not be asked now, None: it may. ``read_at``: when the catalog was read last."""
        subaccount = self._subaccounts.get(deployment.subaccount)
        if subaccount is not None and not subaccount.admits(now):
            return Skip(Reason.SUBACCOUNT, subaccount.recovers_at(now))
        if self.cooldowns:
            until = max(self.cooldowns.until(wide(deployment)), self.cooldowns.until(deployment.id))
            if now < until:
                return Skip(Reason.COOLDOWN, until)
        known = self._known.get(deployment.id)
        if known is None:
            return None
        if known.gone_since is not None:
            if read_at <= known.gone_since:
                return Skip(Reason.GONE, float("inf"))
            known.gone_since = None
        if not known.breaker.admits(now):
            return Skip(Reason.BREAKER, known.breaker.recovers_at(now))
        cap = self._caps.get(deployment.id)
        if cap is not None and known.in_flight >= cap:
            return Skip(Reason.FULL, now)
        return None

    def begin(self, deployment: Deployment, now: float) -> Permit:
        """An attempt is sent to a deployment that is not to be skipped."""
        known = self._of(deployment)
        known.in_flight += 1
        subaccount = self._subaccounts.get(deployment.subaccount)
        return Permit(deployment, known.breaker.begin(now), subaccount is not None and subaccount.begin(now))

    def end(self, permit: Permit, ending: Ending, now: float, chance: float, siblings: int = 1) -> None:
        """It has ended. ``chance``: in [0, 1); ``siblings``: deployments in its subaccount. Twice is once."""
        if permit.ended:
            return
        permit.ended = True
        deployment = permit.deployment
        known = self._of(deployment)
        known.in_flight -= 1
        verdict = Verdict.IGNORED if ending.missing else VERDICTS.get(ending.outcome, Verdict.IGNORED)
        slow = self._slow(deployment, ending) if ending.first_byte is not None else None
        known.breaker.end(now, verdict, chance, probe=permit.probe, slow=slow)
        self._subaccount_ended(permit, ending, verdict, now, chance, siblings)
        self._measure(known, ending)
        if ending.missing:
            known.gone_since = now
        if ending.outcome is Outcome.THROTTLED:
            self.cooldowns.throttled(deployment.id if ending.narrow else wide(deployment), now, ending.retry_after)
        elif ending.outcome is Outcome.OK:
            self.cooldowns.served(wide(deployment), now)
            self.cooldowns.served(deployment.id, now)

    def token_refused(self, subaccount: str, now: float, chance: float) -> None:
        """SAP gives no token: nothing of the subaccount can be asked."""
        self._subaccounts.setdefault(subaccount, Breaker(self._limits)).trip(now, Trip.CREDENTIALS, chance)

    def in_flight(self, deployment: Deployment) -> int:
        known = self._known.get(deployment.id)
        return 0 if known is None else known.in_flight

    def latency(self, deployment: Deployment) -> float:
        """Seconds until the first byte, a moving average; 0: nothing is known."""
        known = self._known.get(deployment.id)
        return 0.0 if known is None else known.latency

    def last_good(self, deployment: Deployment) -> bool:
        """Whether its last answer was a success; one that was never asked counts as good."""
        known = self._known.get(deployment.id)
        return known is None or known.last_good

    def states(self, now: float) -> dict[str, State]:
        """The breaker of every deployment that was ever asked, by deployment id."""
        return {identity: known.breaker.state(now) for identity, known in self._known.items()}

    def subaccount_states(self, now: float) -> dict[str, State]:
        return {alias: breaker.state(now) for alias, breaker in self._subaccounts.items()}

    def keep(self, deployments: set[str]) -> None:
        """Forgets deployments that are no longer in the catalog and have nothing in flight."""
        for identity in [i for i, k in self._known.items() if i not in deployments and not k.in_flight]:
            del self._known[identity]

    def _of(self, deployment: Deployment) -> _Known:
        known = self._known.get(deployment.id)
        if known is None:
            known = self._known[deployment.id] = _Known(deployment.model, self._limits)
        return known

    def _slow(self, deployment: Deployment, ending: Ending) -> bool | None:
        """Against the model's others: models think for minutes by right. Never judged for the only one."""
        if ending.first_byte is None or ending.first_byte <= SLOW_AT_LEAST:
            return False
        others = [
            known.latency
            for identity, known in self._known.items()
            if known.model == deployment.model and identity != deployment.id and known.latency > 0
        ]
        if not others:
            return None
        return ending.first_byte > max(SLOW_AT_LEAST, SLOW_FACTOR * median(others))

    def _measure(self, known: _Known, ending: Ending) -> None:
        match ending.outcome:
            case Outcome.CANCELLED | Outcome.CLIENT_FAULT:
                return
            case Outcome.OK if ending.first_byte is not None:
                sample = ending.first_byte
            case _:
                sample = max(PENALTY, known.latency)
        known.last_good = ending.outcome is Outcome.OK
        known.latency = sample if known.latency == 0 else (1 - WEIGHT) * known.latency + WEIGHT * sample

    def _subaccount_ended(
        self, permit: Permit, ending: Ending, verdict: Verdict, now: float, chance: float, siblings: int
    ) -> None:
        alias = permit.deployment.subaccount
        if permit.subaccount_probe:
            edge = Verdict.BAD if ending.edge else Verdict.IGNORED if verdict is Verdict.IGNORED else Verdict.GOOD
            self._subaccounts[alias].end(now, edge, chance, probe=True)
        failures = self._edge_failures.setdefault(alias, {})
        if not ending.edge:
            failures.pop(permit.deployment.id, None)
            return
        failures[permit.deployment.id] = now
        recent = [at for at in failures.values() if now - at <= EDGE_WINDOW]
        if siblings > 1 and len(recent) >= min(EDGE_DEPLOYMENTS, siblings):
            self._subaccounts.setdefault(alias, Breaker(self._limits)).trip(now, Trip.CONNECTIONS, chance)
            failures.clear()


def wide(deployment: Deployment) -> tuple[str, str]:
    """What a throttle of SAP's concerns: its limit is per model and tenant, so a sibling has none left either."""
    return deployment.subaccount, deployment.model
