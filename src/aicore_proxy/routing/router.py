"""Who is asked, in which order, and who is left alone. Pure: time and chance are arguments; one event loop owns it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from aicore_proxy.landscape import Deployment
from aicore_proxy.routing.affinity import Affinity
from aicore_proxy.routing.budget import Allowance, RetryBudget
from aicore_proxy.routing.health import Ending, Health, Permit, Reason, Skip
from aicore_proxy.routing.outcome import Outcome
from aicore_proxy.routing.strategies import Query, Strategy

MAX_ATTEMPTS = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class Skipped(Struct, frozen=True):
    """A deployment that was not asked, and why."""

    deployment: Deployment
    skip: Skip


class Plan(Struct, frozen=True):
    """The order in which deployments are asked. ``skipped``: those that are not, with the reason."""

    ranked: tuple[Deployment, ...]
    skipped: tuple[Skipped, ...] = ()


class Next(Struct, frozen=True):
    """The deployment to ask now, after ``pause`` seconds."""

    deployment: Deployment
    pause: float = 0.0


class Router:
    """Plans requests and learns from their attempts. Owns the retry budgets; its parts own the rest.

    ``strategy``: a model's Strategy by SAP's name. ``affinity``: where conversations went.
    """

    def __init__(
        self,
        strategy: Callable[[str], Strategy],
        health: Health,
        affinity: Affinity,
        *,
        max_attempts: int = MAX_ATTEMPTS,
        allowance: Allowance | None = None,
    ) -> None:
        self.health = health
        self.affinity = affinity
        self.max_attempts = max_attempts
        self._strategy = strategy
        self._allowance = allowance or Allowance()
        self._budgets: dict[str, RetryBudget] = {}

    def requested(self, model: str, now: float) -> None:
        """A request for ``model`` came in: the retry budget grows with it."""
        self._budget(model).requested(now)

    def plan(self, query: Query, candidates: Sequence[Deployment], read_at: float = float("-inf")) -> Plan:
        """The Plan for one request. ``read_at``: when the catalog that has ``candidates`` was read.

        A deployment whose breaker wants a probe comes first where another way is open: nobody pays for a probe. One
        that is tried just now, for the first time since a throttle that named no time, comes last. Where nothing but
        breakers stands against every one of them, the last way out is still tried, by one request at a time.
        """
        open_ways, skipped = self._sorted(candidates, query.now, read_at)
        if not open_ways:
            last = self._last_way(skipped, query.now)
            tried = () if last is None else (last,)
            return Plan(tried, tuple(s for s in skipped if s.deployment not in tried))
        ranked = list(self._strategy(query.model).rank(query, open_ways)) if len(open_ways) > 1 else open_ways
        if len(ranked) > 1 and self.health.any_tripped:
            probe = next((d for d in ranked if self.health.wants_probe(d, query.now)), None)
            if probe is not None:
                ranked.remove(probe)
                ranked.insert(0, probe)
        if len(ranked) > 1 and self.health.cooldowns:
            ranked.sort(key=lambda deployment: self.health.tried(deployment, query.now))
        return Plan(tuple(ranked), tuple(skipped))

    def following(
        self, query: Query, left: Sequence[Deployment], asked: Sequence[Deployment], read_at: float = float("-inf")
    ) -> Next | None:
        """The next deployment after those ``asked`` have failed: of those ``left`` that may be asked now the first by
        rank, another subaccount first; None: none may, or the budget for further attempts is spent."""
        times = dict.fromkeys((d.subaccount for d in left), 0)
        for deployment in asked:
            times[deployment.subaccount] = times.get(deployment.subaccount, 0) + 1
        budget = self._budget(query.model)
        for deployment in sorted(left, key=lambda d: times[d.subaccount]):
            if self.health.skip(deployment, query.now, read_at) is not None:
                continue
            healthy = self.health.last_good(deployment)
            if budget.allows(query.now, healthy=healthy):
                pause = 0.0 if healthy else query.chance * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (len(asked) - 1))
                return Next(deployment, pause)
        return None

    def recovery(self, query: Query, candidates: Sequence[Deployment], read_at: float = float("-inf")) -> Skip | None:
        """The soonest that any of ``candidates`` may be asked again; None: one may be asked now."""
        open_ways, skipped = self._sorted(candidates, query.now, read_at)
        return None if open_ways or not skipped else min((s.skip for s in skipped), key=lambda skip: skip.until)

    def any_full(self, query: Query, candidates: Sequence[Deployment], read_at: float = float("-inf")) -> bool:
        """Whether one of ``candidates`` is well and only has as many requests as it may have: it is worth waiting for,
        also where others could be asked that failed, or are probed."""
        skips = (self.health.skip(deployment, query.now, read_at) for deployment in candidates)
        return any(skip is not None and skip.reason is Reason.FULL for skip in skips)

    def any_regained(
        self,
        query: Query,
        candidates: Sequence[Deployment],
        asked: Sequence[Deployment],
        read_at: float = float("-inf"),
    ) -> bool:
        """Whether one of ``candidates`` is well and has room now, since the plan was made: it was not among those
        ``asked``, or refused for want of room."""
        health, now = self.health, query.now
        return any(
            (health.was_crowded(d, now) if d in asked else health.last_good(d)) and health.skip(d, now, read_at) is None
            for d in candidates
        )

    def begin(self, deployment: Deployment, now: float) -> Permit:
        """An attempt is sent. Its Permit goes to ``end``, always."""
        return self.health.begin(deployment, now)

    def end(self, permit: Permit, ending: Ending, query: Query, warm: float) -> None:
        """An attempt has ended, at ``query.now``. ``warm``: seconds for which the provider keeps the conversation."""
        self.health.end(permit, ending, query.now, query.chance)
        if query.session is not None and ending.outcome is Outcome.OK:
            self.affinity.went(query.session, permit.deployment, query.now, warm)

    def _sorted(
        self, candidates: Sequence[Deployment], now: float, read_at: float
    ) -> tuple[list[Deployment], list[Skipped]]:
        open_ways: list[Deployment] = []
        skipped: list[Skipped] = []
        for deployment in candidates:
            skip = self.health.skip(deployment, now, read_at)
            if skip is None:
                open_ways.append(deployment)
            else:
                skipped.append(Skipped(deployment, skip))
        return open_ways, skipped

    def _last_way(self, skipped: Sequence[Skipped], now: float) -> Deployment | None:
        """Of deployments that only breakers stand against, the one to try nevertheless, unless somebody tries it, or
        it is answering as many as it may have. Where SAP says of all that they are not there, one is asked again: the
        client hears SAP's words, or it is back."""
        ways = [s for s in skipped if s.skip.reason is not Reason.GONE] or list(skipped)
        if all(s.skip.reason is Reason.GONE for s in ways):
            return ways[0].deployment if ways else None
        if any(s.skip.reason not in (Reason.BREAKER, Reason.SUBACCOUNT) for s in ways):
            return None
        soonest = min(ways, key=lambda s: s.skip.until).deployment
        return None if self.health.probing(soonest) or self.health.full(soonest, now) else soonest

    def _budget(self, model: str) -> RetryBudget:
        budget = self._budgets.get(model)
        if budget is None:
            budget = self._budgets[model] = RetryBudget(self._allowance)
        return budget
