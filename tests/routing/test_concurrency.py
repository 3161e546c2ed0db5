"""Limits of requests in flight that are learned: their numbers, and what a deployment's answers do to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.routing.test_health import BAD, EDGE, LIMITS, OK, health_of, named, reason

from aicore_proxy.landscape import Deployment
from aicore_proxy.routing.affinity import Affinity
from aicore_proxy.routing.breaker import Limits
from aicore_proxy.routing.concurrency import LearnedLimit, Learning
from aicore_proxy.routing.health import Change, Ending, Health, News, Permit, Reason, Skip
from aicore_proxy.routing.outcome import Outcome
from aicore_proxy.routing.router import Router
from aicore_proxy.routing.strategies import Query, RoundRobin

THROTTLED = Ending(Outcome.THROTTLED, first_byte=0.1)
TOLD = Ending(Outcome.THROTTLED, first_byte=0.1, retry_after=7)
NARROW = Ending(Outcome.THROTTLED, first_byte=0.1, narrow=True)
OVERLOADED = Ending(Outcome.UNAVAILABLE, first_byte=0.1, overloaded=True)


# The limit alone


def good(limit: LearnedLimit, now: float, count: int, in_flight: int | None = None) -> int:
    for _ in range(count):
        limit.succeeded(limit.value if in_flight is None else in_flight, now)
    return limit.value


def test_a_limit_starts_at_20_and_a_refusal_leaves_seven_tenths_once_a_second_and_two_at_least() -> None:
    limit = LearnedLimit(Learning())
    values = [limit.value]
    for tenth in range(100):
        limit.refused(tenth / 10)
        if limit.value != values[-1]:
            values.append(limit.value)
        assert len(values) == min(tenth // 10 + 2, 6)

    assert values == [20, 14, 9, 6, 4, 2]


def test_a_full_round_of_successes_makes_it_one_more_up_to_500() -> None:
    limit = LearnedLimit(Learning())
    assert [good(limit, 0.0, count) for count in (19, 1, 20, 1)] == [20, 21, 21, 22]
    limit = LearnedLimit(Learning(start=499))
    assert good(limit, 0.0, 499) == good(limit, 0.0, 2000) == 500


def test_a_refusal_begins_the_round_anew_and_the_second_after_it_grows_nothing() -> None:
    limit = LearnedLimit(Learning(start=10))
    good(limit, 0.0, 9)
    limit.refused(0.0)
    assert good(limit, 0.9, 100) == 7
    assert [good(limit, 1.0, count) for count in (6, 1)] == [7, 8]


@pytest.mark.parametrize(("in_flight", "seconds", "grows"), [(9, 0.0, False), (10, 1.0, True), (10, 1.1, False)])
def test_only_a_limit_that_was_reached_within_a_second_grows(in_flight: int, seconds: float, grows: bool) -> None:
    limit = LearnedLimit(Learning(start=10))
    limit.succeeded(in_flight, 0.0)
    for left in range(9, 0, -1):  # who was asked together answers together
        limit.succeeded(left, seconds)

    assert limit.value == (11 if grows else 10)
    assert good(limit, seconds, 100, in_flight=10) == 11  # and the new one must be reached as well


def test_after_one_too_many_only_what_ends_makes_room_for_a_second() -> None:
    limit = LearnedLimit(Learning())
    limit.refused(0.0)
    limit.crowded(10, 0.0)

    assert [limit.full(n, 0.9) for n in (9, 10)] == [False, True]
    assert [limit.full(n, 1.0) for n in (13, 14)] == [False, True]


def test_after_an_outage_it_is_as_at_first_unless_it_was_less() -> None:
    limit = LearnedLimit(Learning(start=10))
    good(limit, 0.0, 10)
    limit.restart()
    assert limit.value == 10
    limit.refused(0.0)
    limit.restart()
    assert limit.value == 7


# A deployment's limit


def learning(
    *known: Deployment,
    start: int = 10,
    caps: dict[str, int] | None = None,
    cap: int | None = None,
    limits: Limits = LIMITS,
    remembers: bool = True,
) -> Health:
    health = health_of(*known)
    learns: Callable[[str], Learning | None] = lambda model: Learning(start=start) if model == "m" else None  # noqa: E731
    health.become(limits, caps or {}, cap, remembers=remembers, learns=learns)
    return health


def begun(health: Health, deployment: Deployment, count: int = 1, now: float = 0.0) -> list[Permit]:
    return [health.begin(deployment, now) for _ in range(count)]


def end(health: Health, permit: Permit, ending: Ending, now: float = 0.0) -> None:
    health.end(permit, ending, now, 0.5)


def filled(health: Health, deployment: Deployment, now: float = 0.0) -> list[Permit]:
    """So many as it may have."""
    permits: list[Permit] = []
    while health.skip(deployment, now) is None:
        permits += begun(health, deployment, now=now)
    assert reason(health, deployment, now) is Reason.FULL
    return permits


@pytest.mark.parametrize(
    ("caps", "cap", "model", "most", "limit"),
    [
        ({}, None, "m", 10, 10),
        ({}, 4, "m", 4, 4),
        ({"d0": 1}, 4, "m", 1, 1),
        ({"d0": 700}, 4, "m", 10, 10),
        ({}, 4, "n", 4, 4),
        ({"d0": 3}, None, "n", 3, 3),
    ],
)
def test_a_limit_that_is_set_is_the_upper_bound_and_others_have_no_other(
    caps: dict[str, int], cap: int | None, model: str, most: int, limit: int
) -> None:
    health, deployment = learning(caps=caps, cap=cap), named("d0", model=model)
    assert health.limit(deployment) == limit
    assert len(filled(health, deployment)) == most
    assert health.limit(deployment) == limit
    assert health.limit(named("d1", model="n")) == cap


def test_d06_a_throttle_that_names_a_time_cools_and_shrinks() -> None:
    health = learning()
    end(health, filled(health, named("d0"))[0], TOLD)

    assert health.skip(named("d0"), 0.0) == Skip(Reason.COOLDOWN, 7.0)
    assert health.skip(named("d0"), 7.0) == Skip(Reason.FULL, 7.0)
    assert health.limit(named("d0")) == 7


def test_o04_a_throttle_without_a_time_shrinks_and_only_what_ends_makes_room() -> None:
    health = learning()
    told: list[Change] = []
    health.tell = told.append
    permits = filled(health, named("d0"))
    for number in range(4):  # it bears six
        end(health, permits.pop(), THROTTLED, number / 10)
        assert reason(health, named("d0"), number / 10) is Reason.FULL

    assert told == []
    assert not health.cooldowns
    assert health.limit(named("d0")) == 7
    end(health, permits.pop(), OK, 0.9)
    assert len(filled(health, named("d0"), 0.9)) == 1
    assert len(filled(health, named("d0"), 1.3)) == 1  # a second after the last one the limit holds


@pytest.mark.parametrize("beside", [named("d0"), named("d1")])
def test_whoever_is_answered_in_the_same_subaccount_shows_that_there_is_only_no_room(beside: Deployment) -> None:
    health = learning()
    begun(health, beside)
    end(health, begun(health, named("d0"))[0], THROTTLED)

    assert reason(health, named("d0"), 0.9) is Reason.FULL
    assert not health.cooldowns
    assert health.skip(named("d0"), 1.0) is None
    assert health.skip(named("d1"), 0.0) is None


@pytest.mark.parametrize("beside", [None, named("d1", place="b"), named("d1", model="n")])
def test_d08_a_throttle_where_nobody_is_answered_cools_as_ever_but_is_each_workers_own(
    beside: Deployment | None,
) -> None:
    health = learning()
    told: list[Change] = []
    health.tell = told.append
    if beside is not None:
        begun(health, beside)
    waits = []
    for _ in range(3):
        now = health.cooldowns.until(("a", "m")) if waits else 0.0
        end(health, begun(health, named("d0"))[0], THROTTLED, now)
        waits.append(health.cooldowns.until(("a", "m")) - now)

    assert waits == [10, 20, 40]
    assert told == []
    end(health, begun(health, named("d0", model="n"))[0], THROTTLED, 0.0)
    assert [change.model for change in told] == ["n"]


def test_a_vendors_token_limit_is_no_want_of_room() -> None:
    health = learning()
    end(health, filled(health, named("d0"))[0], NARROW)

    assert health.skip(named("d0"), 0.0) == Skip(Reason.COOLDOWN, 10.0)
    assert health.skip(named("d1"), 0.0) is None


def test_d05_an_overload_shrinks_and_other_failures_do_not() -> None:
    health = learning()
    permits = filled(health, named("d0"))
    end(health, permits.pop(), BAD)
    end(health, permits.pop(), Ending(Outcome.TIMEOUT))
    assert health.limit(named("d0")) == 10
    end(health, permits.pop(), OVERLOADED)
    assert health.limit(named("d0")) == 7


def test_a_client_s_doing_is_no_success() -> None:
    health = learning(start=2)
    for ending in (Ending(Outcome.CANCELLED), Ending(Outcome.CLIENT_FAULT), OK):
        for _ in range(2):
            permits = filled(health, named("d0"))
            for permit in permits:
                end(health, permit, ending)
        assert (health.limit(named("d0")) == 2) is (ending is not OK)


def test_it_learns_without_breakers_too() -> None:
    health = learning(remembers=False)
    permits = filled(health, named("d0"))
    end(health, permits.pop(), THROTTLED)
    assert health.skip(named("d0"), 0.0) == Skip(Reason.FULL, 0.0)
    for permit in permits:
        end(health, permit, OK, 0.5)
    end(health, begun(health, named("d0"))[0], THROTTLED, 5.0)

    assert health.limit(named("d0")) == 4
    assert health.skip(named("d0"), 5.0) is None  # alone: nothing but a limit is ever kept to


@pytest.mark.parametrize("ending", [BAD, EDGE], ids=["deployment", "subaccount"])
@pytest.mark.parametrize("worker", ["own", "other"])
def test_o05_after_an_outage_it_starts_low(ending: Ending, worker: str) -> None:
    places = [named("d0"), named("d1")] if ending is EDGE else [named("d0")]
    health, failing = learning(*places, start=2), learning(*places, start=2)
    for at in (health, failing):
        for _ in range(3):
            for permit in filled(at, named("d0")):
                end(at, permit, OK)
        assert at.limit(named("d0")) == 5
        begun(at, named("d9", place="b"))
    failing.tell = lambda change: health.heard(change, 1.0)
    at_fault = failing if worker == "other" else health

    for deployment in places * 3 if ending is BAD else places:
        end(at_fault, begun(at_fault, deployment)[0], ending, 1.0)

    assert reason(health, named("d0"), 1.0) is (Reason.SUBACCOUNT if ending is EDGE else Reason.BREAKER)
    assert health.limit(named("d0")) == 2
    assert not health.full(named("d0"), 1.0)
    begun(health, named("d0"), 2)
    assert health.full(named("d0"), 1.0)
    # what is told again later changes nothing
    health.heard(Change(News.CLOSED, deployment="d0"), 2.0)
    assert health.limit(named("d0")) == 2


def test_an_outage_elsewhere_changes_nothing() -> None:
    health = learning(start=2)
    for permit in filled(health, named("d0")):
        end(health, permit, OK)
    health.heard(Change(News.OPEN, deployment="d1", until=9.0), 1.0)
    health.heard(Change(News.OPEN, subaccount="b", until=9.0), 1.0)
    assert health.limit(named("d0")) == 3


def test_other_settings_hold_at_once_and_what_is_learned_stays() -> None:
    health = learning()
    permits = filled(health, named("d0"))
    end(health, permits.pop(), OVERLOADED)

    def become(cap: int | None, on: bool) -> int | None:
        health.become(LIMITS, {}, cap, remembers=True, learns=lambda _: Learning() if on else None)
        return health.limit(named("d0"))

    assert [become(None, True), become(5, True), become(None, True)] == [7, 5, 5]
    assert [become(None, False), health.skip(named("d0"), 0.0)] == [None, None]
    assert [become(9, False), health.skip(named("d0"), 0.0)] == [9, Skip(Reason.FULL, 0.0)]
    assert become(None, True) == 20


def test_a_deployment_that_serves_another_model_now_is_limited_as_that_is() -> None:
    health = learning()
    begun(health, named("d0", model="n"), 50)
    assert health.skip(named("d0", model="n"), 0.0) is None
    permit = begun(health, named("d0"))[0]
    assert reason(health, named("d0"), 0.0) is Reason.FULL
    end(health, permit, OVERLOADED)
    health.become(LIMITS, {}, None, remembers=True, learns=lambda _: Learning(start=10))
    assert health.limit(named("d0")) == 7
    begun(health, named("d0", model="n"))
    assert health.limit(named("d0", model="n")) == 10  # what the other bore says nothing


# Plans


def test_d30_the_last_way_out_has_its_limit_too_while_it_answers() -> None:
    health = learning(start=2)
    router = Router(lambda _: RoundRobin(), health, Affinity())
    only = (named("d0"),)
    for _ in range(3):
        end(health, begun(health, only[0])[0], BAD)
    for _ in range(2):
        plan = router.plan(Query("m", 1.0), only)
        assert plan.ranked == only
        health.answering(router.begin(only[0], 1.0))

    assert router.plan(Query("m", 1.0), only).ranked == ()


def test_d32_who_is_full_is_worth_waiting_for_whatever_the_others_are_like() -> None:
    health = learning(start=2)
    router = Router(lambda _: RoundRobin(), health, Affinity())
    sick, well = named("d0"), named("d1")
    permits = filled(health, well)
    for _ in range(3):
        assert router.any_full(Query("m", 1.0), (sick, well))
        assert not router.any_full(Query("m", 1.0), (sick,))
        end(health, begun(health, sick)[0], BAD)
    begun(health, sick, now=11.0)  # probed
    assert router.any_full(Query("m", 12.0), (sick, well))
    end(health, permits[0], OK, 12.0)
    assert not router.any_full(Query("m", 12.0), (sick, well))


def test_d32_who_has_room_since_the_plan_was_made_is_worth_another() -> None:
    health = learning(start=2)
    router = Router(lambda _: RoundRobin(), health, Affinity())
    sick, well = named("d0"), named("d1")

    def regained(now: float, *asked: Deployment) -> bool:
        return router.any_regained(Query("m", now), (sick, well), asked)

    permits = filled(health, well)
    end(health, begun(health, sick)[0], BAD)
    assert not regained(0.0, sick)
    end(health, permits.pop(), OK)
    assert regained(0.0, sick)
    assert not regained(0.0, sick, well)  # once is enough, whatever came of it
    assert not regained(0.0, well)  # nor is one that failed last

    permits += filled(health, well)
    end(health, permits.pop(), THROTTLED)
    assert not regained(0.0, sick, well)
    end(health, permits.pop(), Ending(Outcome.CANCELLED))
    assert regained(0.0, sick, well)  # but where nothing was missing except room
    assert not regained(1.0, sick, well)
