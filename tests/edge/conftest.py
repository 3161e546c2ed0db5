from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.edge.raw import Server, serving


@pytest.fixture(scope="session")
def edge() -> Iterator[Server]:
    """One server with the default settings but a body limit of 1 MiB."""
    with serving(body_limit=1024 * 1024) as server:
        yield server


@pytest.fixture(scope="session")
def hasty() -> Iterator[Server]:
    """One server with short times."""
    limits = {"head_time": 1.0, "idle": 1.5, "linger": 0.5, "stuck": 1.5}
    timings = {"hold": 0.6, "keepalive": 0.8, "body_gap": 1.0, "body_time": 2.5}
    with serving(limits=limits, timings=timings) as server:
        yield server
