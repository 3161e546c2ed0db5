"""The ways that one call may take: the router's plan, walked an attempt at a time.

A thin shell around routing's pure decisions: it knows the time, rolls the dice and waits.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterable

from aicore_proxy.gateway.call import Attempt, Call, Planned
from aicore_proxy.gateway.queues import NoRoom, Place, Queues
from aicore_proxy.gateway.record import Observer
from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.routing.health import Ending, Reason, Skip
from aicore_proxy.routing.outcome import Outcome, best_of
from aicore_proxy.routing.router import Next, Router
from aicore_proxy.routing.strategies import Query

MOST_PLANS = 8
"""That a request remembers: one that waits in a queue makes a plan a second."""
SPREAD = 1.0
"""Seconds over which those that waited for one recovery are woken."""
_PROVIDER_LIMIT = re.compile(r"\btokens?\b.{0,40}\b(limit|quota|per minute)\b|too many tokens", re.IGNORECASE)
"""A throttle in a vendor's own words: of that deployment's quota, not of SAP's for the model."""
_EDGE = ("upstream connect error", "no healthy upstream")
"""What the mesh in front of a deployment says when it cannot reach it (SAP AI Core wire facts, 8.2)."""


class Ways:
    """One call's way through the router. Owned by the call's task; ``wait``: seconds that it may wait, in all, for a
    deployment to cool down."""

    def __init__(
        self,
        call: Call,
        router: Router,
        queues: Queues,
        observer: Observer,
        wait: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._call = call
        self._router = router
        self._queues = queues
        self._place: Place | None = None
        self._observer = observer
        self._wait = wait
        self._chance = chance
        self._left: list[Deployment] | None = None
        self._asked: list[Deployment] = []
        self._made = 0
        self._faults: list[Fault] = []
        router.requested(call.sap_model, time.monotonic())

    async def following(self) -> Attempt | None:
        """The next attempt, begun: it must be ended. None: nobody else may be asked, or there is no time. Raises NoRoom
        where the queue is full, or it has waited there for as long as it may."""
        try:
            if not self._asked and not self._call.may_fall_back and self._queues.waiting(self._call.sap_model):
                await self._queue()  # whoever waits comes first
            while True:
                query = self._query(time.monotonic())
                if self._faults and query.now >= self._call.deadline:
                    return None
                following = self._next(query)
                if following is None:
                    if not await self._recovered(query):
                        return None
                    self._left, self._asked = None, []  # a new plan
                elif following.pause == 0 or await self._paused(following):
                    return self._begun(following.deployment)
        finally:
            if self._place is not None:
                # A limit that has grown has room for more than the one that was woken
                self._place.leave(room=self._any_open(self._call.deployments))
                self._place = None

    @property
    def open(self) -> bool:
        """Whether another deployment may be asked after this one."""
        if not self._left or self._made >= self._router.max_attempts:
            return False
        return self._any_open(self._left)

    def failed(self, fault: Fault) -> None:
        """An attempt ended in ``fault``, which another deployment may mend."""
        self._faults.append(fault)

    def end(self, attempt: Attempt, outcome: Outcome, fault: Fault | None) -> None:
        """An attempt has ended: what routing learns from it."""
        permit = attempt.permit
        if permit is None:
            return
        ending = Ending(
            outcome,
            first_byte=attempt.first_byte - attempt.started if attempt.first_byte else None,
            retry_after=fault.retry_after if fault is not None else None,
            narrow=fault is not None and _PROVIDER_LIMIT.search(fault.message) is not None,
            edge=attempt.edge or (fault is not None and fault.message.startswith(_EDGE)),
            missing=attempt.missing,
            no_token=attempt.no_token,
            overloaded=fault is not None and fault.kind is Kind.OVERLOADED,
        )
        self._router.end(permit, ending, self._query(time.monotonic()), self._call.warm_seconds)
        self._queues.freed(permit.deployment.model)

    def answering(self, attempt: Attempt) -> None:
        """An attempt's answer has begun."""
        if attempt.permit is not None:
            self._router.health.answering(attempt.permit)

    def verdict(self) -> Fault:
        """What the client is told when nobody answered: the best fault there was, or why nobody was asked."""
        now = time.monotonic()
        recovery = self._router.recovery(self._query(now), self._call.deployments, self._call.read_at)
        if not self._faults:
            return unasked(self._call.sap_model, recovery, now)
        best = best_of(self._faults)
        if recovery is not None and recovery.reason is not Reason.GONE:
            throttled = best.kind is Kind.RATE_LIMITED and recovery.reason is Reason.COOLDOWN
            if throttled or (best.kind is Kind.OVERLOADED and best.retry_after is None):
                best.retry_after = max(0.1, recovery.until - now)
        return best

    def _any_open(self, deployments: Iterable[Deployment]) -> bool:
        now, read_at = time.monotonic(), self._call.read_at
        return any(self._router.health.skip(deployment, now, read_at) is None for deployment in deployments)

    def _query(self, now: float) -> Query:
        return Query(self._call.sap_model, now, self._chance(), self._call.session)

    def _next(self, query: Query) -> Next | None:
        if self._made >= self._router.max_attempts:
            return None
        if self._left is not None:
            return self._router.following(query, self._left, self._asked, self._call.read_at)
        plan = self._router.plan(query, self._call.deployments, self._call.read_at)
        del self._call.plans[MOST_PLANS - 1 :]  # the first ones, and the one that counted
        self._call.plans.append(Planned(query.now, plan))
        self._left = list(plan.ranked)
        return Next(self._left[0]) if self._left else None

    def _begun(self, deployment: Deployment) -> Attempt:
        call = self._call
        if self._left is not None:
            self._left.remove(deployment)
        self._asked.append(deployment)
        self._made += 1
        if call.attempts:
            self._observer.failed_over(call, call.attempts[-1].reason)
        now = time.monotonic()
        attempt = Attempt(deployment, len(call.attempts) + 1, now, permit=self._router.begin(deployment, now))
        if call.session is not None:
            attempt.warm = self._router.affinity.warm(call.session, deployment, now)
        call.attempts.append(attempt)
        return attempt

    async def _queue(self) -> None:
        call = self._call
        if self._place is None:
            self._place = self._queues.enter(call.sap_model, call.caller.key_id, call.deadline)
        with call.waiting():
            await self._place.turn()

    async def _paused(self, following: Next) -> bool:
        """Waits before a place that failed lately is asked again; whether it may be asked still."""
        with self._call.waiting():
            await asyncio.sleep(max(0.0, min(following.pause, self._call.deadline - time.monotonic())))
        return self._router.health.skip(following.deployment, time.monotonic(), self._call.read_at) is None

    async def _recovered(self, query: Query) -> bool:
        """Waits for the soonest end of a cooldown, if it is near, or in the queue where deployments have as many
        requests as they may have. Whether a new plan is worth a try."""
        if self._made >= self._router.max_attempts:
            return False  # over all plans: with a Retry-After of nothing there would be dozens of them
        call = self._call
        if self._router.any_full(query, call.deployments, call.read_at):
            if call.may_fall_back:
                return False
            await self._queue()
            return True
        if self._faults and self._router.any_regained(query, call.deployments, self._asked, call.read_at):
            if not call.may_fall_back and self._queues.waiting(call.sap_model):
                await self._queue()  # whoever waits comes first
            return True
        recovery = self._router.recovery(query, call.deployments, call.read_at)
        if recovery is None or recovery.reason is not Reason.COOLDOWN:
            return False
        pause = recovery.until - query.now
        if pause > self._wait or recovery.until >= call.deadline:
            return False
        self._wait -= pause
        with call.waiting():
            await asyncio.sleep(pause + min(SPREAD, pause) * self._chance())
        return True


def unasked(model: str, recovery: Skip | None, now: float) -> Fault:
    """Why none of a model's deployments was asked, in the operator's terms, and when to come back."""
    if recovery is None or recovery.reason is Reason.GONE:
        words = (
            f"SAP AI Core says that the deployments of the model '{model}' are not there; the proxy is looking again."
        )
        return Fault(Kind.UPSTREAM_FAILED, words, status=502, code="upstream_deployment_not_found")
    wait = max(0.1, recovery.until - now)
    match recovery.reason:
        case Reason.COOLDOWN:
            words = f"SAP AI Core has throttled every deployment of the model '{model}'."
            return Fault(Kind.RATE_LIMITED, words, code="rate_limit_exceeded", retry_after=wait)
        case Reason.FULL:
            words = f"Every deployment of the model '{model}' has as many requests as it may have."
            return NoRoom(Kind.OVERLOADED, words, code="overloaded", retry_after=1.0)
        case _:
            words = (
                f"Every deployment of the model '{model}' is failing; one request at a time tries whether it still is."
            )
            return Fault(Kind.OVERLOADED, words, code="overloaded", retry_after=max(1.0, wait))
