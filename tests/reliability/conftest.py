"""Four subaccounts with one deployment of each model, and a proxy that remembers faults, with its times shortened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from tests.end_to_end.asking import PATHS, body
from tests.end_to_end.conftest import Proxy, Simulator, running_proxy, running_simulator

MODELS = ["gpt-5", "anthropic--claude-4.5-sonnet", "gemini-2.5-pro"]
SUBACCOUNTS = [f"sub-{n}" for n in range(4)]


class House(NamedTuple):
    """A proxy and the simulator behind it."""

    simulator: Simulator
    proxy: Proxy

    def ask(self, protocol: str = "chat", model: str = "gpt-5", text: str = "Hello!", **more: Any) -> httpx2.Response:
        return self.proxy.http.post(PATHS[protocol], json=body(protocol, model, text, **more))

    def received(self, model: str = "gpt-5") -> dict[str, int]:
        """Requests so far, by subaccount."""
        return self.simulator.received_by_subaccount(model)

    def token_requests(self) -> dict[str, int]:
        """So far, by subaccount."""
        return {name: place["token_requests"] for name, place in self.simulator.state()["subaccounts"].items()}

    def since(self, before: dict[str, int], model: str = "gpt-5") -> dict[str, int]:
        now = self.received(model)
        return {alias: now[alias] - count for alias, count in before.items()}


def until(holds: Callable[[], bool], seconds: float) -> None:
    """Waits for what is to hold within so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def running_house(
    home: Path, subaccounts: int = 4, *, fast: bool = True, command: list[str] | None = None, **settings: str
) -> Iterator[House]:
    landscape = {"subaccounts": [{"name": name, "models": MODELS} for name in SUBACCOUNTS[:subaccounts]]}
    usual = {"breakers": "true", "strategy": "round_robin", "breaker_open_time": "1", "log_level": "error"}
    with (
        running_simulator(home, *(["--fast"] if fast else []), landscape=landscape) as simulator,
        running_proxy(home, simulator, command=command, **{**usual, **settings}) as proxy,
    ):
        yield House(simulator, proxy)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with running_house(tmp_path) as house:
        yield house
