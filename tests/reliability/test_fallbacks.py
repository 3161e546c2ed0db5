"""Another model answers where the one asked for cannot; the answer says so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.end_to_end.asking import PROTOCOLS, error_of, said
from tests.reliability.conftest import House, running_house

CLAUDE = "anthropic--claude-4.5-sonnet"


@contextmanager
def falling_house(home: Path) -> Iterator[House]:
    file = home / "aicore-proxy.yaml"
    fallbacks = {"team": ["nowhere", "claude-sonnet-4-5", "gemini-2.5-pro"]}
    file.write_text(yaml.safe_dump({"aliases": {"team": "gpt-5"}, "routing": {"fallbacks": fallbacks}}))
    with running_house(home, 2, config=str(file)) as house:
        yield house


@pytest.fixture(scope="module")
def falling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with falling_house(tmp_path_factory.mktemp("falling")) as house:
        yield house


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[House]:
    """One that remembers nothing of other tests' faults."""
    with falling_house(tmp_path) as house:
        yield house


FAULTS: list[dict[str, Any]] = [
    {"status": 500}, {"status": 429}, {"reset": True}, {"refuse": "context_length"}, {"refuse": "content_filter"},
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_d33_the_fallback_answers_and_says_so(
    falling: House, fault: dict[str, Any], protocol: str, stream: bool
) -> None:
    falling.simulator.clear()
    falling.simulator.script(fault, "gpt-5")
    began = time.monotonic()

    answer = falling.ask(protocol, "team", stream=stream)

    assert said(protocol, answer)
    assert answer.headers["x-aicore-proxy-fallback"] == CLAUDE
    assert answer.headers["x-aicore-proxy-model"] == CLAUDE
    assert time.monotonic() - began < 3


def test_the_next_fallback_answers_where_the_first_fails_too(fresh: House) -> None:
    fresh.simulator.script({"status": 500}, "gpt-5", CLAUDE)

    assert fresh.ask("chat", "team").headers["x-aicore-proxy-fallback"] == "gemini-2.5-pro"


def test_where_all_fail_the_client_hears_of_the_model_that_it_asked_for(fresh: House) -> None:
    fresh.simulator.script({"refuse": "context_length"}, "gpt-5")
    fresh.simulator.script({"status": 500, "message": "of a fallback"}, CLAUDE, "gemini-2.5-pro")

    answer = fresh.ask("chat", "team")

    assert answer.status_code == 400
    assert error_of("chat", answer)["code"] == "context_length_exceeded"


def test_only_the_configured_name_falls_back_and_only_for_a_reason(fresh: House) -> None:
    fresh.simulator.script({"refuse": "context_length"}, "gpt-5")
    assert fresh.ask("chat", "gpt-5").status_code == 400
    fresh.simulator.clear()
    fresh.simulator.script({"status": 400, "message": "a parameter"}, "gpt-5")
    assert fresh.ask("chat", "team").status_code == 400
    fresh.simulator.clear()
    answer = fresh.ask("chat", "team")
    assert answer.status_code == 200
    assert "x-aicore-proxy-fallback" not in answer.headers
