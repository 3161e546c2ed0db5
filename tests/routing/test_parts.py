"""Numbers of the parts, as docs/reliability.md names them: breaker, budget, affinity, strategies, outcomes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.fault import Fault, Kind, UpstreamError
from aicore_proxy.routing.affinity import Affinity
from aicore_proxy.routing.breaker import Breaker, Limits, State, Tally, Verdict
from aicore_proxy.routing.budget import Allowance, RetryBudget
from aicore_proxy.routing.cooldown import Cooldowns
from aicore_proxy.routing.health import Ending, Health, Reason
from aicore_proxy.routing.outcome import Outcome, best_of, outcome_of
from aicore_proxy.routing.router import Router
from aicore_proxy.routing.strategies import LeastOutstanding, Query, RoundRobin, Sticky, Strategy, Tiered, Weighted

GOOD, BAD, IGNORED = Verdict.GOOD, Verdict.BAD, Verdict.IGNORED


def of(*places: str) -> tuple[Deployment, ...]:
    return tuple(Deployment(f"d{n}", place, "default", "any", "m", "u") for n, place in enumerate(places))


# Breaker


def opened(breaker: Breaker, now: float, chance: float = 0.5) -> float:
    """Fails until it is open; for how long."""
    for _ in range(breaker.limits.consecutive):
        breaker.end(now, BAD, chance)
    return breaker.recovers_at(now) - now


def probed(breaker: Breaker, now: float, *verdicts: Verdict) -> State:
    for verdict in verdicts:
        breaker.end(now, verdict, 0.5, probe=breaker.begin(now))
    return breaker.state(now)


@pytest.mark.parametrize(
    ("verdicts", "state"),
    [
        ([BAD] * 5, State.OPEN),
        ([BAD] * 4, State.CLOSED),
        ([BAD] * 4 + [IGNORED] * 9, State.CLOSED),
        ([BAD] * 4 + [IGNORED, BAD], State.OPEN),
        ([BAD] * 4 + [GOOD, BAD], State.CLOSED),
        ([GOOD, BAD] * 10, State.OPEN),  # half of twenty
        ([GOOD, BAD] * 9 + [BAD], State.CLOSED),  # of nineteen
        ([GOOD, GOOD, BAD] * 20, State.CLOSED),
        ([BAD, GOOD] * 9 + [GOOD] + [BAD], State.OPEN),
        ([BAD, GOOD] * 9 + [GOOD] * 2 + [IGNORED] * 9, State.CLOSED),
    ],
)
def test_what_opens_a_breaker(verdicts: list[Verdict], state: State) -> None:
    breaker = Breaker()
    for verdict in verdicts:
        breaker.end(1.0, verdict, 0.5)
    assert breaker.state(1.0) is state


@pytest.mark.parametrize(
    ("slow", "state"),
    [
        ([True] * 20, State.OPEN),
        ([True] * 19, State.CLOSED),
        ([False] * 4 + [True] * 16, State.OPEN),
        ([False] * 5 + [True] * 15, State.CLOSED),
        ([None] * 5 + [True] * 15, State.CLOSED),  # not judged
        ([True] * 16 + [False] * 4, State.CLOSED),  # what came last was quick
    ],
)
def test_slowness_opens_a_breaker(slow: list[bool | None], state: State) -> None:
    breaker = Breaker()
    for each in slow:
        breaker.end(1.0, GOOD, 0.5, slow=each)
    assert breaker.state(1.0) is state


@pytest.mark.parametrize(
    ("slow", "before", "at", "state"),
    [(None, 19, 29.0, State.OPEN), (None, 19, 30.0, State.CLOSED),
     (True, 19, 59.0, State.OPEN), (True, 19, 60.0, State.CLOSED)],
)  # fmt: skip
def test_shares_are_of_the_last_half_minute_and_of_slow_ones_of_the_last_minute(
    slow: bool | None, before: int, at: float, state: State
) -> None:
    breaker = Breaker(Limits(consecutive=99))
    for now in [0.0] * before + [at]:
        breaker.end(now, GOOD if slow else BAD, 0.5, slow=slow)
    assert breaker.state(at) is state


def test_it_opens_longer_each_time_up_to_two_minutes_until_it_is_forgiven() -> None:
    breaker = Breaker(Limits(spread=0))
    now, times = 1000.0, [opened(breaker, 1000.0)]
    for _ in range(5):
        now = breaker.recovers_at(now)
        assert probed(breaker, now, BAD) is State.OPEN
        times.append(breaker.recovers_at(now) - now)
    assert times == [10, 20, 40, 80, 120, 120]

    now = breaker.recovers_at(now)
    assert probed(breaker, now, GOOD, IGNORED) is State.HALF_OPEN
    assert probed(breaker, now, GOOD) is State.CLOSED
    assert opened(breaker, now + 299) == 120

    now = breaker.recovers_at(now + 299)
    assert probed(breaker, now, GOOD, GOOD) is State.CLOSED
    assert opened(breaker, now + 300) == 10


def test_a_bad_probe_between_good_ones_begins_again() -> None:
    breaker = Breaker(Limits(spread=0))
    opened(breaker, 0.0)
    assert probed(breaker, 10.0, GOOD, BAD) is State.OPEN
    assert probed(breaker, 30.0, GOOD) is State.HALF_OPEN
    assert probed(breaker, 30.0, GOOD) is State.CLOSED


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 8), (0.5, 10), (0.75, 11), (1.0, 12)])
def test_open_times_are_spread_by_a_fifth(chance: float, seconds: float) -> None:
    assert opened(Breaker(), 0.0, chance) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "before",
    [[(GOOD, True)] * 20, [(BAD, None)] * 5, [(GOOD, None), (BAD, None)] * 10],
    ids=["slow", "failing", "share"],
)
def test_once_closed_nothing_of_before_counts(before: list[tuple[Verdict, bool | None]]) -> None:
    breaker = Breaker(Limits(spread=0))
    for verdict, slow in before:
        breaker.end(0.0, verdict, 0.5, slow=slow)
    assert breaker.state(0.0) is State.OPEN
    assert probed(breaker, 10.0, GOOD, GOOD) is State.CLOSED
    breaker.end(10.0, IGNORED, 0.5, slow=True)
    for _ in range(4):
        breaker.end(10.0, BAD, 0.5)
    assert breaker.state(10.0) is State.CLOSED


def test_what_another_worker_says_of_a_breaker() -> None:
    breaker = Breaker(Limits(spread=0))
    breaker.closed_elsewhere(0.0)
    breaker.opened_elsewhere(5.0, 5.0)  # over already
    assert breaker.state(5.0) is State.CLOSED
    breaker.opened_elsewhere(20.0, 5.0)
    breaker.opened_elsewhere(10.0, 5.0)  # never shorter
    assert breaker.recovers_at(5.0) == 20.0
    assert probed(breaker, 20.0, GOOD) is State.HALF_OPEN
    breaker.opened_elsewhere(30.0, 20.0)
    assert breaker.state(29.0) is State.OPEN
    assert probed(breaker, 30.0, GOOD) is State.HALF_OPEN  # the good one of before it was opened again is forgotten
    breaker.closed_elsewhere(30.0)
    assert breaker.state(30.0) is State.CLOSED


def test_a_probe_that_ends_after_another_worker_closed_it_says_nothing() -> None:
    breaker = Breaker(Limits(spread=0))
    opened(breaker, 0.0)
    probe = breaker.begin(10.0)
    breaker.closed_elsewhere(10.0)
    breaker.end(11.0, BAD, 0.5, probe=probe)
    assert breaker.state(11.0) is State.CLOSED
    assert not breaker.probing


@pytest.mark.parametrize(("at", "exceeds"), [(9.9, True), (10.0, False)])
def test_a_tally_forgets_after_its_window(at: float, exceeds: bool) -> None:
    tally = Tally(10.0)
    for _ in range(4):
        tally.add(0.5, bad=True)
    tally.add(5.0, bad=False)
    assert tally.exceeds(at, 2, 0.5) is exceeds


# Cooldowns


def test_untold_throttles_cool_for_longer_each_time_and_a_burst_is_one() -> None:
    cooldowns, now, waits = Cooldowns(), 0.0, []
    for _ in range(5):
        end = cooldowns.throttled("x", now)
        assert [cooldowns.throttled("x", now + 1)] == [end + 1]  # of the same burst: not twice as long
        waits.append(end - now)
        now = end + 1
    assert waits == [10, 20, 40, 60, 60]


def test_an_answer_while_it_cools_down_changes_nothing_and_old_ones_are_forgotten() -> None:
    cooldowns = Cooldowns()
    cooldowns.throttled("x", 0.0, 10.0)
    cooldowns.served("x", 9.0)
    cooldowns.served("y", 9.0)
    assert cooldowns.until("x") == 10.0
    assert cooldowns.active(10.0) == {}
    cooldowns.forget(70.0)
    assert cooldowns
    cooldowns.forget(70.1)
    assert not cooldowns


def test_d08_one_request_tries_for_a_second_whether_an_untold_throttle_is_over() -> None:
    cooldowns = Cooldowns()
    cooldowns.throttled("told", 0.0, 10.0)
    cooldowns.throttled("untold", 0.0)
    for target in ("told", "untold", "unknown"):
        cooldowns.begun(target, 9.9)  # sent before, or by the last way out
        assert not cooldowns.tried(target, 9.9)
        cooldowns.begun(target, 10.0)
        assert cooldowns.tried(target, 10.9) is (target == "untold")
        cooldowns.begun(target, 11.0)  # it has heard nothing by then: all others follow
        assert not cooldowns.tried(target, 11.0)
    assert cooldowns.throttled("untold", 12.0) == 32.0
    cooldowns.begun("untold", 32.0)
    assert cooldowns.tried("untold", 32.0)
    cooldowns.served("untold", 32.1)
    assert not cooldowns.tried("untold", 32.1)
    assert cooldowns.throttled("untold", 33.0) == 43.0


@pytest.mark.parametrize(
    ("told", "wait"),
    [(0.01, 0.1), (0.5, 0.5), (7, 7), (9999, 3600), (0, 10), (-1, 10), (float("nan"), 10), (None, 10)],
)
def test_what_a_throttle_told_is_kept_to_within_reason(told: float | None, wait: float) -> None:
    assert Cooldowns().throttled("x", 0.0, told) == wait


# Budget


@pytest.mark.parametrize(("requests", "at_once", "in_ten_seconds"), [(0, 10, 100), (100, 30, 120), (1000, 210, 300)])
def test_how_many_further_attempts_an_outage_allows(requests: int, at_once: int, in_ten_seconds: int) -> None:
    budget = RetryBudget()
    for _ in range(requests):
        budget.requested(0.0)
    counts = [sum(budget.allows(now, healthy=False) for _ in range(1000)) for now in (0.0, 0.9, 1.8, 2.7, 3.6)]
    later = [sum(budget.allows(now / 2, healthy=False) for _ in range(1000)) for now in range(9, 20)]
    assert counts[0] == at_once
    assert sum(counts) + sum(later) == in_ten_seconds


def test_a_budget_forgets_after_its_window() -> None:
    budget = RetryBudget(Allowance(share=0.5, always=1, window=10))
    for _ in range(20):
        budget.requested(0.0)
    assert sum(budget.allows(9.9, healthy=False) for _ in range(50)) == 11
    assert sum(budget.allows(20.0, healthy=False) for _ in range(50)) == 1
    assert all(budget.allows(20.0, healthy=True) for _ in range(50))


STEPS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0, 9.5, 10.0, 30.0]), st.booleans()), max_size=60)


@given(STEPS, st.sampled_from([1, 3, 10]), st.sampled_from([0.0, 0.5, 1.0]))
def test_a_tally_is_a_count_of_the_events_of_its_last_slots(
    steps: list[tuple[float, bool]], least: int, share: float
) -> None:
    tally, now, events = Tally(10.0), 100.0, list[tuple[int, bool]]()
    for pause, bad in steps:
        now += pause
        tally.add(now, bad=bad)
        events.append((int(now), bad))
        lately = [bad for slot, bad in events if slot > int(now) - 10]
        assert tally.exceeds(now, least, share) is (len(lately) >= least and sum(lately) >= share * len(lately))


@given(STEPS, st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([0.0, 1.0, 2.0]))
@example([(0.0, True), (0.5, True), (0.5, True), (0.5, True)], 0.0, 1.0)
@example([(0.0, False)] * 5 + [(9.5, True)] * 3, 0.2, 0.0)
def test_a_budget_is_a_share_of_the_requests_of_ten_seconds_and_some_a_second(
    steps: list[tuple[float, bool]], share: float, always: float
) -> None:
    budget, now = RetryBudget(Allowance(share, always, 10.0)), 100.0
    asked, charged = list[int](), list[int]()
    for pause, retry in steps:
        now += pause
        slot = int(now * 2)
        asked, charged = ([s for s in each if s > slot - 20] for each in (asked, charged))
        if not retry:
            budget.requested(now)
            asked.append(slot)
            continue
        lately = sum(s > slot - 2 for s in charged)
        fits = len(charged) + 1 <= share * len(asked) + always * 10 and lately + 1 <= share * len(asked) + always
        assert budget.allows(now, healthy=False) is fits
        charged += [slot] if fits else []


# Affinity


def test_a_conversation_is_warm_where_it_was_for_five_minutes_after_its_last_use() -> None:
    affinity = Affinity()
    home, other = of("a", "b")
    affinity.went(1, home, 0.0)
    affinity.went(1, home, 200.0)

    assert affinity.warm(1, home, 499.0)
    assert not affinity.warm(1, home, 500.0)
    assert not affinity.warm(1, other, 499.0)
    assert not affinity.warm(2, home, 499.0)


def test_the_longest_time_that_a_cache_was_promised_holds() -> None:
    affinity = Affinity()
    home, _ = of("a", "b")
    affinity.went(1, home, 0.0, 3600.0)
    affinity.went(1, home, 10.0, 300.0)
    assert affinity.warm(1, home, 3609.0)
    assert not affinity.warm(1, home, 3610.0)


def test_a_conversation_has_one_home_and_one_refuge() -> None:
    affinity = Affinity()
    candidates = of("a", "b", "c", "d")
    hashed = affinity.ranked(1, candidates, 0.0, lambda _: 0)
    home, *refuges = hashed[::-1]
    for at, deployment in enumerate([home, *refuges], 1000):
        affinity.went(1, deployment, float(at), 100.0)

    assert [affinity.warm(1, d, 1004.0) for d in [home, *refuges]] == [True, False, False, True]
    assert affinity.ranked(1, candidates, 1004.0, lambda _: 0) == [home, *[d for d in hashed if d != home]]
    assert affinity.ranked(1, refuges[::-1], 1004.0, lambda _: 0)[0] == refuges[-1]  # its home cannot be asked
    assert affinity.ranked(1, candidates, 1101.0, lambda _: 0)[0] == refuges[-1]  # its home is cold


def test_a_home_that_is_cold_is_no_home_and_one_that_is_used_again_keeps_its_refuge() -> None:
    affinity = Affinity()
    home, refuge, third = of("a", "b", "c")
    affinity.went(1, home, 0.0, 10.0)
    affinity.went(1, refuge, 10.0, 100.0)
    affinity.went(1, third, 10.0, 100.0)
    assert [affinity.warm(1, d, 11.0) for d in (home, refuge, third)] == [False, True, True]

    affinity.went(1, refuge, 12.0, 100.0)
    affinity.went(1, third, 13.0, 100.0)
    assert [affinity.warm(1, d, 14.0) for d in (home, refuge, third)] == [False, True, True]
    assert affinity.ranked(1, (third, refuge, home), 14.0, lambda _: 0)[0] == refuge


@pytest.mark.parametrize(
    ("loads", "full"),
    [([3, 0, 0, 0], False), ([4, 0, 0, 0], False), ([5, 0, 0, 0], False), ([6, 0, 0, 0], True), ([9, 4, 4, 3], False),
     ([11, 4, 4, 2], True), ([9, 3, 2, 2], True), ([100, 100, 100, 100], False)],
)  # fmt: skip
def test_when_a_home_is_full(loads: list[int], full: bool) -> None:
    affinity = Affinity()
    hashed = affinity.ranked(1, of("a", "b", "c", "d"), 0.0, lambda _: 0)
    load = dict(zip([d.id for d in hashed], loads, strict=True))

    ranked = affinity.ranked(1, hashed, 0.0, lambda d: load[d.id])

    assert ranked == ([hashed[1], hashed[0], *hashed[2:]] if full else hashed)


def test_all_workers_agree_on_a_conversations_home() -> None:
    """Pinned: workers of two versions serve side by side while one replaces the other."""
    ranked = [Affinity().ranked(session * 0x123456789ABCDEF, of(*"abcd"), 0.0, lambda _: 0) for session in range(1, 7)]
    assert ["".join(d.subaccount for d in order) for order in ranked] == [
        "cbad",
        "acdb",
        "bcad",
        "cdba",
        "bdca",
        "dcab",
    ]


# Strategies


def test_deployments_have_their_turns_in_order() -> None:
    strategy = RoundRobin()
    ranked = ["".join(d.subaccount for d in strategy.rank(Query("m"), of("a", "b", "c"))) for _ in range(4)]
    assert ranked == ["abc", "bca", "cab", "abc"]


@pytest.mark.parametrize("make", [LeastOutstanding, lambda h: Tiered({"b": 1}, LeastOutstanding(h))])
def test_one_alone_is_asked_without_a_choice(make: Callable[[Health], Strategy]) -> None:
    assert [d.id for d in make(Health()).rank(Query("m", 0.0, 0.9), of("a"))] == ["d0"]


def test_requests_without_a_conversation_go_by_the_other_strategy() -> None:
    strategy = Sticky(Affinity(), Health(), RoundRobin())
    assert [strategy.rank(Query("m"), of("a", "b"))[0].id for _ in range(4)] == ["d0", "d1", "d0", "d1"]


@pytest.mark.parametrize(("weights", "turns"), [({"d0": 3, "a": 1}, "0001"), ({"a": 0}, "1111"), ({}, "0101")])
def test_weights_are_by_id_before_subaccount_and_of_zero_comes_last(weights: dict[str, float], turns: str) -> None:
    strategy = Weighted({**weights})
    ranked = [strategy.rank(Query("m"), of("a", "b")) for _ in range(4)]
    assert sorted(order[0].id[1:] for order in ranked) == sorted(turns)
    assert all(len(order) == 2 for order in ranked)


def test_weighted_turns_are_evenly_mixed() -> None:
    strategy = Weighted({"a": 5})
    assert "".join(strategy.rank(Query("m"), of("a", "b", "c"))[0].subaccount for _ in range(7)) == "aabacaa"


def test_only_the_first_tier_takes_a_turn_and_the_unnamed_are_in_it() -> None:
    strategy = Tiered({"b": 1, "d2": -1}, RoundRobin())
    ranked = [strategy.rank(Query("m"), of("a", "b", "b", "c")) for _ in range(2)]
    assert [[d.id for d in order] for order in ranked] == [["d2", "d0", "d3", "d1"]] * 2


def test_chance_picks_every_pair_equally_often() -> None:
    strategy = LeastOutstanding(Health())
    pairs = [tuple(d.id for d in strategy.rank(Query("m", 0.0, (n + 0.5) / 12), of(*"abcd")))[:2] for n in range(12)]
    assert len(set(pairs)) == 12
    assert (pairs[0], pairs[-1]) == (("d0", "d1"), ("d3", "d2"))  # of two as good the one that chance picked first
    assert all(first != second for first, second in pairs)


def test_load_counts_times_latency_and_the_unmeasured_as_a_second() -> None:
    health = Health()
    quick, slow, unknown = of("a", "b", "c")
    for deployment, seconds in ((quick, 0.5), (slow, 4.0)):
        health.end(health.begin(deployment, 0.0), Ending(Outcome.OK, first_byte=seconds), 0.0, 0.5)
    health.begin(quick, 0.0)
    health.begin(quick, 0.0)  # (2 + 1) * 0.5 is more than (0 + 1) * 1, less than 4

    ranked = [LeastOutstanding(health).rank(Query("m", 0.0, (n + 0.5) / 6), (quick, slow, unknown)) for n in range(6)]

    assert {order[:2][0].id + order[:2][1].id for order in ranked} == {"d0d1", "d2d0", "d2d1"}


# Router


def test_pauses_before_the_sick_grow_from_a_tenth_to_five_seconds() -> None:
    health = Health()
    router = Router(lambda _: RoundRobin(), health, Affinity())
    sick = of("a")[0]
    health.end(health.begin(sick, 0.0), Ending(Outcome.UNAVAILABLE), 0.0, 0.5)

    pauses = []
    for count in range(1, 9):
        following = router.following(Query("m", 10.0 * count, 0.5), [sick], of(*"b" * count))
        assert following is not None
        pauses.append(following.pause)

    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5])


def test_a_request_makes_the_budget_of_its_own_model() -> None:
    health = Health()
    router = Router(lambda _: RoundRobin(), health, Affinity(), allowance=Allowance(share=1, always=0, window=10))
    sick = of("a")[0]
    health.end(health.begin(sick, 0.0), Ending(Outcome.UNAVAILABLE), 0.0, 0.5)
    router.requested("m", 1.0)
    router.requested("m", 1.0)

    assert [router.following(Query(m, 1.0), [sick], []) is not None for m in ("m", "n", "m", "m")] == [
        True, False, True, False,
    ]  # fmt: skip


def test_who_is_skipped_is_not_the_next_one() -> None:
    health = Health()
    router = Router(lambda _: RoundRobin(), health, Affinity())
    first, throttled, last = of("a", "b", "c")
    health.end(health.begin(throttled, 0.0), Ending(Outcome.THROTTLED, retry_after=5), 0.0, 0.5)

    following = router.following(Query("m", 1.0), [throttled, last], [first])
    assert following is not None
    assert following.deployment == last
    assert router.following(Query("m", 1.0), [throttled], [first]) is None


def test_the_soonest_recovery_is_told_and_none_where_one_may_be_asked() -> None:
    health = Health()
    router = Router(lambda _: RoundRobin(), health, Affinity())
    places = of("a", "b", "c")
    for deployment, seconds in zip(places, (30, 10, 20), strict=True):
        assert router.recovery(Query("m", 1.0), places) is None
        health.end(health.begin(deployment, 0.0), Ending(Outcome.THROTTLED, retry_after=seconds), 0.0, 0.5)

    recovery = router.recovery(Query("m", 1.0), places)
    assert recovery is not None
    assert (recovery.reason, recovery.until) == (Reason.COOLDOWN, 10)
    assert router.recovery(Query("m", 1.0), ()) is None


def test_where_all_are_missing_one_is_asked_again_and_else_the_open_one_that_recovers_first() -> None:
    health = Health(Limits(consecutive=1, spread=0))
    router = Router(lambda _: RoundRobin(), health, Affinity())
    places = of("a", "b", "c")

    def plan(now: float) -> list[str]:
        planned = router.plan(Query("m", now), places)
        assert {d.id for d in planned.ranked} | {s.deployment.id for s in planned.skipped} == {"d0", "d1", "d2"}
        return [d.id for d in planned.ranked]

    missing = Ending(Outcome.UNAUTHORIZED, missing=True)
    health.end(health.begin(places[0], 0.0), missing, 0.0, 0.5)
    for at, deployment in ((1.0, places[2]), (2.0, places[1])):
        health.end(health.begin(deployment, at), Ending(Outcome.UNAVAILABLE), at, 0.5)
    assert plan(3.0) == ["d2"]
    for deployment in places[1:]:
        health.end(health.begin(deployment, 3.0), missing, 3.0, 0.5)
    assert plan(3.0) == ["d0"]
    assert router.plan(Query("m", 3.0), ()).ranked == ()


@pytest.mark.parametrize("outcome", [*Outcome])
def test_a_conversation_stays_where_it_was_answered_only(outcome: Outcome) -> None:
    affinity = Affinity()
    router = Router(lambda _: RoundRobin(), Health(), affinity)
    there = of("a")[0]
    router.end(router.begin(there, 0.0), Ending(outcome), Query("m", 0.0, 0.5, 7), 60.0)
    router.end(router.begin(there, 0.0), Ending(outcome), Query("m", 0.0, 0.5), 60.0)
    assert affinity.warm(7, there, 59.0) is (outcome is Outcome.OK)
    assert not affinity.warm(7, there, 60.0)
    assert len(affinity) == (outcome is Outcome.OK)


# Outcomes


def test_the_documented_words_of_outcomes() -> None:
    page = Path(__file__).parents[2] / "docs/metrics.md"
    row = next(line for line in page.read_text().splitlines() if line.startswith("| `outcome` |"))
    assert [outcome.value for outcome in Outcome] == re.findall(r"`(\w+)`", row)[1:]


OUTCOMES = {
    Kind.RATE_LIMITED: Outcome.THROTTLED,
    Kind.TIMEOUT: Outcome.TIMEOUT,
    Kind.UPSTREAM_FAILED: Outcome.UNAVAILABLE,
    Kind.OVERLOADED: Outcome.UNAVAILABLE,
    Kind.INTERNAL: Outcome.UNAVAILABLE,
}


@pytest.mark.parametrize("kind", [*Kind])
def test_the_outcome_of_a_fault(kind: Kind) -> None:
    assert outcome_of(Fault(kind, "")) is OUTCOMES.get(kind, Outcome.CLIENT_FAULT)
    refused = outcome_of(Fault(kind, "", code="upstream_credentials"))
    assert refused is (Outcome.UNAUTHORIZED if kind is Kind.UPSTREAM_FAILED else outcome_of(Fault(kind, "")))


def test_of_many_faults_the_one_that_says_most_is_told() -> None:
    words = UpstreamError("openai_chat", 502, b"{}")
    best_first = [
        Fault(Kind.MALFORMED, "mistake"),
        Fault(Kind.RATE_LIMITED, "throttle"),
        Fault(Kind.OVERLOADED, "its own words", upstream=words),
        Fault(Kind.UPSTREAM_FAILED, "ours"),
        Fault(Kind.TIMEOUT, "late"),
        Fault(Kind.UPSTREAM_FAILED, "our credentials", code="upstream_credentials"),
    ]
    for at, best in enumerate(best_first):
        assert best_of(best_first[at:][::-1]) is best


@pytest.mark.parametrize(
    ("kind", "told"), [(Kind.RATE_LIMITED, 3.0), (Kind.OVERLOADED, 3.0), (Kind.UPSTREAM_FAILED, None)]
)
def test_only_who_may_come_back_is_told_when(kind: Kind, told: float | None) -> None:
    faults = [Fault(kind, "", upstream=UpstreamError("x", 500, b"")), Fault(Kind.TIMEOUT, "", retry_after=3.0),
              Fault(Kind.TIMEOUT, "", retry_after=9.0)]  # fmt: skip
    assert best_of(faults).retry_after == told
