"""A proxy in front of the simulator, for the commands that talk to one; an account, for those that look at SAP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.doctoring import EU, Patient, treated
from tests.end_to_end.conftest import Proxy, Simulator, running_proxy, running_simulator

from aicore_proxy.simulator.landscape import Landscape


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with running_simulator(tmp_path_factory.mktemp("simulator")) as simulator:
        yield simulator


@pytest.fixture(scope="session")
def proxy(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("proxy"), simulator) as proxy:
        yield proxy


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    """An account of one subaccount that nothing ails."""
    yield from treated(Landscape((EU,)), tmp_path)
