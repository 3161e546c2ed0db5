"""A proxy that is started with an older proxy's config.json: its users change nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.end_to_end.asking import said
from tests.end_to_end.configuring import LANDSCAPE, Configured, serving
from tests.end_to_end.conftest import Simulator, running_simulator

TOKEN = "token-of-the-older-proxy"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with running_simulator(tmp_path_factory.mktemp("simulator"), landscape=LANDSCAPE) as running:
        yield running


def test_its_names_tokens_and_address_hold(simulator: Simulator, tmp_path: Path) -> None:
    ids = {
        (subaccount, deployment["model"]): deployment["id"]
        for subaccount, place in simulator.state()["subaccounts"].items()
        for deployment in place["deployments"]
    }

    def url(subaccount: str, model: str) -> str:
        return f"{simulator.url}/v2/inference/deployments/{ids[subaccount, model]}"

    configured = Configured(tmp_path, simulator.service_keys())
    configured.file = tmp_path / "config.json"
    for name, key in configured.service_keys.items():
        (tmp_path / f"{name}_key.json").write_text(json.dumps(key))
    content = {
        "subAccounts": {
            "first": {
                "resource_group": "default",
                "service_key_json": "eu_key.json",
                "deployment_models": {
                    "4.5-sonnet": [url("eu", "anthropic--claude-4.5-sonnet")],
                    "anthropic/claude-4.5-sonnet": [url("eu", "anthropic--claude-4.5-sonnet")],
                    "gpt-5": [url("eu", "gpt-5")],
                },
            },
            "second": {"service_key_json": "us_key.json", "deployment_ids": {"gpt-5": [ids["us", "gpt-5"]]}},
        },
        "model_filters": {"include": ["^gpt-5.*", ".*sonnet$"], "exclude": [".*-mini$"]},
        "secret_authentication_tokens": [TOKEN],
        "port": 0,
        "host": "127.0.0.1",
        "hostLocal": "127.0.0.1",
    }
    configured.write(content)

    with serving(configured) as served:
        for name in ("4.5-sonnet", "anthropic/claude-4.5-sonnet", "anthropic--claude-4.5-sonnet"):
            for protocol in ("chat", "messages"):
                answer = served.ask(name, TOKEN, protocol)
                assert said(protocol, answer)
                assert answer.headers["x-aicore-proxy-deployment"] == ids["eu", "anthropic--claude-4.5-sonnet"]
        answers = [served.ask("gpt-5", TOKEN, text=f"Number {n}.") for n in range(12)]
        assert {answer.headers["x-aicore-proxy-subaccount"] for answer in answers} == {"first", "second"}
        assert served.ask("gpt-5", "another-token").status_code == 401
        assert served.ask("gpt-5-mini", TOKEN).status_code == 404, "filtered"
        assert served.ask("gpt-4o", TOKEN).status_code == 404, "filtered"
        assert {"4.5-sonnet", "gpt-5"} <= served.listed(TOKEN)
        assert "'hostLocal' has no meaning here" in served.log
        assert TOKEN not in served.log
