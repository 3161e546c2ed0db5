"""``aicore-proxy models``: what is deployed, under which names, until when; and how it looks."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.doctoring import COMMAND, Patient
from tests.end_to_end.conftest import environment

from aicore_proxy.simulator import in_thread
from aicore_proxy.simulator.landscape import DeploymentSpec, Landscape, SubaccountSpec

CLAUDE = "anthropic--claude-4-sonnet"
EU = SubaccountSpec(
    "eu",
    (CLAUDE, "gpt-5"),
    (
        DeploymentSpec("gpt-5", id="d-team", resource_group="team", version="2025-08-07"),
        DeploymentSpec("gpt-4.1", id="d-stopped", status="STOPPED"),
        DeploymentSpec("orchestration", id="d-orchestration"),
    ),
    ("default", "team"),
)
US = SubaccountSpec("us", ("gpt-5", "gemini-2.5-flash"))


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    with in_thread(Landscape((EU, US))) as simulator:
        yield Patient(tmp_path, simulator)


def listed(patient: Patient, *arguments: str, code: int = 0, **variables: str) -> dict[str, Any]:
    done = patient.run("models", "--json", *arguments, **variables)
    assert done.returncode == code, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    assert value["format"] == 1
    return value


def test_every_name_deployment_version_and_end_is_listed(patient: Patient) -> None:
    models = {model["model"]: model for model in listed(patient)["models"]}

    assert set(models) == {CLAUDE, "gpt-5", "gemini-2.5-flash"}
    assert models[CLAUDE]["names"] == ["claude-sonnet-4", "claude-4-sonnet"]
    assert models[CLAUDE]["context_length"] == 200_000
    (claude,) = models[CLAUDE]["deployments"]
    assert (claude["retires"], claude["deprecated"], claude["resolved"]) == ("2027-02-28", True, "1")
    places = [(d["subaccount"], d["resource_group"], d["version"]) for d in models["gpt-5"]["deployments"]]
    assert places == [("eu", "default", "latest"), ("eu", "team", "2025-08-07"), ("us", "default", "latest")]
    for subaccount in ("eu", "us"):
        ids = {d["id"] for d in patient.simulator.deployments("gpt-5", subaccount)}
        assert ids == {d["id"] for d in models["gpt-5"]["deployments"] if d["subaccount"] == subaccount}


def test_patterns_mean_models_by_any_name(patient: Patient) -> None:
    assert [m["model"] for m in listed(patient, "claude-*")["models"]] == [CLAUDE]
    assert [m["model"] for m in listed(patient, "claude-sonnet-4", "gemini-*")["models"]] == [
        CLAUDE,
        "gemini-2.5-flash",
    ]
    only_us = listed(patient, "gpt-5", "--subaccount", "us")["models"]
    assert [d["subaccount"] for m in only_us for d in m["deployments"]] == ["us"]
    assert patient.simulator.requests() == [], "no model was called"


def test_with_all_what_clients_cannot_have_is_there_with_the_reason(patient: Patient) -> None:
    models = {model["model"]: model for model in listed(patient, "--all")["models"]}

    reasons = {d["id"]: d["left_out"] for m in models.values() for d in m["deployments"] if d["left_out"]}
    assert reasons == {"d-stopped": "it is STOPPED", "d-orchestration": "orchestration is not supported yet"}
    table = patient.run("models", "--all").stdout
    assert re.search(r"(?m)^gpt-4\.1 .* STOPPED$", table)


def test_what_sap_offers_and_nobody_deployed(patient: Patient) -> None:
    entry = {
        "model": "gpt-6",
        "executableId": "azure-openai",
        "provider": "OpenAI",
        "description": "",
        "versions": [{"name": "2026-10-01", "isLatest": True, "deprecated": False, "contextLength": 2_000_000}],
    }
    taken = {**entry, "model": "gpt-5"}
    catalogue = {"count": 2, "resources": [entry, taken]}
    patient.simulator.script({"body": catalogue}, "/v2/lm/scenarios/foundation-models/models", endpoint="ai_api")

    (offer,) = listed(patient, "--available")["available"]
    assert (offer["model"], offer["version"], offer["subaccounts"]) == ("gpt-6", "2026-10-01", ["eu", "us"])
    assert re.search(r"gpt-6 +OpenAI +azure-openai +2026-10-01 +2,000,000", patient.run("models", "--available").stdout)


def test_aliases_and_pinned_names_of_the_configuration(patient: Patient) -> None:
    configuration = {
        "aliases": {"fast": "gemini-2.5-flash"},
        "models": {"exclude": ["claude-*"]},
        "subaccounts": [
            {"name": "eu", "service_key": patient.keys["eu"], "deployments": {"team-gpt": ["d-team"]}},
            {"name": "us", "service_key": patient.keys["us"]},
        ],
    }
    file = patient.home / "proxy.json"
    file.write_text(json.dumps(configuration))

    there = {"AICORE_PROXY_SERVICE_KEYS": ""}  # the file names the subaccounts
    models = {model["model"]: model["names"] for model in listed(patient, "--config", str(file), **there)["models"]}

    assert models == {"gpt-5": ["team-gpt"], "gemini-2.5-flash": ["fast"]}
    assert [m["model"] for m in listed(patient, "fast", "--config", str(file), **there)["models"]] == [
        "gemini-2.5-flash"
    ]


def test_a_subaccount_that_fails_hides_nothing_of_the_others(patient: Patient) -> None:
    patient.simulator.call("PATCH", "subaccounts/eu", {"clientsecret": "another"})

    value = listed(patient, code=1)
    done = patient.run("models")

    assert {m["model"] for m in value["models"]} == {"gpt-5", "gemini-2.5-flash"}
    assert value["complete"] is False
    assert "eu: the token service refuses the credentials" in value["problems"][0]
    assert done.returncode == 1
    assert done.stderr.startswith("eu: the token service refuses")
    assert "gemini-2.5-flash" in done.stdout


def test_what_cannot_be_listed_is_said(patient: Patient, tmp_path: Path) -> None:
    assert "there are eu, us" in patient.run("models", "--subaccount", "asia").stderr
    assert "No model meets gpt-9" in patient.run("models", "gpt-9").stderr
    environ = environment(tmp_path)
    nothing = subprocess.run([*COMMAND, "models"], env=environ, capture_output=True, text=True, check=False)
    assert nothing.returncode == 1
    assert "models --demo" in nothing.stderr


def test_demo_needs_no_account(tmp_path: Path) -> None:
    command = [*COMMAND, "models", "--demo", "claude-sonnet-4-5"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=True)

    assert "anthropic--claude-4.5-sonnet  claude-sonnet-4-5, claude-4.5-sonnet  demo-eu" in done.stdout


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_in_a_terminal_every_line_fits(patient: Patient, columns: int) -> None:
    code, text = patient.in_terminal(columns, "models")

    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    assert code == 0
    assert [line for line in lines if len(line) > columns] == []
    for word in (CLAUDE, "claude-sonnet-4", "d-team", "2025-08-07", "2027-02-28", "us"):
        assert word in text
    assert (lines[0].split()[0] == "MODEL") is (columns > 80)
