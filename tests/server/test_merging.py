"""Metrics of several processes as those of one."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.parser import text_string_to_metric_families

from aicore_proxy.server.channel import Exposed, FromWorker
from aicore_proxy.server.merging import exposition, families, lasting, merged

BUCKETS = (0.1, 1, 10)


class Process:
    """What one process counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "Requests", ("protocol",), registry=self.registry)
        self.seconds = Histogram("seconds", "How long", buckets=BUCKETS, registry=self.registry)
        self.in_flight = Gauge("in_flight_requests", "Now", registry=self.registry)
        self.lag = Gauge("lag_seconds", "Longest", registry=self.registry)
        Info("build", "Version", registry=self.registry).info({"version": "1"})

    def observe(self, protocol: str, seconds: float) -> None:
        self.requests.labels(protocol).inc()
        self.seconds.observe(seconds)


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


observed = st.lists(st.tuples(st.sampled_from(["chat", "messages"]), st.sampled_from([0.0625, 0.5, 5.0, 50.0])))


@given(st.lists(observed, min_size=1, max_size=4))
def test_counters_and_histograms_are_as_if_one_process_had_counted(shares: list[list[tuple[str, float]]]) -> None:
    one, processes = Process(), [Process() for _ in shares]
    for process, share in zip(processes, shares, strict=True):
        for protocol, seconds in share:
            one.observe(protocol, seconds)
            process.observe(protocol, seconds)

    told = exposition(merged(families(process.registry) for process in processes))[0]

    assert samples(told) == samples(exposition(families(one.registry))[0])


def test_gauges_that_count_are_added_others_are_the_largest() -> None:
    first, second = Process(), Process()
    for process, in_flight, lag in ((first, 3, 0.5), (second, 4, 0.2)):
        process.in_flight.set(in_flight)
        process.lag.set(lag)

    found = samples(exposition(merged((families(first.registry), families(second.registry))))[0])

    assert found["in_flight_requests", ()] == 7
    assert found["lag_seconds", ()] == 0.5
    assert found["build_info", (("version", "1"),)] == 1


def test_of_a_process_that_ended_what_it_counted_stays_and_what_it_was_goes() -> None:
    gone, alive = Process(), Process()
    gone.observe("chat", 0.5)
    gone.in_flight.set(5)
    alive.observe("chat", 0.5)

    found = samples(exposition(merged((lasting(families(gone.registry)), families(alive.registry))))[0])

    assert found["requests_total", (("protocol", "chat"),)] == 2
    assert found["seconds_count", ()] == 2
    assert found["in_flight_requests", ()] == 0


def test_what_is_told_survives_the_channel_also_where_it_is_no_number() -> None:
    process = Process()
    process.observe("chat", 0.5)
    process.lag.set(float("nan"))

    told = Exposed(7, tuple(families(process.registry)))
    heard = msgspec.json.decode(msgspec.json.encode(told), type=FromWorker)

    assert heard == told
    assert not [family for family in told.families if family.name == "lag_seconds" and family.samples]
