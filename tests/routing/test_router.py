"""Plans: exact turns under concurrency, and another subaccount first after a failure."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.routing.outcome import best_of
from aicore_proxy.routing.router import Router
from aicore_proxy.routing.strategies import RoundRobin


def deployments(*subaccounts: str) -> tuple[Deployment, ...]:
    return tuple(Deployment(f"d{n}", place, "default", "any", "m", "u") for n, place in enumerate(subaccounts))


def test_100_000_concurrent_turns_are_exact() -> None:
    router = Router(RoundRobin())
    candidates = deployments("a", "b", "c", "d")

    def some(_: int) -> Counter[str]:
        return Counter(router.plan("m", candidates).ranked[0].id for _ in range(10_000))

    with ThreadPoolExecutor(10) as pool:
        first = sum(pool.map(some, range(10)), Counter())

    assert set(first.values()) == {25_000}


def test_models_have_turns_of_their_own() -> None:
    router = Router(RoundRobin())
    candidates = deployments("a", "b")

    assert [router.plan(m, candidates).ranked[0].id for m in ("x", "y", "x", "y")] == ["d0", "d0", "d1", "d1"]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.integers(0, 20))
def test_a_plan_asks_each_once_and_another_subaccount_first(places: list[str], turns: int) -> None:
    router = Router(RoundRobin(), max_attempts=5)
    candidates = deployments(*places)
    for _ in range(turns):
        router.plan("m", candidates)

    plan = router.plan("m", candidates)

    asked = [d.subaccount for d in plan.ranked]
    assert len({d.id for d in plan.ranked}) == len(plan.ranked) == min(5, len(candidates))
    assert len(plan.ranked) + len(plan.skipped) == len(candidates)
    for position in range(1, len(asked)):
        unasked = set(places) - set(asked[:position])
        assert asked[position] in unasked or not unasked


def test_the_best_fault_says_most_about_when_to_come_back() -> None:
    faults = [
        Fault(Kind.UPSTREAM_FAILED, "no connection"),
        Fault(Kind.RATE_LIMITED, "slow down", retry_after=30),
        Fault(Kind.OVERLOADED, "full", retry_after=7),
    ]

    best = best_of(faults)

    assert (best.kind, best.message, best.retry_after) == (Kind.RATE_LIMITED, "slow down", 7)
