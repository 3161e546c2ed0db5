"""What /metrics says, read as Prometheus reads it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import httpx2
from prometheus_client.parser import text_string_to_metric_families


class Numbers:
    """The samples of one look at /metrics. Names without ``aicore_proxy_`` are ours."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name whose labels are these, whatever others they have."""
        wanted = {name, f"aicore_proxy_{name}"}
        return sum(s.value for s in self.samples if s.name in wanted and labels.items() <= s.labels.items())

    def values(self, name: str, label: str) -> set[str]:
        """All values of a label."""
        wanted = {name, f"aicore_proxy_{name}"}
        return {s.labels[label] for s in self.samples if s.name in wanted and label in s.labels}


class Change(NamedTuple):
    """Two looks."""

    before: Numbers
    after: Numbers

    def __call__(self, name: str, **labels: str) -> float:
        return self.after.total(name, **labels) - self.before.total(name, **labels)


def look(http: httpx2.Client) -> Numbers:
    answer = http.get("/metrics")
    assert answer.status_code == 200
    return Numbers(answer.text)


def changed(http: httpx2.Client, before: Numbers, requests: int, seconds: float = 5.0) -> Change:
    """What has changed once ``requests`` more were counted and none is in flight: the client may have its last byte a
    moment before the request is counted. Waits on for a moment, for any that is counted twice."""
    change = until(lambda: Change(before, look(http)), lambda c: settled(c, requests), seconds)
    time.sleep(0.05)
    change = Change(before, look(http))
    assert change("requests_total") == requests
    return change


def settled(change: Change, requests: int) -> bool:
    return change("requests_total") >= requests and change.after.total("in_flight_requests") == 0


def until(make: Callable[[], Change], holds: Callable[[Change], bool], seconds: float) -> Change:
    deadline = time.monotonic() + seconds
    while not holds(made := make()):
        assert time.monotonic() < deadline, "the numbers do not settle"
        time.sleep(0.02)
    return made
