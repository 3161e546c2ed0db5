"""Plans: exact turns under concurrency, another subaccount first after a failure, the last way out, probes."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.routing.affinity import Affinity
from aicore_proxy.routing.breaker import Limits
from aicore_proxy.routing.health import Ending, Health, Permit, Reason
from aicore_proxy.routing.outcome import Outcome, best_of
from aicore_proxy.routing.router import Router
from aicore_proxy.routing.strategies import LeastOutstanding, Query, RoundRobin, Sticky, Strategy, Tiered, Weighted


def deployments(*subaccounts: str) -> tuple[Deployment, ...]:
    return tuple(Deployment(f"d{n}", place, "default", "any", "m", "u") for n, place in enumerate(subaccounts))


def router_of(strategy: Strategy | None = None, health: Health | None = None, max_attempts: int = 5) -> Router:
    chosen = strategy or RoundRobin()
    return Router(lambda _: chosen, health or Health(), Affinity(), max_attempts=max_attempts)


def asked_in_turn(router: Router, candidates: tuple[Deployment, ...], query: Query) -> list[Deployment]:
    """Whom a request asks if everybody fails at once, without a word that anybody remembers."""
    left = list(router.plan(query, candidates).ranked)
    asked = [left.pop(0)]
    while (following := router.following(query, left, asked)) is not None:
        left.remove(following.deployment)
        asked.append(following.deployment)
    return asked


def test_100_000_concurrent_turns_are_exact() -> None:
    router = router_of()
    candidates = deployments("a", "b", "c", "d")

    def some(_: int) -> Counter[str]:
        return Counter(router.plan(Query("m"), candidates).ranked[0].id for _ in range(10_000))

    with ThreadPoolExecutor(10) as pool:
        first = sum(pool.map(some, range(10)), Counter())

    assert set(first.values()) == {25_000}


def test_models_have_turns_of_their_own() -> None:
    router = router_of()
    candidates = deployments("a", "b")

    assert [router.plan(Query(m), candidates).ranked[0].id for m in ("x", "y", "x", "y")] == ["d0", "d0", "d1", "d1"]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.integers(0, 20))
def test_everybody_is_asked_once_and_another_subaccount_first(places: list[str], turns: int) -> None:
    router = router_of()
    candidates = deployments(*places)
    for _ in range(turns):
        router.plan(Query("m"), candidates)

    asked = asked_in_turn(router, candidates, Query("m"))

    assert Counter(d.id for d in asked) == Counter(d.id for d in candidates)
    times: Counter[str] = Counter()
    for deployment in asked:
        assert times[deployment.subaccount] == min(
            times[place] for place in set(places) if places.count(place) > times[place]
        )
        times[deployment.subaccount] += 1


def test_d08_under_load_an_untold_throttle_is_tried_by_one_request_after_10_20_40_and_60_s() -> None:
    """100 requests a second, each answered after 0.2 s, by a clock of its own; the last way out is another matter."""
    health = Health()
    router = router_of(health=health)
    candidates = deployments("a", "b", "c", "d")
    sick, asked = candidates[0], list[float]()
    answers: deque[tuple[float, Permit]] = deque()
    for tick in range(20_000):
        now = tick / 100
        while answers and answers[0][0] <= now:
            permit = answers.popleft()[1]
            outcome = Outcome.THROTTLED if permit.deployment == sick else Outcome.OK
            router.end(permit, Ending(outcome, first_byte=0.2), Query("m", now), 0.0)
        first = router.plan(Query("m", now), candidates).ranked[0]
        answers.append((now + 0.2, router.begin(first, now)))
        if first == sick:
            asked.append(now)

    burst = [at for at in asked if at < 0.2]
    assert 1 < len(burst) <= 6  # nobody knew
    gaps = [later - earlier for earlier, later in pairwise([burst[0], *asked[len(burst) :]])]
    assert gaps == pytest.approx([10, 20, 40, 60, 60], abs=0.5)


def test_where_there_is_no_other_way_nobody_waits_for_the_one_that_tries() -> None:
    router = router_of(health=Health())
    candidates = deployments("a", "a")
    router.end(router.begin(candidates[0], 0.0), Ending(Outcome.THROTTLED), Query("m", 0.0), 0.0)
    assert router.plan(Query("m", 9.9), candidates).ranked == ()
    router.begin(candidates[0], 10.0)
    assert set(router.plan(Query("m", 10.1), candidates).ranked) == set(candidates)


def test_the_budget_ends_attempts_at_the_sick_but_never_at_the_healthy() -> None:
    health = Health()
    router = router_of(health=health)
    sick, well = deployments("a", "b")
    health.end(health.begin(sick, 0.0), Ending(Outcome.UNAVAILABLE), 0.0, 0.5)

    refused = [router.following(Query("m", 1.0, 0.5), [sick], [well]) for _ in range(30)]
    free = [router.following(Query("m", 1.0, 0.5), [well], [sick]) for _ in range(1000)]

    assert sum(following is not None for following in refused) == 10  # a second's worth, as no request came in
    assert all(following is not None and following.pause == 0 for following in free)
    assert refused[0] is not None
    assert 0 < refused[0].pause <= 5


def test_who_fails_is_left_alone_and_then_probed_first_by_one_request() -> None:
    health = Health(Limits(consecutive=3, open_time=10, spread=0))
    router = router_of(LeastOutstanding(health), health)
    candidates = sick, well = deployments("a", "b")
    for _ in range(3):
        health.end(health.begin(sick, 0.0), Ending(Outcome.UNAVAILABLE), 0.0, 0.5)

    assert {router.plan(Query("m", 5.0, n / 10), candidates).ranked for n in range(10)} == {(well,)}
    skipped = router.plan(Query("m", 5.0), candidates).skipped
    assert [(s.deployment, s.skip.reason, s.skip.until) for s in skipped] == [(sick, Reason.BREAKER, 10.0)]

    assert router.plan(Query("m", 10.5), candidates).ranked == (sick, well)
    probe = health.begin(sick, 10.5)
    assert router.plan(Query("m", 10.6), candidates).ranked == (well,)
    health.end(probe, Ending(Outcome.OK, first_byte=0.1), 11.0, 0.5)
    assert router.plan(Query("m", 11.0), candidates).ranked == (sick, well)
    health.end(health.begin(sick, 11.0), Ending(Outcome.OK, first_byte=0.1), 11.5, 0.5)
    assert not health.any_tripped


def test_the_last_way_out_is_tried_by_one_request_at_a_time() -> None:
    health = Health(Limits(consecutive=2))
    router = router_of(health=health)
    only = deployments("a")
    for _ in range(2):
        health.end(health.begin(only[0], 0.0), Ending(Outcome.UNAVAILABLE), 0.0, 0.5)

    assert router.plan(Query("m", 1.0), only).ranked == only
    probe = health.begin(only[0], 1.0)
    assert router.plan(Query("m", 1.0), only).ranked == ()
    recovery = router.recovery(Query("m", 1.0), only)
    assert recovery is not None
    assert recovery.until > 1.0
    health.end(probe, Ending(Outcome.UNAVAILABLE), 2.0, 0.5)
    assert router.plan(Query("m", 2.0), only).ranked == only


def test_a_throttle_closes_the_last_way_too() -> None:
    health = Health()
    router = router_of(health=health)
    only = deployments("a", "a")
    health.end(health.begin(only[0], 0.0), Ending(Outcome.THROTTLED, retry_after=7.0), 0.0, 0.5)

    plan = router.plan(Query("m", 1.0), only)

    assert plan.ranked == ()  # its sibling in the subaccount has no quota left either
    assert {s.skip.until for s in plan.skipped} == {7.0}
    assert router.plan(Query("m", 7.0), only).ranked == only


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(0, 5), min_size=1).filter(
        lambda w: sum(w.values())
    )
)
def test_turns_are_in_proportion_to_the_weights(weights: dict[str, int]) -> None:
    router = router_of(Weighted(weights))
    candidates = deployments(*weights)
    rounds = 3 * sum(weights.values())

    first = Counter(router.plan(Query("m"), candidates).ranked[0].subaccount for _ in range(rounds))

    assert {alias: first[alias] for alias in weights} == {alias: 3 * weight for alias, weight in weights.items()}


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 5))
def test_a_lower_tier_comes_first(tiers: list[int], turns: int) -> None:
    candidates = deployments(*"abcdefgh"[: len(tiers)])
    by_id = {d.id: tier for d, tier in zip(candidates, tiers, strict=True)}
    router = router_of(Tiered(by_id, RoundRobin()))
    for _ in range(turns):
        router.plan(Query("m"), candidates)

    ranked = router.plan(Query("m"), candidates).ranked

    assert [by_id[d.id] for d in ranked] == sorted(tiers)


@given(st.floats(0, 1, exclude_max=True), st.lists(st.integers(0, 9), min_size=2, max_size=6))
def test_of_two_the_less_loaded_is_asked(chance: float, loads: list[int]) -> None:
    health = Health()
    candidates = deployments(*"abcdef"[: len(loads)])
    for deployment, load in zip(candidates, loads, strict=True):
        for _ in range(load):
            health.begin(deployment, 0.0)

    ranked = LeastOutstanding(health).rank(Query("m", 0.0, chance), candidates)

    counts = [health.in_flight(d) for d in ranked]
    assert sorted(d.id for d in ranked) == sorted(d.id for d in candidates)
    assert counts[0] <= counts[1]
    assert counts[2:] == sorted(counts[2:])


def slowly(health: Health, deployment: Deployment, seconds: float, times: int = 20) -> None:
    for number in range(times):
        health.end(health.begin(deployment, float(number)), Ending(Outcome.OK, first_byte=seconds), number + 0.5, 0.5)


def test_who_is_much_slower_than_its_siblings_is_left_alone_and_thinking_for_long_is_none_of_that() -> None:
    sick, *others = candidates = deployments("a", "b", "c")

    def open_ones(seconds: float, usual: float | None) -> list[str]:
        health = Health()
        for other in others if usual is not None else ():
            slowly(health, other, usual or 0.0)
        slowly(health, sick, seconds)
        return [d.id for d in candidates if health.skip(d, 21.0) is not None]

    assert open_ones(25.0, 1.0) == [sick.id]
    assert open_ones(19.0, 1.0) == []  # slower, but not slow
    assert open_ones(60.0, 15.0) == []  # they all think
    assert open_ones(60.0, None) == []  # nobody is there to compare with
    health = Health()
    slowly(health, others[0], 1.0)
    slowly(health, sick, 25.0, times=19)
    assert health.skip(sick, 21.0) is None  # too few to say


def test_a_fast_failure_attracts_no_traffic_and_is_forgiven_with_time() -> None:
    health = Health(Limits(consecutive=1000))
    strategy = LeastOutstanding(health)
    failing, slow = deployments("a", "b")
    health.end(health.begin(slow, 0.0), Ending(Outcome.OK, first_byte=3.0), 3.0, 0.5)
    health.end(health.begin(failing, 0.0), Ending(Outcome.OK, first_byte=0.01), 0.0, 0.5)
    health.end(health.begin(failing, 0.0), Ending(Outcome.UNAVAILABLE, first_byte=0.01), 3.0, 0.5)

    def first(now: float) -> set[Deployment]:
        return {strategy.rank(Query("m", now, n / 10), (failing, slow))[0] for n in range(10)}

    assert first(4.0) == {slow}
    assert first(30.0) == {failing}


def test_the_best_fault_says_most_about_when_to_come_back() -> None:
    faults = [
        Fault(Kind.UPSTREAM_FAILED, "no connection"),
        Fault(Kind.RATE_LIMITED, "slow down", retry_after=30),
        Fault(Kind.OVERLOADED, "full", retry_after=7),
    ]

    best = best_of(faults)

    assert (best.kind, best.message, best.retry_after) == (Kind.RATE_LIMITED, "slow down", 7)


# Affinity


def sticky(health: Health, affinity: Affinity) -> Router:
    strategy = Sticky(affinity, health, RoundRobin())
    return Router(lambda _: strategy, health, affinity)


def served(router: Router, candidates: tuple[Deployment, ...], session: int, now: float) -> Deployment:
    query = Query("m", now, 0.5, session)
    chosen = router.plan(query, candidates).ranked[0]
    router.end(router.begin(chosen, now), Ending(Outcome.OK, first_byte=0.1), query, 300.0)
    return chosen


@given(st.integers(2, 8), st.integers(0, 7), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40, unique=True))
def test_a_lost_deployment_moves_only_its_own_conversations(count: int, lost: int, sessions: list[int]) -> None:
    candidates = deployments(*"abcdefgh"[:count])
    gone = candidates[lost % count]
    rest = tuple(d for d in candidates if d != gone)
    first, second = sticky(Health(), Affinity()), sticky(Health(), Affinity())

    before = {session: served(first, candidates, session, 0.0) for session in sessions}
    elsewhere = {session: served(second, rest, session, 0.0) for session in sessions}

    assert all(elsewhere[s] == home for s, home in before.items() if home != gone)
    assert gone not in elsewhere.values()


def test_conversations_are_spread_evenly_and_stay() -> None:
    router = sticky(Health(), Affinity())
    candidates = deployments("a", "b", "c", "d")

    sessions = random.Random(1)
    homes = {s: served(router, candidates, s, 0.0) for s in (sessions.getrandbits(64) for _ in range(1000))}

    assert all(200 <= count <= 300 for count in Counter(d.id for d in homes.values()).values())
    assert all(served(router, candidates, session, 250.0) == home for session, home in homes.items())


def test_a_conversation_returns_home_only_while_it_is_warm() -> None:
    health, affinity = Health(), Affinity()
    router = sticky(health, affinity)
    candidates = deployments("a", "b", "c")
    home = served(router, candidates, 1, 0.0)

    health.end(health.begin(home, 10.0), Ending(Outcome.THROTTLED, retry_after=60.0), 10.0, 0.5)
    refuge = served(router, candidates, 1, 20.0)

    assert refuge != home
    assert served(router, candidates, 1, 30.0) == refuge
    assert served(router, candidates, 1, 100.0) == home  # the cooldown is over, and its cache still warm

    health.end(health.begin(home, 110.0), Ending(Outcome.THROTTLED, retry_after=400.0), 110.0, 0.5)
    assert served(router, candidates, 1, 120.0) == refuge
    assert served(router, candidates, 1, 400.0) == refuge
    assert served(router, candidates, 1, 600.0) == refuge  # home is cold by now


def test_an_overloaded_home_takes_no_new_conversation() -> None:
    health = Health()
    router = sticky(health, Affinity())
    candidates = deployments("a", "b")
    home = router.plan(Query("m", 0.0, 0.0, 7), candidates).ranked[0]
    for _ in range(40):
        health.begin(home, 0.0)

    assert router.plan(Query("m", 0.0, 0.0, 7), candidates).ranked[0] != home


def test_one_prompt_that_many_send_at_once_is_spread() -> None:
    health = Health()
    router = sticky(health, Affinity())
    candidates = deployments("a", "b", "c", "d")
    home = served(router, candidates, 7, 0.0)
    counts: Counter[str] = Counter()
    for _ in range(400):
        chosen = router.plan(Query("m", 1.0, 0.0, 7), candidates).ranked[0]
        router.begin(chosen, 1.0)
        counts[chosen.id] += 1

    assert counts[home.id] == max(counts.values()) <= 1.25 * 400 / 4 + 5
    assert len(counts) == 4


def test_affinity_forgets_the_longest_unused() -> None:
    affinity = Affinity(kept=10)
    only = deployments("a")[0]
    for session in range(25):
        affinity.went(session, only, float(session))

    assert len(affinity) == 10
    assert affinity.warm(24, only, 25.0)
    assert not affinity.warm(3, only, 25.0)


def test_a_decision_is_quick() -> None:
    """A benchmark that gates nothing but nonsense: 50 µs is the aim with 100 deployments, see the printed figure."""
    router = sticky(Health(), Affinity())
    candidates = deployments(*[f"s{n % 10}" for n in range(100)])
    for session in range(500):
        served(router, candidates, session, 0.0)
    began = time.perf_counter()
    for session in range(1000):
        router.plan(Query("m", 1.0, 0.5, session), candidates)
    each = (time.perf_counter() - began) / 1000
    print(f"\na decision among 100 deployments: {each * 1e6:.1f} us")
    assert each < 0.005
