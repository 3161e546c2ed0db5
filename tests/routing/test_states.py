"""State machines of breaker, cooldown, limit and budget with a clock that the test owns, against simple models."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from aicore_proxy.landscape import Deployment
from aicore_proxy.routing.affinity import Affinity
from aicore_proxy.routing.breaker import Breaker, Limits, State, Verdict
from aicore_proxy.routing.budget import Allowance, RetryBudget
from aicore_proxy.routing.concurrency import LearnedLimit, Learning
from aicore_proxy.routing.cooldown import LONGEST, LONGEST_UNTOLD, Cooldowns
from aicore_proxy.routing.health import Ending, Health, Permit
from aicore_proxy.routing.outcome import Outcome
from aicore_proxy.routing.router import Router
from aicore_proxy.routing.strategies import LeastOutstanding, Query

LIMITS = Limits(consecutive=3, error_least=10, slow_least=10, open_time=10, longest=60)
SECONDS = st.floats(0.001, 50)
CHANCE = st.floats(0, 1, exclude_max=True)


class Clocked(RuleBasedStateMachine):
    now = 1000.0

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds


class BreakerMachine(Clocked):
    """What must hold of a breaker whatever happens in whatever order."""

    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(LIMITS)
        self.probes = 0
        self.bad_in_a_row = 0
        self.opened_at = 0.0

    @precondition(lambda self: self.breaker.admits(self.now))
    @rule(target=attempts)
    def begin(self) -> bool:
        closed = self.breaker.state(self.now) is State.CLOSED
        probe = self.breaker.begin(self.now)
        assert probe is not closed
        self.probes += probe
        return probe

    @rule(
        probe=consumes(attempts),
        verdict=st.sampled_from(Verdict),
        chance=CHANCE,
        slow=st.sampled_from([None, True, False]),
    )
    def end(self, probe: bool, verdict: Verdict, chance: float, slow: bool | None) -> None:
        before = self.breaker.state(self.now)
        self.breaker.end(self.now, verdict, chance, probe=probe, slow=slow)
        after = self.breaker.state(self.now)
        self.probes -= probe
        if before is State.CLOSED and verdict is not Verdict.IGNORED and not probe:
            self.bad_in_a_row = self.bad_in_a_row + 1 if verdict is Verdict.BAD else 0
        if before is State.CLOSED and self.bad_in_a_row >= LIMITS.consecutive:
            assert after is State.OPEN
        if verdict is Verdict.IGNORED and not slow:
            assert after is before  # a client's fault or its leaving opens and closes nothing
        if before is State.OPEN and not probe:
            assert after is State.OPEN  # what was sent before says nothing new
        if probe and before is State.HALF_OPEN and verdict is Verdict.BAD:
            assert after is State.OPEN
        if after is State.OPEN and before is not State.OPEN:
            self.opened_at = self.now
            wait = self.breaker.recovers_at(self.now) - self.now
            assert LIMITS.open_time * 0.8 - 1e-6 <= wait <= LIMITS.longest * 1.2 + 1e-6
        if after is State.CLOSED and before is not State.CLOSED:
            self.bad_in_a_row = 0

    @invariant()
    def one_probe_at_a_time(self) -> None:
        assert self.probes <= 1
        if self.breaker.state(self.now) is State.OPEN:
            assert not self.breaker.admits(self.now)
            assert self.breaker.recovers_at(self.now) > self.now
        if self.breaker.state(self.now) is State.HALF_OPEN:
            assert self.breaker.admits(self.now) is (self.probes == 0)

    @invariant()
    def it_always_recovers(self) -> None:
        assert self.breaker.recovers_at(self.now) <= self.now + LIMITS.longest * 1.2


class CooldownMachine(Clocked):
    """A cooldown is only ever extended, ends, and stays within its bounds."""

    TARGETS = st.sampled_from(["a", "b"])

    def __init__(self) -> None:
        super().__init__()
        self.cooldowns = Cooldowns()
        self.until: dict[str, float] = defaultdict(lambda: float("-inf"))

    @rule(place=TARGETS, told=st.one_of(st.none(), st.floats(-1e6, 1e9), st.just(float("nan"))))
    def throttled(self, place: str, told: float | None) -> None:
        end = self.cooldowns.throttled(place, self.now, told)

        assert end == self.cooldowns.until(place) >= self.until[place]
        assert self.now + 0.1 - 1e-6 <= end <= max(self.until[place], self.now + LONGEST)
        if told is None or not told > 0:
            assert end <= max(self.until[place], self.now + LONGEST_UNTOLD)
        else:
            assert end >= self.now + min(told, LONGEST) - 1e-6
        self.until[place] = end

    @rule(place=TARGETS)
    def served(self, place: str) -> None:
        self.cooldowns.served(place, self.now)

    @rule(place=TARGETS, seconds=st.floats(-100, 100))
    def told_by_another(self, place: str, seconds: float) -> None:
        self.cooldowns.extend(place, self.now + seconds)
        self.until[place] = max(self.until[place], self.now + seconds)

    @rule()
    def forget(self) -> None:
        self.cooldowns.forget(self.now)

    @invariant()
    def nobody_is_freed_early(self) -> None:
        for place, until in self.until.items():
            if self.now < until:
                assert self.cooldowns.until(place) == until
                assert self.cooldowns.active(self.now)[place] == until
            else:
                assert self.cooldowns.until(place) <= self.now


class LimitMachine(Clocked):
    """A limit stays within its bounds, moves by rounds and at most once a second, means what was really in flight, and
    never shuts: with nothing to do for a second there is room for all that it says."""

    LEARNING = Learning(start=6, least=2, most=12)
    MOMENTS = st.sampled_from([0.001, 0.1, 0.5, 1.0, 3.0])

    def __init__(self) -> None:
        super().__init__()
        self.limit = LearnedLimit(self.LEARNING)
        self.in_flight = 0
        self.loads: list[tuple[float, int]] = []
        self.good_since_change = 0
        self.fell_at = self.crowded_at = float("-inf")
        self.crowd = 0

    @rule(seconds=MOMENTS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 20))
    def ask(self, count: int) -> None:
        for _ in range(count):
            if not self.limit.full(self.in_flight, self.now):
                self.in_flight += 1
                self.loads.append((self.now, self.in_flight))
                assert self.in_flight <= self.limit.value
                if self.now < self.crowded_at + 1:
                    assert self.in_flight <= self.crowd

    @precondition(lambda self: self.in_flight)
    @rule(count=st.integers(1, 20))
    def answer(self, count: int) -> None:
        for _ in range(min(count, self.in_flight)):
            before = self.limit.value
            self.loads.append((self.now, self.in_flight))
            self.limit.succeeded(self.in_flight, self.now)
            self.in_flight -= 1
            self.good_since_change += 1
            if self.limit.value != before:
                assert self.limit.value == before + 1
                assert any(at >= self.now - 1 and load >= before for at, load in self.loads)  # it was in use
                assert self.good_since_change >= before
                assert self.now >= self.fell_at + 1
                self.good_since_change = 0

    @precondition(lambda self: self.in_flight)
    @rule(count=st.integers(1, 20), crowded=st.booleans())
    def refuse(self, count: int, crowded: bool) -> None:
        for _ in range(min(count, self.in_flight)):
            before = self.limit.value
            self.limit.refused(self.now)
            self.in_flight -= 1
            self.good_since_change = 0
            if self.now < self.fell_at + 1:
                assert self.limit.value == before
            else:
                assert self.limit.value == max(2, int(before * 0.7))
                self.fell_at = self.now
            if crowded:
                self.limit.crowded(self.in_flight, self.now)
                self.crowded_at, self.crowd = self.now, self.in_flight

    @precondition(lambda self: self.in_flight)
    @rule()
    def leave(self) -> None:
        self.in_flight -= 1

    @rule()
    def restart(self) -> None:
        before = self.limit.value
        self.limit.restart()
        assert self.limit.value == min(before, 6)

    @rule(most=st.sampled_from([1, 4, 12]))
    def other_bounds(self, most: int) -> None:
        before = self.limit.value
        self.limit.become(Learning(start=6, least=2, most=most))
        assert self.limit.value == min(before, most) or most > before
        self.limit.become(self.LEARNING)
        assert self.limit.value == max(2, min(before, most))

    @invariant()
    def it_never_shuts(self) -> None:
        assert 2 <= self.limit.value <= 12
        later = self.now + 1
        assert not self.limit.full(self.limit.value - 1, later)
        assert self.limit.full(self.limit.value, later)
        if self.in_flight < self.limit.sure:
            assert not self.limit.full(self.in_flight, self.now)


class BudgetMachine(Clocked):
    """Whatever comes: no more is charged than the allowance, and the healthy are never charged."""

    def __init__(self) -> None:
        super().__init__()
        self.allowance = Allowance()
        self.budget = RetryBudget(self.allowance)
        self.requests: list[float] = []
        self.charged: list[float] = []

    @rule(count=st.integers(1, 50))
    def requested(self, count: int) -> None:
        for _ in range(count):
            self.budget.requested(self.now)
            self.requests.append(self.now)

    @rule()
    def healthy(self) -> None:
        assert self.budget.allows(self.now, healthy=True)

    @rule(count=st.integers(1, 50))
    def sick(self, count: int) -> None:
        for _ in range(count):
            if self.budget.allows(self.now, healthy=False):
                self.charged.append(self.now)
        lately = [at for at in self.charged if self.now - at < 0.5]
        window = [at for at in self.requests if self.now - at <= self.allowance.window]
        assert len(lately) <= self.allowance.share * len(window) + self.allowance.always
        if not window:
            assert any(self.now - at <= 1 for at in self.charged)  # ten a second always


DEPLOYMENTS = tuple(Deployment(f"d{n}", f"s{n // 2}", "default", "any", "m", "u") for n in range(4))


class RouterMachine(Clocked):
    """Requests over four deployments in two subaccounts: permits come back, one probe at a time, and nobody is left
    alone for ever."""

    permits = Bundle("permits")
    learning: Learning | None = None

    def __init__(self) -> None:
        super().__init__()
        self.health = Health(LIMITS)
        self.health.become(LIMITS, {}, None, remembers=True, learns=lambda _: self.learning)
        self.health.know(DEPLOYMENTS, self.now)
        strategy = LeastOutstanding(self.health)
        self.router = Router(lambda _: strategy, self.health, Affinity())
        self.in_flight: dict[str, int] = defaultdict(int)

    @rule(target=permits, chance=CHANCE)
    def ask(self, chance: float) -> Permit | None:
        plan = self.router.plan(Query("m", self.now, chance), DEPLOYMENTS, self.now)
        assert len(plan.ranked) + len(plan.skipped) == len(DEPLOYMENTS)
        assert not {d.id for d in plan.ranked} & {s.deployment.id for s in plan.skipped}
        if not plan.ranked:
            recovery = self.router.recovery(Query("m", self.now), DEPLOYMENTS, self.now)
            assert recovery is not None
            assert recovery.until >= self.now
            return None
        permit = self.router.begin(plan.ranked[0], self.now)
        self.in_flight[permit.deployment.id] += 1
        return permit

    @rule(
        permit=consumes(permits),
        outcome=st.sampled_from(Outcome),
        edge=st.booleans(),
        chance=CHANCE,
        waited=st.floats(0, 60),
        told=st.sampled_from([None, None, 2.0]),
        overloaded=st.booleans(),
    )
    def end(
        self,
        permit: Permit | None,
        outcome: Outcome,
        edge: bool,
        chance: float,
        waited: float,
        told: float | None,
        overloaded: bool,
    ) -> None:
        if permit is None:
            return
        failed = outcome not in (Outcome.OK, Outcome.CANCELLED, Outcome.CLIENT_FAULT)
        ending = Ending(
            outcome,
            first_byte=waited,
            retry_after=told if outcome is Outcome.THROTTLED else None,
            edge=edge and failed,
            overloaded=overloaded and outcome is Outcome.UNAVAILABLE,
        )
        for _ in range(2):  # twice is once
            self.router.end(permit, ending, Query("m", self.now, chance), 300.0)
        self.in_flight[permit.deployment.id] -= 1

    @invariant()
    def permits_are_counted(self) -> None:
        assert all(self.health.in_flight(d) == self.in_flight[d.id] for d in DEPLOYMENTS)

    @invariant()
    def once_all_have_ended_everybody_is_asked_again(self) -> None:
        if not any(self.in_flight.values()):
            later = self.now + 4000
            assert len(self.router.plan(Query("m", later), DEPLOYMENTS, later).ranked) == len(DEPLOYMENTS)


class LearningRouterMachine(RouterMachine):
    """The same where limits are learned: nobody gets more than its limit, and with room at one who is well nobody
    waits for ever."""

    learning = Learning(start=3, least=2, most=5)

    @invariant()
    def nobody_gets_more_than_it_may(self) -> None:
        for deployment in DEPLOYMENTS:
            assert 2 <= (self.health.limit(deployment) or 0) <= 5
            assert self.in_flight[deployment.id] <= 5

    @invariant()
    def where_there_is_room_somebody_is_asked(self) -> None:
        later = self.now + 4000
        for deployment in DEPLOYMENTS:
            full = self.in_flight[deployment.id] >= (self.health.limit(deployment) or 0)
            skip = self.health.skip(deployment, later, later)
            assert (skip is not None) is full or self.health.probing(deployment)


SETTINGS = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = SETTINGS
TestCooldown = CooldownMachine.TestCase
TestCooldown.settings = SETTINGS
TestLimit = LimitMachine.TestCase
TestLimit.settings = SETTINGS
TestBudget = BudgetMachine.TestCase
TestBudget.settings = SETTINGS
TestRouter = RouterMachine.TestCase
TestRouter.settings = SETTINGS
TestLearningRouter = LearningRouterMachine.TestCase
TestLearningRouter.settings = SETTINGS
