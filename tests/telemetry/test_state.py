"""What is read when somebody looks: the state of parts that others own."""

from __future__ import annotations

import datetime
import threading
from typing import Any

import pytest
import trustme
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from tests.telemetry.reading import Numbers

from aicore_proxy.landscape import Deployment, catalog_of
from aicore_proxy.routing.breaker import DEFAULT
from aicore_proxy.routing.concurrency import Learning
from aicore_proxy.routing.health import Ending, Health
from aicore_proxy.routing.outcome import Outcome
from aicore_proxy.sap.discovery import SubaccountState
from aicore_proxy.sap.service_key import service_key
from aicore_proxy.sap.survey import CatalogueEntry, GroupSurvey, Listed, Survey, Version
from aicore_proxy.telemetry.state import Owners, State, moment_of

DEPLOYMENTS = [
    Deployment(f"d{alias}{model}", f"sub-{alias}", "default", "azure-openai", f"model-{model}", "http://x")
    for alias in "ab"
    for model in "mn"
]


def state(health: Health, now: float, **owners: Any) -> Numbers:
    registry = CollectorRegistry()
    catalog = catalog_of(DEPLOYMENTS)
    given: dict[str, Any] = {
        "health": lambda: health,
        "catalog": lambda: catalog,
        "waiting": lambda model: 3 if model == "model-m" else 0,
        "tokens": dict,
        "service_keys": tuple,
        "subaccounts": tuple,
        "surveys": dict,
        **owners,
    }
    registry.register(State(Owners(**given), clock=lambda: now))
    return Numbers(generate_latest(registry).decode())


def end(health: Health, deployment: Deployment, now: float, **ending: Any) -> None:
    health.end(health.begin(deployment, now), Ending(**ending), now, 0.5)


def test_breakers_and_cooldowns_are_shown_as_they_are() -> None:
    health = Health()
    first, _, third, _ = DEPLOYMENTS
    for number in range(5):
        end(health, first, 100.0 + number, outcome=Outcome.UNAVAILABLE)
    end(health, third, 105.0, outcome=Outcome.THROTTLED, retry_after=30.0)
    health.begin(third, 105.0)

    seen = state(health, 106.0)
    assert seen.total("breaker_state", deployment=first.id) == 1
    assert seen.total("breaker_state") == 1
    assert seen.total("cooldown_seconds_remaining", deployment=third.id) == pytest.approx(29.0)
    assert seen.total("cooldown_seconds_remaining") == pytest.approx(29.0)
    assert seen.total("deployment_in_flight_requests", subaccount="sub-b", model="model-m") == 1
    assert seen.total("queued_requests", model="model-m") == 3

    assert state(health, 130.0).total("breaker_state", deployment=first.id) == 2
    end(health, first, 130.0, outcome=Outcome.OK)
    end(health, first, 131.0, outcome=Outcome.OK)
    later = state(health, 140.0)
    assert later.total("breaker_state") == later.total("cooldown_seconds_remaining") == 0


def test_a_limit_is_shown_where_there_is_one() -> None:
    health = Health()
    first, _, third, fourth = DEPLOYMENTS
    learns = {"model-m": Learning(start=10)}.get
    health.become(DEFAULT, {first.id: 4, fourth.id: 5}, None, remembers=True, learns=learns)
    end(health, third, 1.0, outcome=Outcome.UNAVAILABLE, overloaded=True)

    seen = state(health, 2.0)
    shown = {s.labels["deployment"]: s.value for s in seen.samples if s.name.endswith("_deployment_limit_requests")}
    assert shown == {first.id: 4, third.id: 7, fourth.id: 5}


def test_subaccounts_show_their_age_from_the_start_on() -> None:
    told = (
        SubaccountState("sub-a", 2, 90.0, ()),
        SubaccountState("sub-b", 0, None, ("it failed",)),
    )
    seen = state(Health(), 100.0, subaccounts=lambda: told)
    assert seen.total("discovery_age_seconds", subaccount="sub-a") == 10
    assert seen.total("discovery_age_seconds", subaccount="sub-b") == 0  # since the start, which was now
    assert seen.total("discovery_problems", subaccount="sub-b") == 1


def test_surveys_show_statuses_and_retirement_dates_of_what_runs() -> None:
    listed = [
        Listed("d1", "default", "RUNNING", model="m", version="1"),
        Listed("d2", "default", "DEAD", model="n", version="1"),
        Listed("d3", "other", "RUNNING", model="n", version="latest"),
        Listed("d4", "other", "RUNNING", model="unknown"),
    ]
    groups = (GroupSurvey("default", tuple(listed[:2])), GroupSurvey("other", tuple(listed[2:])))
    models = {
        "m": CatalogueEntry("m", "azure-openai", versions=(Version("1", retires="2027-02-28"),)),
        "n": CatalogueEntry("n", "azure-openai", versions=(Version("2", latest=True, retires="soon"),)),
    }
    seen = state(Health(), 0.0, surveys=lambda: {"sub-a": Survey("sub-a", groups=groups, models=models)})
    assert seen.total("deployments", subaccount="sub-a", status="RUNNING") == 3
    assert seen.total("deployments", subaccount="sub-a", status="DEAD") == 1
    date = datetime.datetime(2027, 2, 28, tzinfo=datetime.UTC).timestamp()
    retiring = [s for s in seen.samples if s.name == "aicore_proxy_model_retirement_timestamp_seconds"]
    assert [(s.labels, s.value) for s in retiring] == [({"subaccount": "sub-a", "model": "m", "version": "1"}, date)]
    assert moment_of("2027-02-28T00:00:00Z") == date
    assert moment_of("") is None


def test_a_certificate_s_end_is_shown() -> None:
    expires = datetime.datetime(2027, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    issued = trustme.CA().issue_cert("client.example", not_after=expires)
    key = service_key(
        {
            "clientid": "sb-x",
            "certificate": issued.cert_chain_pems[0].bytes().decode(),
            "key": issued.private_key_pem.bytes().decode(),
            "certurl": "https://x.example",
            "url": "https://x.example",
            "serviceurls": {"AI_API_URL": "https://api.example"},
        },
        "sub-a",
        "a test",
    )
    seen = state(Health(), 0.0, service_keys=lambda: (key,))
    assert seen.total("credential_expiry_timestamp_seconds", subaccount="sub-a") == expires.timestamp()


def test_it_may_be_read_in_a_thread_while_it_changes() -> None:
    health, done = Health(), threading.Event()

    def change() -> None:
        while not done.is_set():
            for number in range(200):
                other = Deployment(f"x{number}", "sub-a", "default", "azure-openai", "model-m", "http://x")
                end(health, other, 1.0, outcome=Outcome.THROTTLED, retry_after=1.0, narrow=True)
            health.know(DEPLOYMENTS, 1000.0)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(100):
            assert state(health, 1.0).values("breaker_state", "deployment") == {d.id for d in DEPLOYMENTS}
    finally:
        done.set()
        changing.join()
