"""A proxy in front of a simulator whose requests nobody else makes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.end_to_end.conftest import Proxy, Simulator, running_proxy, running_simulator


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with running_simulator(tmp_path_factory.mktemp("simulator")) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def proxy(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("proxy"), simulator) as proxy:
        yield proxy
