"""``aicore-proxy why``: a request explains itself, whichever worker served it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.end_to_end.asking import CLAUDE
from tests.end_to_end.conftest import KEY, environment
from tests.reliability.conftest import House, running_house


def why(house: House, home: Path, request_id: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aicore_proxy", "why", request_id, "--url", house.proxy.url, *options]
    environ = environment(home, AICORE_PROXY_API_KEY=KEY, COLUMNS="120", PYTHONIOENCODING="utf-8")
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)


def test_a_failover_is_explained_in_the_terminal(tmp_path: Path) -> None:
    with running_house(tmp_path) as house:
        house.simulator.script({"status": 429, "retry_after": 60}, "sub-0")
        answers = [house.ask("messages", CLAUDE) for _ in range(8)]
        failed_over = next(a for a in answers if a.headers["x-aicore-proxy-attempts"] == "2")
        skipping = answers[-1]

        told = why(house, tmp_path, failed_over.headers["x-request-id"])
        assert told.returncode == 0, told.stderr
        assert "✗ 1. sub-0/" in told.stdout
        assert "throttled: " in told.stdout
        assert "✓ 2. sub-" in told.stdout

        later = why(house, tmp_path, skipping.headers["x-request-id"])
        assert "cools down after a 429, 5" in later.stdout or "cools down after a 429, 6" in later.stdout
        print(told.stdout, later.stdout)

        unknown = why(house, tmp_path, "req_nobody")
        assert unknown.returncode == 1
        assert "does not remember" in unknown.stderr
        assert KEY not in told.stdout + told.stderr + unknown.stderr


@pytest.mark.timed
def test_any_worker_explains_what_another_served(tmp_path: Path) -> None:
    with running_house(tmp_path, workers="2") as house:
        ids = []
        for n in range(8):
            with house.proxy.http.stream(
                "POST",
                "/v1/chat/completions",
                json={"model": "gpt-5", "messages": [{"role": "user", "content": str(n)}]},
                headers={"Connection": "close"},
            ) as answer:
                answer.read()
                ids.append(answer.headers["x-request-id"])
        for request_id in ids:
            told = json.loads(why(house, tmp_path, request_id, "--json").stdout)
            assert told["request_id"] == request_id
            assert told["status"] == 200
            assert [attempt["outcome"] for attempt in told["attempts"]] == ["ok"]
            assert len(told["plans"][0]["ranked"]) == 4


def test_a_refused_request_is_explained_too(tmp_path: Path) -> None:
    with running_house(tmp_path, 1) as house:
        answer = house.ask(model="gpt-99")
        told = why(house, tmp_path, answer.headers["x-request-id"])
        assert "404 (model_not_found)" in told.stdout
        assert "No deployment was looked for" in told.stdout
