"""What a deployment's answers do to it, to its subaccount and to other workers: docs/reliability.md as tables."""

from __future__ import annotations

import pytest

from aicore_proxy.landscape import Deployment
from aicore_proxy.routing.breaker import Limits, State
from aicore_proxy.routing.health import Change, Ending, Health, News, Permit, Reason, Skip
from aicore_proxy.routing.outcome import Outcome

LIMITS = Limits(consecutive=3, open_time=10, spread=0)
OK = Ending(Outcome.OK, first_byte=1.0)
BAD = Ending(Outcome.UNAVAILABLE)
EDGE = Ending(Outcome.UNAVAILABLE, edge=True)
REFUSED = Ending(Outcome.UNAUTHORIZED)
MISSING = Ending(Outcome.UNAUTHORIZED, missing=True)
NO_TOKEN = Ending(Outcome.UNAUTHORIZED, no_token=True)


def named(identity: str, place: str = "a", model: str = "m") -> Deployment:
    return Deployment(identity, place, "default", "any", model, "u")


def of(*names: str) -> tuple[Deployment, ...]:
    return tuple(named(name) for name in names)


def health_of(*known: Deployment, limits: Limits = LIMITS) -> Health:
    health = Health(limits)
    health.know(known, 0.0)
    return health


def ended(health: Health, deployment: Deployment, ending: Ending, now: float = 0.0) -> None:
    health.end(health.begin(deployment, now), ending, now, 0.5)


def reason(health: Health, deployment: Deployment, now: float, read_at: float = float("-inf")) -> Reason | None:
    skip = health.skip(deployment, now, read_at)
    return None if skip is None else skip.reason


# Subaccounts


@pytest.mark.parametrize(
    ("size", "failures", "alone"),
    [
        (5, [("d0", 0), ("d1", 1), ("d2", 2)], True),
        (5, [("d0", 0), ("d1", 1)], False),
        (5, [("d0", 0), ("d0", 1), ("d0", 2), ("d0", 3)], False),
        (5, [("d0", 0), ("d1", 1), ("d2", 30)], True),
        (5, [("d0", 0), ("d1", 1), ("d2", 31)], False),
        (2, [("d0", 0), ("d1", 1)], True),
        (2, [("d0", 0)], False),
        (1, [("d0", 0), ("d0", 1)], False),
    ],
)
def test_the_way_to_several_deployments_failed(size: int, failures: list[tuple[str, float]], alone: bool) -> None:
    health = health_of(*of(*[f"d{n}" for n in range(size)]), limits=Limits(open_time=10, spread=0))
    for name, at in failures:
        ended(health, named(name), EDGE, at)
    now = failures[-1][1]

    # A sibling that never failed itself tells what is said of the subaccount
    assert health.skip(named("sibling"), now) == (Skip(Reason.SUBACCOUNT, now + 10) if alone else None)
    assert health.skip(named("sibling", "b"), now) is None
    assert health.subaccount_states(now) == {"a": State.OPEN if alone else State.CLOSED}
    assert health.any_tripped is alone


def test_a_success_takes_back_its_own_edge_failure_only() -> None:
    health = health_of(*of("d0", "d1", "d2", "d3"))
    ended(health, named("d0"), EDGE)
    ended(health, named("d1"), EDGE)
    ended(health, named("d0"), OK)
    ended(health, named("d2"), EDGE)
    assert reason(health, named("sibling"), 0.0) is None

    ended(health, named("d3"), EDGE)
    assert reason(health, named("sibling"), 0.0) is Reason.SUBACCOUNT


def test_a_new_count_begins_after_a_subaccount_was_left_alone() -> None:
    health = health_of(*of("d0", "d1", "d2", "d3"))
    for name in ("d0", "d1", "d2"):
        ended(health, named(name), EDGE)
    for at in (11.0, 12.0):
        ended(health, named("d3"), OK, at)
    assert reason(health, named("d3"), 12.0) is None

    ended(health, named("d0"), EDGE, 13.0)
    assert reason(health, named("d3"), 13.0) is None


@pytest.mark.parametrize(
    ("endings", "alone"),
    [
        ([REFUSED, REFUSED, REFUSED], True),
        ([REFUSED, REFUSED], False),
        ([REFUSED, REFUSED, OK, REFUSED], False),
        ([REFUSED, REFUSED, Ending(Outcome.THROTTLED, retry_after=0.1), REFUSED], True),
        ([REFUSED, REFUSED, BAD, REFUSED], True),
        ([MISSING, MISSING, MISSING], False),
        ([REFUSED, REFUSED, MISSING], False),
        ([OK, OK, OK, OK], False),
    ],
)
def test_a_fresh_token_is_refused_three_times_in_a_row(endings: list[Ending], alone: bool) -> None:
    health = health_of(*of("d0", "d1"))
    for ending in endings:
        ended(health, named("d0"), ending)

    assert reason(health, named("d1"), 1.0) is (Reason.SUBACCOUNT if alone else None)


def test_a_subaccount_without_a_token_pauses_for_a_second_and_counts_no_refusal() -> None:
    health = health_of(*of("d0", "d1"))
    for _ in range(3):
        ended(health, named("d0"), NO_TOKEN)

    assert health.skip(named("d1"), 0.5) == Skip(Reason.SUBACCOUNT, 1.0)
    assert health.skip(named("d1"), 1.0) is None
    assert health.states(1.0) == {"d0": State.CLOSED}


@pytest.mark.parametrize(
    ("ending", "after"),
    [
        (OK, State.CLOSED),
        (BAD, State.CLOSED),  # its own trouble: the way there is well
        (Ending(Outcome.CLIENT_FAULT), State.CLOSED),
        (EDGE, State.OPEN),
        (REFUSED, State.OPEN),
        (NO_TOKEN, State.HALF_OPEN),
        (Ending(Outcome.CANCELLED), State.HALF_OPEN),
    ],
)
def test_what_the_probe_of_a_subaccount_says(ending: Ending, after: State) -> None:
    health = health_of(*of("d0", "d1"), limits=Limits(consecutive=3, open_time=10, spread=0, probes=1))
    for _ in range(3):
        ended(health, named("d0"), REFUSED)

    assert health.wants_probe(named("d1"), 10.0)
    permit = health.begin(named("d1"), 10.0)
    assert permit == Permit(named("d1"), probe=False, subaccount_probe=True)
    assert health.probing(named("d0"))
    assert not health.wants_probe(named("d0"), 10.0)
    health.end(permit, ending, 10.0, 0.5)

    assert health.subaccount_states(10.0) == {"a": after}
    assert health.any_tripped is (after is not State.CLOSED)


def test_while_a_probe_answers_the_next_one_may_go() -> None:
    health = health_of(*of("d0"))
    for _ in range(3):
        ended(health, named("d0"), Ending(Outcome.UNAUTHORIZED))
        ended(health, named("d0"), BAD)
    permit = health.begin(named("d0"), 10.0)
    assert (permit.probe, permit.subaccount_probe) == (True, True)
    assert reason(health, named("d0"), 10.0) is Reason.SUBACCOUNT

    health.answering(permit)

    assert reason(health, named("d0"), 10.0) is None
    assert not health.probing(named("d0"))


# Deployments


def test_why_a_deployment_is_skipped_and_until_when() -> None:
    health = health_of(*of("open", "throttled", "gone", "full", "well"))
    health.become(LIMITS, {"full": 2}, None, remembers=True)
    for _ in range(3):
        ended(health, named("open"), BAD, 1.0)
    ended(health, named("throttled"), Ending(Outcome.THROTTLED, retry_after=7, narrow=True), 1.0)
    ended(health, named("gone"), MISSING, 1.0)
    health.begin(named("full"), 1.0)
    assert health.skip(named("full"), 1.0) is None
    health.begin(named("full"), 1.0)

    assert {name: health.skip(named(name), 2.0) for name in ("open", "throttled", "gone", "full", "well", "new")} == {
        "open": Skip(Reason.BREAKER, 11.0),
        "throttled": Skip(Reason.COOLDOWN, 8.0),
        "gone": Skip(Reason.GONE, float("inf")),
        "full": Skip(Reason.FULL, 2.0),
        "well": None,
        "new": None,
    }


def test_a_throttle_concerns_the_model_in_the_subaccount() -> None:
    health = health_of()
    ended(health, named("d0"), Ending(Outcome.THROTTLED, retry_after=7))

    others = [named("d1"), named("d1", place="b"), named("d1", model="n")]
    assert [health.skip(d, 1.0) for d in others] == [Skip(Reason.COOLDOWN, 7.0), None, None]


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize(("ending", "until"), [(OK, 41.0), (BAD, 71.0)])
def test_an_answer_alone_makes_the_next_untold_throttle_a_first_one_again(
    narrow: bool, ending: Ending, until: float
) -> None:
    health = health_of()
    throttled = Ending(Outcome.THROTTLED, narrow=narrow)
    ended(health, named("d0"), throttled, 0.0)
    ended(health, named("d0"), throttled, 10.0)
    assert health.skip(named("d0"), 11.0) == Skip(Reason.COOLDOWN, 30.0)

    ended(health, named("d0"), ending, 30.0)
    ended(health, named("d0"), throttled, 31.0)

    assert health.skip(named("d0"), 32.0) == Skip(Reason.COOLDOWN, until)


def test_what_is_missing_comes_back_with_a_later_catalog() -> None:
    health = health_of()
    ended(health, named("d0"), MISSING, 5.0)

    assert reason(health, named("d0"), 6.0, read_at=5.0) is Reason.GONE
    assert reason(health, named("d0"), 7.0, read_at=6.0) is None
    assert reason(health, named("d0"), 8.0) is None  # it stays so


@pytest.mark.parametrize(
    ("caps", "cap", "most"), [({"d0": 2}, None, 2), ({"d0": 2}, 1, 2), ({"other": 2}, 1, 1), ({"other": 2}, None, None)]
)
def test_limits_of_requests_in_flight(caps: dict[str, int], cap: int | None, most: int | None) -> None:
    health = health_of()
    health.become(LIMITS, caps, cap, remembers=False)
    begun = 0
    while begun < 5 and health.skip(named("d0"), 0.0) is None:
        health.begin(named("d0"), 0.0)
        begun += 1

    assert begun == (most or 5)
    assert health.in_flight(named("d0")) == begun


def test_without_memory_nothing_is_skipped() -> None:
    health = health_of(*of("d0", "d1"))
    health.become(LIMITS, {}, None, remembers=False)
    for ending in (BAD, EDGE, REFUSED, MISSING, NO_TOKEN, Ending(Outcome.THROTTLED, retry_after=9)):
        for _ in range(5):
            ended(health, named("d0"), ending)
    for news in News:
        health.heard(Change(news, deployment="d0", until=100.0), 0.0)

    assert health.skip(named("d0"), 1.0) is None
    assert health.in_flight(named("d0")) == 0


def test_other_limits_hold_for_what_is_known_already() -> None:
    health = health_of(*of("d0", "d1"))
    ended(health, named("d0"), REFUSED)
    ended(health, named("d0"), BAD)
    health.become(Limits(consecutive=2, open_time=50, spread=0), {}, None, remembers=True)

    ended(health, named("d0"), BAD)
    assert health.skip(named("d0"), 1.0) == Skip(Reason.BREAKER, 50.0)
    ended(health, named("d0"), REFUSED)
    ended(health, named("d0"), REFUSED)
    assert health.skip(named("d1"), 1.0) == Skip(Reason.SUBACCOUNT, 50.0)


@pytest.mark.parametrize(
    ("others", "first_byte", "opens"),
    [
        ([5.0, 5.0, 5.0], 26.0, True),
        ([5.0, 5.0, 5.0], 25.0, False),  # five times the median
        ([1.0, 1.0, 1.0], 21.0, True),
        ([1.0, 1.0, 1.0], 20.0, False),  # never below 20 s
        ([1.0, 5.0, 100.0], 26.0, True),
        ([], 500.0, False),  # the only one: models think for minutes by right
    ],
)
def test_slow_is_judged_against_the_models_others(others: list[float], first_byte: float, opens: bool) -> None:
    health = health_of()
    for n, seconds in enumerate(others):
        ended(health, named(f"o{n}"), Ending(Outcome.OK, first_byte=seconds))
    ended(health, named("other model", model="n"), Ending(Outcome.OK, first_byte=0.1))
    ended(health, named("failed"), BAD)  # has no latency
    ended(health, named("silent"), Ending(Outcome.OK))
    for _ in range(20):
        ended(health, named("d0"), Ending(Outcome.OK, first_byte=first_byte))

    assert (health.states(0.0)["d0"] is State.OPEN) is opens


@pytest.mark.parametrize(("quick", "opens"), [(5, True), (6, False)])
def test_quick_answers_count_against_slow_ones(quick: int, opens: bool) -> None:
    health = health_of()
    ended(health, named("other"), OK)
    for seconds in [1.0] * quick + [60.0] * 20:
        ended(health, named("d0"), Ending(Outcome.OK, first_byte=seconds))

    assert (health.states(0.0)["d0"] is State.OPEN) is opens


def test_latency_is_a_moving_average_that_grows_stale() -> None:
    health = health_of()
    assert health.slowness(named("d0"), 0.0) == 0
    ended(health, named("d0"), Ending(Outcome.OK, first_byte=10.0), 1000.0)
    assert health.slowness(named("d0"), 1000.0) == 10
    ended(health, named("d0"), Ending(Outcome.OK, first_byte=20.0), 1060.0)
    assert health.slowness(named("d0"), 1060.0) == pytest.approx(12)
    ended(health, named("d0"), Ending(Outcome.CANCELLED, first_byte=90.0), 1060.0)
    ended(health, named("d0"), Ending(Outcome.OK), 1060.0)
    # As it is for a minute, then half of it with every further one
    assert [health.slowness(named("d0"), at) for at in (1120.0, 1180.0, 1240.0)] == pytest.approx([12, 6, 3])
    ended(health, named("d0"), Ending(Outcome.OK, first_byte=2.0), 1121.0)
    assert health.slowness(named("d0"), 1121.0) == 2


@pytest.mark.parametrize("outcome", [Outcome.UNAVAILABLE, Outcome.TIMEOUT, Outcome.THROTTLED, Outcome.UNAUTHORIZED])
def test_a_failure_counts_as_ten_seconds_and_fades(outcome: Outcome) -> None:
    health = health_of()
    ended(health, named("d0"), Ending(Outcome.OK, first_byte=1.0), 0.0)
    ended(health, named("d0"), Ending(outcome, first_byte=0.1), 10.0)

    assert not health.last_good(named("d0"))
    assert [health.slowness(named("d0"), at) for at in (10.0, 20.0, 30.0)] == pytest.approx(
        [11, 1 + 10 / 3, 1 + 10 / 9]
    )
    assert health.slowness(named("d0"), 110.0) < 1


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.CLIENT_FAULT])
def test_a_clients_doing_says_nothing_of_a_deployment(outcome: Outcome) -> None:
    health = health_of()
    assert health.last_good(named("d0"))
    for _ in range(30):
        ended(health, named("d0"), Ending(outcome, first_byte=0.1))
    assert health.last_good(named("d0"))
    assert health.slowness(named("d0"), 0.0) == 0
    assert health.states(0.0) == {"d0": State.CLOSED}


def test_what_left_the_catalog_is_forgotten_once_nothing_is_in_flight() -> None:
    health = health_of()
    permit = health.begin(named("d0"), 0.0)
    ended(health, named("d1"), OK)
    ended(health, named("d2"), OK)

    health.know(of("d2"), 1.0)
    assert set(health.states(1.0)) == {"d0", "d2"}
    health.end(permit, OK, 2.0, 0.5)
    health.know(of("d2"), 2.0)
    assert set(health.states(2.0)) == {"d2"}


def test_with_each_catalog_old_cooldowns_are_forgotten() -> None:
    health = health_of()
    ended(health, named("d0"), Ending(Outcome.THROTTLED, retry_after=7))
    for now, kept in ((60.0, True), (100.0, False)):
        health.know((), now)
        assert bool(health.cooldowns) is kept


# Workers


class Worker:
    """One worker's health, and what it told."""

    def __init__(self) -> None:
        self.health = health_of(*of("d0", "d1", "d2"))
        self.told: list[Change] = []
        self.health.tell = self.told.append


STORIES: dict[str, tuple[list[Ending], list[Change], Skip]] = {
    "open": ([BAD] * 3, [Change(News.OPEN, deployment="d0", until=11.0)], Skip(Reason.BREAKER, 11.0)),
    "throttle": (
        [Ending(Outcome.THROTTLED, retry_after=7)],
        [Change(News.COOLDOWN, subaccount="a", model="m", until=8.0)],
        Skip(Reason.COOLDOWN, 8.0),
    ),
    "narrow throttle": (
        [Ending(Outcome.THROTTLED, retry_after=7, narrow=True)],
        [Change(News.COOLDOWN, deployment="d0", until=8.0)],
        Skip(Reason.COOLDOWN, 8.0),
    ),
    "throttle without a time": (
        [Ending(Outcome.THROTTLED)],
        [Change(News.COOLDOWN, subaccount="a", model="m", until=11.0, untold=1)],
        Skip(Reason.COOLDOWN, 11.0),
    ),
    "gone": ([MISSING], [Change(News.GONE, deployment="d0", until=1.0)], Skip(Reason.GONE, float("inf"))),
    "subaccount": ([REFUSED] * 3, [Change(News.OPEN, subaccount="a", until=11.0)], Skip(Reason.SUBACCOUNT, 11.0)),
}


@pytest.mark.parametrize("story", STORIES)
def test_workers_tell_each_other_once_and_a_new_one_everything(story: str) -> None:
    endings, changes, skip = STORIES[story]
    first, second, third = Worker(), Worker(), Worker()
    for ending in endings:
        ended(first.health, named("d0"), ending, 1.0)
    assert first.told == changes

    for change in first.told:
        second.health.heard(change, 1.0)
    assert second.told == []  # nobody repeats what he heard
    second.health.tell_all(1.0)
    assert second.told == changes
    for change in second.told:
        third.health.heard(change, 1.0)

    for worker in (first, second, third):
        assert worker.health.skip(named("d0"), 2.0) == skip
        assert worker.health.any_tripped is (skip.reason in (Reason.BREAKER, Reason.SUBACCOUNT))


def test_d08_what_one_worker_heard_in_vain_makes_the_next_wait_longer_in_all() -> None:
    first, second = Worker(), Worker()
    for worker, other, until in ((first, second, 10.0), (second, first, 30.0), (first, second, 70.0)):
        ended(worker.health, named("d0"), Ending(Outcome.THROTTLED), until - 10.0 * 2 ** len(worker.told + other.told))
        other.health.heard(worker.told[-1], until - 1.0)
        assert other.health.skip(named("d0"), until - 0.5) == Skip(Reason.COOLDOWN, until)


@pytest.mark.parametrize(("ending", "opened"), [(BAD, Change(News.OPEN, "d0")), (REFUSED, Change(News.OPEN, "", "a"))])
def test_what_one_workers_probes_closed_is_closed_for_all(ending: Ending, opened: Change) -> None:
    first, second = Worker(), Worker()
    for _ in range(3):
        ended(first.health, named("d0"), ending)
    second.health.heard(first.told.pop(), 0.0)
    assert second.health.any_tripped
    for _ in range(2):
        assert first.told == []
        ended(first.health, named("d0"), OK, 10.0)

    assert first.told == [Change(News.CLOSED, opened.deployment, opened.subaccount)]
    second.health.heard(first.told[0], 5.0)
    assert second.health.skip(named("d0"), 5.0) is None
    assert not second.health.any_tripped


def test_what_others_say_is_bounded_and_nothing_is_told_of_the_well() -> None:
    worker = Worker()
    worker.health.heard(Change(News.COOLDOWN, subaccount="a", model="m", until=1e9), 0.0)
    worker.health.heard(Change(News.OPEN, deployment="d1", until=1e9), 0.0)
    ended(worker.health, named("d2"), OK)

    assert worker.health.skip(named("d0"), 1.0) == Skip(Reason.COOLDOWN, 3600.0)
    assert worker.health.skip(named("d1", model="n"), 1.0) == Skip(Reason.BREAKER, 240.0)
    worker.health.tell_all(5000.0)
    assert worker.told == []
