"""What others own and change, read when somebody looks at the metrics: breakers, cooldowns, tokens, discovery."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aicore_proxy.landscape import Catalog
from aicore_proxy.routing.breaker import State as BreakerState
from aicore_proxy.routing.health import Health, wide
from aicore_proxy.sap.certificate import validity
from aicore_proxy.sap.discovery import SubaccountState
from aicore_proxy.sap.service_key import ServiceKey
from aicore_proxy.sap.survey import Survey
from aicore_proxy.sap.token import TokenProvider

BREAKER_VALUES: Mapping[BreakerState, int] = {
    BreakerState.CLOSED: 0,
    BreakerState.OPEN: 1,
    BreakerState.HALF_OPEN: 2,
}
TRIES = 5
PLACE = ("subaccount", "model", "deployment")


class Owners(Struct, frozen=True):
    """Who owns it. Each is asked anew every time, since a reload replaces some of them. ``waiting``: how many requests
    wait for a model. ``tokens``, ``surveys`` (the last that succeeded): by subaccount."""

    health: Callable[[], Health]
    catalog: Callable[[], Catalog]
    waiting: Callable[[str], int]
    tokens: Callable[[], Mapping[str, TokenProvider]]
    service_keys: Callable[[], Sequence[ServiceKey]]
    subaccounts: Callable[[], Sequence[SubaccountState]]
    surveys: Callable[[], Mapping[str, Survey]]


class State(Collector):
    """Reads it for a registry. Never changes anything."""

    def __init__(self, owners: Owners, clock: Callable[[], float] = time.monotonic) -> None:
        self._owners = owners
        self._clock = clock
        self._since = clock()

    def describe(self) -> Iterable[Metric]:
        return ()  # else the registry would collect at once, before there is anything

    def collect(self) -> list[Metric]:
        """Perhaps in a thread, beside the event loop that changes it: begun anew where that got in the way."""
        for _ in range(TRIES):
            try:
                return list(self._read())
            except RuntimeError:  # a dictionary changed its size
                continue
        return []

    def _read(self) -> Iterator[Metric]:
        now = self._clock()
        yield from self._of_deployments(now)
        yield from self._of_subaccounts(now)
        yield from self._of_tokens()
        yield from self._of_surveys()

    def _of_deployments(self, now: float) -> Iterator[Metric]:
        health, catalog = self._owners.health(), self._owners.catalog()
        queued = _gauge("queued_requests", "Requests that wait until a deployment may have one more", "model")
        for model in list(catalog.by_name):
            queued.add_metric((model,), self._owners.waiting(model))
        states, cooling = health.states(now), health.cooldowns
        breakers = _gauge("breaker_state", "Circuit breaker: 0 closed, 1 open, 2 half open", *PLACE)
        cooldowns = _gauge("cooldown_seconds_remaining", "Until a throttled deployment may be asked again", *PLACE)
        in_flight = _gauge("deployment_in_flight_requests", "Attempts in flight", *PLACE)
        limits = _gauge("deployment_limit_requests", "Attempts that may be in flight, where there is a limit", *PLACE)
        for deployment in catalog.deployments():
            place = (deployment.subaccount, deployment.model, deployment.id)
            breakers.add_metric(place, BREAKER_VALUES[states.get(deployment.id, BreakerState.CLOSED)])
            until = max(cooling.until(wide(deployment)), cooling.until(deployment.id))
            cooldowns.add_metric(place, max(0.0, until - now))
            in_flight.add_metric(place, health.in_flight(deployment))
            if (limit := health.limit(deployment)) is not None:
                limits.add_metric(place, limit)
        yield from (queued, breakers, cooldowns, in_flight, limits)

    def _of_subaccounts(self, now: float) -> Iterator[Metric]:
        states = self._owners.health().subaccount_states(now)
        breakers = _gauge("subaccount_breaker_state", "As breaker_state, of a subaccount as a whole", "subaccount")
        age = _gauge("discovery_age_seconds", "Since all deployments of a subaccount were last read", "subaccount")
        problems = _gauge("discovery_problems", "What failed when they were last read", "subaccount")
        for known in self._owners.subaccounts():
            alias = (known.alias,)
            breakers.add_metric(alias, BREAKER_VALUES[states.get(known.alias, BreakerState.CLOSED)])
            age.add_metric(alias, now - (self._since if known.read_at is None else known.read_at))
            problems.add_metric(alias, len(known.problems))
        yield from (breakers, age, problems)

    def _of_tokens(self) -> Iterator[Metric]:
        refreshes = CounterMetricFamily(
            "aicore_proxy_token_refresh", "Token requests to SAP", labels=("subaccount", "result")
        )
        for alias, provider in self._owners.tokens().items():
            refreshes.add_metric((alias, "ok"), provider.succeeded)
            refreshes.add_metric((alias, "failed"), provider.failed)
        yield refreshes
        expiry = _gauge(
            "credential_expiry_timestamp_seconds", "When the certificate of a service key expires", "subaccount"
        )
        for key in self._owners.service_keys():
            between = validity(key.certificate) if key.by_certificate else None
            if between is not None:
                expiry.add_metric((key.name,), between[1].timestamp())
        yield expiry

    def _of_surveys(self) -> Iterator[Metric]:
        deployments = _gauge("deployments", "Deployments of models, by SAP's status", "subaccount", "status")
        retiring = _gauge(
            "model_retirement_timestamp_seconds",
            "When a deployed version of a model is retired; version latest moves on by itself",
            "subaccount",
            "model",
            "version",
        )
        for alias, survey in self._owners.surveys().items():
            statuses: dict[str, int] = {}
            dates: dict[tuple[str, str, str], float] = {}
            for listed in survey.deployments:
                statuses[listed.status or "UNKNOWN"] = statuses.get(listed.status or "UNKNOWN", 0) + 1
                entry = survey.models.get(listed.model)
                version = entry.version(listed.version) if entry is not None and listed.status == "RUNNING" else None
                if version is not None and (at := moment_of(version.retires)) is not None:
                    dates[alias, listed.model, listed.version or "latest"] = at
            for status, count in statuses.items():
                deployments.add_metric((alias, status), count)
            for labels, at in dates.items():
                retiring.add_metric(labels, at)
        yield from (deployments, retiring)


def moment_of(date: str) -> float | None:
    """Unix seconds of a date as SAP writes it (ISO 8601, with or without a time); None: it is none."""
    try:
        moment = datetime.datetime.fromisoformat(date)
    except ValueError:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _gauge(name: str, words: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"aicore_proxy_{name}", words, labels=labels)
