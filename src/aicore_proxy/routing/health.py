"""What is known of each deployment from its answers: breakers, cooldowns, limits, load and latency.

Pure: time and chance are arguments; one event loop owns it. An attempt is begun and ended here, always both; whether a
deployment may be asked follows from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import Enum
from statistics import median

from msgspec import Struct
from msgspec.structs import replace

from aicore_proxy.landscape import Deployment
from aicore_proxy.routing.breaker import DEFAULT, Breaker, Limits, State, Verdict
from aicore_proxy.routing.concurrency import LearnedLimit, Learning
from aicore_proxy.routing.cooldown import LONGEST, Cooldowns
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
UNAUTHORIZED = 3
"""Refusals of a fresh token, in a row, after which a subaccount is left alone."""
NO_TOKEN = 1.0
"""Seconds that a subaccount without a token is left alone: its token provider has a backoff of its own."""
PENALTY = 10.0
"""Seconds that a failure or a throttle counts as at first: a fast failure must never attract traffic."""
FADING = 10.0
STALE = 60.0
"""Seconds in which a penalty falls to a third, and a latency that nothing measures to a half: else nobody would ever
see that a deployment is well again."""
NO_CAP = 2**31
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
    the deployment is not there, or not for us. ``no_token``: it was not even sent, since SAP gave no token.
    ``overloaded``: it said that it has too much to do."""

    outcome: Outcome
    first_byte: float | None = None
    retry_after: float | None = None
    narrow: bool = False
    edge: bool = False
    missing: bool = False
    no_token: bool = False
    overloaded: bool = False


class News(Enum):
    """What other workers are told."""

    COOLDOWN = "cooldown"
    OPEN = "open"
    CLOSED = "closed"
    GONE = "gone"


class Change(Struct, frozen=True):
    """News of a deployment (its id), a subaccount (its alias) or a model in one (both). ``until``: monotonic seconds,
    which all processes of a machine share. ``untold``: of a cooldown, throttles in a row that named no time."""

    news: News
    deployment: str = ""
    subaccount: str = ""
    model: str = ""
    until: float = 0.0
    untold: int = 0

    @property
    def target(self) -> Hashable:
        return self.deployment or (self.subaccount, self.model)


class _Known:
    """One deployment."""

    __slots__ = (
        *("breaker", "cap", "failed_at", "gone_since", "in_flight", "last_good", "latency", "learned", "measured_at"),
        *("model", "subaccount"),
    )

    def __init__(self, limits: Limits) -> None:
        self.model = self.subaccount = ""
        self.cap = NO_CAP
        """With fewer in flight there is room, whatever the time."""
        self.learned: LearnedLimit | None = None
        self.breaker = Breaker(limits)
        self.in_flight = 0
        self.latency = 0.0
        self.measured_at = float("-inf")
        self.failed_at = float("-inf")
        self.last_good = True
        self.gone_since: float | None = None

    def full(self, now: float) -> bool:
        """Whether it has as many in flight as it may have."""
        return self.in_flight >= self.cap and (self.learned is None or self.learned.full(self.in_flight, now))


class _Place:
    """One subaccount."""

    __slots__ = ("breaker", "edge_failures", "paused_until", "unauthorized")

    def __init__(self, limits: Limits) -> None:
        self.breaker = Breaker(limits)
        self.paused_until = float("-inf")
        self.edge_failures: dict[str, float] = {}
        self.unauthorized = 0


class Health:
    """Owns what changes between requests. ``tell``: what is news for other workers, which take it with ``heard``."""

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self._limits = limits
        self._caps: Mapping[str, int] = {}
        self._cap: int | None = None
        self._learns: Callable[[str], Learning | None] = lambda _: None
        self._remembers = True
        self._known: dict[str, _Known] = {}
        self._places: dict[str, _Place] = {}
        self._sizes: Mapping[str, int] = {}
        self.cooldowns = Cooldowns()
        self.tell: Callable[[Change], None] = lambda _: None
        self.any_tripped = False
        """Whether a breaker may be other than closed: False saves looking."""

    def become(
        self,
        limits: Limits,
        caps: Mapping[str, int],
        cap: int | None,
        *,
        remembers: bool,
        learns: Callable[[str], Learning | None] = lambda _: None,
    ) -> None:
        """Takes other limits; what is known stays. ``caps``: requests in flight at most, by deployment id; ``cap``: of
        all others, None: no limit. ``learns``: how a model's deployments learn theirs, up to that; None: they do not.
        ``remembers`` False: nothing is ever skipped but for a limit of requests in flight."""
        self._limits, self._caps, self._cap, self._remembers, self._learns = limits, caps, cap, remembers, learns
        for identity, known in self._known.items():
            self._limit(identity, known)
        for breaker in [*(k.breaker for k in self._known.values()), *(p.breaker for p in self._places.values())]:
            breaker.limits = limits

    def skip(self, deployment: Deployment, now: float, read_at: float = float("-inf")) -> Skip | None:
        """Why ``deployment`` may not be asked now, None: it may. ``read_at``: when the catalog was read last."""
        known = self._known.get(deployment.id)
        if known is None and not self.cooldowns and not self._places:
            return None
        place = self._places.get(deployment.subaccount)
        if place is not None and (now < place.paused_until or not place.breaker.admits(now)):
            return Skip(Reason.SUBACCOUNT, max(place.paused_until, place.breaker.recovers_at(now)))
        if self.cooldowns:
            until = max(self.cooldowns.until(wide(deployment)), self.cooldowns.until(deployment.id))
            if now < until:
                return Skip(Reason.COOLDOWN, until)
        if known is None:
            return None
        if known.gone_since is not None:
            if read_at <= known.gone_since:
                return Skip(Reason.GONE, float("inf"))
            known.gone_since = None
        if not known.breaker.admits(now):
            return Skip(Reason.BREAKER, known.breaker.recovers_at(now))
        if known.in_flight >= known.cap and known.full(now):  # a call for nothing would show: there may be hundreds
            return Skip(Reason.FULL, now)
        return None

    def begin(self, deployment: Deployment, now: float) -> Permit:
        """An attempt is sent to a deployment that is not to be skipped, or to the last way out."""
        known = self._of(deployment)
        known.in_flight += 1
        place = self._places.get(deployment.subaccount)
        if self.cooldowns:
            for target in (wide(deployment), deployment.id):
                self.cooldowns.begun(target, now)
        return Permit(deployment, known.breaker.begin(now), place is not None and place.breaker.begin(now))

    def answering(self, permit: Permit) -> None:
        """Its answer has begun."""
        if permit.probe:
            self._of(permit.deployment).breaker.answering()
        if permit.subaccount_probe:
            self._places[permit.deployment.subaccount].breaker.answering()

    def end(self, permit: Permit, ending: Ending, now: float, chance: float) -> None:
        """It has ended. ``chance``: in [0, 1). Twice is once."""
        if permit.ended:
            return
        permit.ended = True
        deployment = permit.deployment
        known = self._of(deployment)
        crowded = self._learn(deployment, known, ending, now)
        known.in_flight -= 1
        if not self._remembers:
            return
        nothing = ending.missing or ending.no_token
        verdict = Verdict.IGNORED if nothing else VERDICTS.get(ending.outcome, Verdict.IGNORED)
        slow = self._slow(deployment, ending.first_byte) if ending.first_byte is not None else None
        before = known.breaker.state(now)
        known.breaker.end(now, verdict, chance, probe=permit.probe, slow=slow)
        self._tell_of(known.breaker, before, now, Change(News.OPEN, deployment=deployment.id))
        self._place_ended(permit, ending, verdict, now, chance)
        self._measure(known, ending, now)
        if ending.missing:
            known.gone_since = now
            self.tell(Change(News.GONE, deployment=deployment.id, until=now))
        if ending.outcome is Outcome.THROTTLED:
            if not crowded:
                self._throttled(deployment, ending, now)
        elif ending.outcome is Outcome.OK and self.cooldowns:
            self.cooldowns.served(wide(deployment), now)
            self.cooldowns.served(deployment.id, now)
        if verdict is not Verdict.GOOD or permit.probe or permit.subaccount_probe:
            self.any_tripped = self._tripped(now)

    def heard(self, change: Change, now: float) -> None:
        """What another worker told. Of a deployment that this one has never asked, a breaker is remembered too."""
        if not self._remembers:
            return
        if change.news is News.COOLDOWN:
            self.cooldowns.extend(change.target, min(change.until, now + LONGEST), change.untold)
        elif change.news is News.GONE:
            self._named(change.deployment).gone_since = now
        else:
            named, alias = change.deployment, change.subaccount
            breaker = self._named(named).breaker if named else self._place(alias).breaker
            if change.news is News.OPEN:
                if breaker.state(now) is not State.OPEN:
                    self._starts_low(change)
                breaker.opened_elsewhere(min(change.until, now + 2 * self._limits.longest), now)
            else:
                breaker.closed_elsewhere(now)
            self.any_tripped = self._tripped(now)

    def tell_all(self, now: float) -> None:
        """Tells everything that holds now: a worker has begun, which knows nothing yet."""
        for target, until in self.cooldowns.active(now).items():
            self._tell_cooldown(target, until)
        for identity, known in self._known.items():
            self._tell_of(known.breaker, State.CLOSED, now, Change(News.OPEN, deployment=identity))
            if known.gone_since is not None:
                self.tell(Change(News.GONE, deployment=identity, until=known.gone_since))
        for alias, place in self._places.items():
            self._tell_of(place.breaker, State.CLOSED, now, Change(News.OPEN, subaccount=alias))

    def in_flight(self, deployment: Deployment) -> int:
        known = self._known.get(deployment.id)
        return 0 if known is None else known.in_flight

    def full(self, deployment: Deployment, now: float) -> bool:
        """Whether it has as many in flight as it may have."""
        known = self._known.get(deployment.id)
        return known is not None and known.full(now)

    def was_crowded(self, deployment: Deployment, now: float) -> bool:
        """Whether somebody was refused there for want of room a moment ago."""
        known = self._known.get(deployment.id)
        return known is not None and known.learned is not None and known.learned.was_crowded(now)

    def limit(self, deployment: Deployment) -> int | None:
        """How many it may have in flight now; None: any number."""
        known = self._known.get(deployment.id)
        if known is not None and known.learned is not None:
            return known.learned.value
        learning = self._learning(deployment.id, deployment.model)
        return self._caps.get(deployment.id, self._cap) if learning is None else LearnedLimit(learning).value

    def slowness(self, deployment: Deployment, now: float) -> float:
        """Seconds until the first byte, as the moving average has it, with what failures add; 0: nothing is known."""
        known = self._known.get(deployment.id)
        if known is None:
            return 0.0
        slowness = known.latency
        if (age := now - known.measured_at) > STALE:
            slowness *= 0.5 ** (age / STALE - 1)
        if (since := now - known.failed_at) < 10 * FADING:
            slowness += PENALTY * 3 ** (-since / FADING)
        return slowness

    def last_good(self, deployment: Deployment) -> bool:
        """Whether its last answer was a success; one that was never asked counts as good."""
        known = self._known.get(deployment.id)
        return known is None or known.last_good

    def wants_probe(self, deployment: Deployment, now: float) -> bool:
        """Whether it may be asked now, by a probe."""
        breakers = self._breakers_of(deployment)
        return any(b.state(now) is State.HALF_OPEN for b in breakers) and all(b.admits(now) for b in breakers)

    def tried(self, deployment: Deployment, now: float) -> bool:
        """Whether a request tries just now if it is throttled still."""
        return self.cooldowns.tried(wide(deployment), now) or self.cooldowns.tried(deployment.id, now)

    def probing(self, deployment: Deployment) -> bool:
        """Whether a probe waits for its answer there."""
        return any(breaker.probing for breaker in self._breakers_of(deployment))

    def states(self, now: float) -> dict[str, State]:
        """The breaker of every deployment that was ever asked, by deployment id."""
        return {identity: known.breaker.state(now) for identity, known in self._known.items()}

    def subaccount_states(self, now: float) -> dict[str, State]:
        """The breaker of every subaccount that ever failed, by alias."""
        return {alias: place.breaker.state(now) for alias, place in self._places.items()}

    def know(self, deployments: Iterable[Deployment], now: float) -> None:
        """A catalog was read: forgets deployments that are not in it and have nothing in flight."""
        there = {d.id: d.subaccount for d in deployments}
        self._sizes = Counter(there.values())
        for identity in [i for i, k in self._known.items() if i not in there and not k.in_flight]:
            del self._known[identity]
        self.cooldowns.forget(now)

    def _breakers_of(self, deployment: Deployment) -> list[Breaker]:
        known, place = self._known.get(deployment.id), self._places.get(deployment.subaccount)
        return [owner.breaker for owner in (known, place) if owner is not None]

    def _tell_of(self, breaker: Breaker, before: State, now: float, opened: Change) -> None:
        after = breaker.state(now)
        if after is State.OPEN and before is not State.OPEN:
            self.tell(replace(opened, until=breaker.recovers_at(now)))
            self._starts_low(opened)
        elif after is State.CLOSED and before is not State.CLOSED:
            self.tell(replace(opened, news=News.CLOSED))

    def _starts_low(self, opened: Change) -> None:
        """A deployment, or a subaccount, is left alone: else all who wait would come at once when it is back, probes
        among them, since a probe that has begun to answer lets the next one go."""
        for identity, known in self._known.items():
            if known.learned is not None and (identity == opened.deployment or known.subaccount == opened.subaccount):
                known.learned.restart()
                known.cap = known.learned.sure

    def _learn(self, deployment: Deployment, known: _Known, ending: Ending, now: float) -> bool:
        """What an ending says of a limit, before it is one less in flight. Whether it was a throttle for want of room:
        one that names no time, while others are being answered there. That is mended when they end; where nobody is,
        or a vendor counts tokens, only time mends it."""
        learned, crowded = known.learned, False
        if learned is None:
            return False
        if ending.outcome is Outcome.OK:
            # What was asked before an outage does not end the caution after it
            if all(breaker.state(now) is State.CLOSED for breaker in self._breakers_of(deployment)):
                learned.succeeded(known.in_flight, now)
        elif ending.outcome is Outcome.THROTTLED or ending.overloaded:
            learned.refused(now)
            untold = ending.outcome is Outcome.THROTTLED and ending.retry_after is None and not ending.narrow
            crowded = untold and self._in_flight_beside(known) > 1
            if crowded:
                learned.crowded(known.in_flight - 1, now)
        known.cap = learned.sure
        return crowded

    def _in_flight_beside(self, known: _Known) -> int:
        """Of all deployments of the same model in the same subaccount, which share SAP's limit."""
        place = known.subaccount, known.model
        return sum(other.in_flight for other in self._known.values() if (other.subaccount, other.model) == place)

    def _throttled(self, deployment: Deployment, ending: Ending, now: float) -> None:
        target = deployment.id if ending.narrow else wide(deployment)
        until = self.cooldowns.throttled(target, now, ending.retry_after)
        if ending.narrow or ending.retry_after is not None or self._known[deployment.id].learned is None:
            self._tell_cooldown(target, until)
        # Else others may have requests in flight there: each worker learns for itself whether there is room

    def _tell_cooldown(self, target: Hashable, until: float) -> None:
        untold = self.cooldowns.untold(target)
        match target:
            case str():
                self.tell(Change(News.COOLDOWN, deployment=target, until=until, untold=untold))
            case (str(alias), str(model)):
                self.tell(Change(News.COOLDOWN, subaccount=alias, model=model, until=until, untold=untold))

    def _of(self, deployment: Deployment) -> _Known:
        known = self._named(deployment.id)
        if known.model != deployment.model or known.subaccount != deployment.subaccount:
            known.model, known.subaccount, known.learned = deployment.model, deployment.subaccount, None
            self._limit(deployment.id, known)
        return known

    def _limit(self, identity: str, known: _Known) -> None:
        learning = self._learning(identity, known.model)
        if learning is None:
            cap = self._caps.get(identity, self._cap)
            known.learned, known.cap = None, NO_CAP if cap is None else cap
            return
        if known.learned is None:
            known.learned = LearnedLimit(learning)
        else:
            known.learned.become(learning)
        known.cap = known.learned.sure

    def _learning(self, identity: str, model: str) -> Learning | None:
        learning, cap = self._learns(model), self._caps.get(identity, self._cap)
        return learning if learning is None or cap is None else replace(learning, most=cap)

    def _named(self, identity: str) -> _Known:
        known = self._known.get(identity)
        if known is None:
            known = self._known[identity] = _Known(self._limits)
        return known

    def _place(self, alias: str) -> _Place:
        place = self._places.get(alias)
        if place is None:
            place = self._places[alias] = _Place(self._limits)
        return place

    def _tripped(self, now: float) -> bool:
        breakers = [*(k.breaker for k in self._known.values()), *(p.breaker for p in self._places.values())]
        return any(breaker.state(now) is not State.CLOSED for breaker in breakers)

    def _slow(self, deployment: Deployment, first_byte: float) -> bool | None:
        """Against the model's others: models think for minutes by right. Never judged for the only one."""
        if first_byte <= SLOW_AT_LEAST:
            return False
        others = [
            known.latency
            for identity, known in self._known.items()
            if known.model == deployment.model and identity != deployment.id and known.latency > 0
        ]
        return first_byte > max(SLOW_AT_LEAST, SLOW_FACTOR * median(others)) if others else None

    def _measure(self, known: _Known, ending: Ending, now: float) -> None:
        if ending.outcome in (Outcome.CANCELLED, Outcome.CLIENT_FAULT):
            return
        known.last_good = ending.outcome is Outcome.OK
        if not known.last_good:
            known.failed_at = now
        elif ending.first_byte is not None:
            fresh = known.latency == 0 or now - known.measured_at > STALE
            known.latency = ending.first_byte if fresh else (1 - WEIGHT) * known.latency + WEIGHT * ending.first_byte
            known.measured_at = now

    def _place_ended(self, permit: Permit, ending: Ending, verdict: Verdict, now: float, chance: float) -> None:
        alias = permit.deployment.subaccount
        refused = ending.outcome is Outcome.UNAUTHORIZED and not ending.missing
        if not ending.edge and not refused and alias not in self._places:
            return
        place = self._place(alias)
        before = place.breaker.state(now)
        if permit.subaccount_probe:
            said_nothing = ending.no_token or ending.outcome is Outcome.CANCELLED
            bad = ending.edge or refused
            judged = Verdict.IGNORED if said_nothing else Verdict.BAD if bad else Verdict.GOOD
            place.breaker.end(now, judged, chance, probe=True)
        if ending.no_token:
            place.paused_until = now + NO_TOKEN
        elif refused:
            place.unauthorized += 1
            if place.unauthorized >= UNAUTHORIZED:
                place.breaker.trip(now, chance)
        elif ending.edge:
            self._edge_failed(place, permit.deployment, now, chance)
        elif verdict is Verdict.GOOD:
            place.edge_failures.pop(permit.deployment.id, None)
            place.unauthorized = 0
        self._tell_of(place.breaker, before, now, Change(News.OPEN, subaccount=alias))

    def _edge_failed(self, place: _Place, deployment: Deployment, now: float, chance: float) -> None:
        place.edge_failures[deployment.id] = now
        recent = [at for at in place.edge_failures.values() if now - at <= EDGE_WINDOW]
        size = self._sizes.get(deployment.subaccount, 1)
        if size > 1 and len(recent) >= min(EDGE_DEPLOYMENTS, size):
            place.breaker.trip(now, chance)
            place.edge_failures.clear()


def wide(deployment: Deployment) -> tuple[str, str]:
    """What a throttle of SAP's concerns: its limit is per model and tenant, so a sibling has none left either."""
    return deployment.subaccount, deployment.model
