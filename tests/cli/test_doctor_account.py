"""``aicore-proxy doctor``: ailments of the AI API, of deployments and of models, and what it advises."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.cli.doctoring import (
    ALL_CALLS,
    CLAUDE,
    EMBEDDING,
    ENTRIES,
    ESCAPE,
    GEMINI,
    GPT,
    Patient,
    Report,
    advised,
    ill,
    numbered,
    treated,
)

from aicore_proxy.simulator.landscape import DeploymentSpec, Landscape, SubaccountSpec

# The AI API


AI_API: list[tuple[dict[str, Any], list[str]]] = [
    ({"status": 401}, ["AI_API_URL is of another region"]),
    ({"status": 403, "layer": "edge"}, ["AI-Resource-Group", "'extended'", "Entitlements"]),
    ({"status": 404}, ["Resource Groups", "AI_API_URL is not the AI API's"]),
    ({"status": 429}, ["throttles"]),
    ({"status": 500}, ["cloud-service-status"]),
    ({"garbage": "html"}, ["AI_API_URL"]),
    ({"hang": True}, ["Try again"]),
    ({"reset": True}, ["Try again"]),
]


@pytest.fixture(scope="module")
def ai_api_troubles(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return ill(tmp_path_factory.mktemp("ai-api"), [case[0] for case in AI_API], "ai_api")


@pytest.mark.timed
@pytest.mark.parametrize(("subaccount", "script", "advice"), numbered(AI_API))
def test_an_ai_api_in_trouble(
    ai_api_troubles: Report, subaccount: str, script: dict[str, Any], advice: list[str]
) -> None:
    report = ai_api_troubles.of(subaccount)

    group = report.only("ai_api", "failure")
    assert group["data"]["resource_group"] == "default", "the groups could not be listed, so that one was asked"
    advised(group, *advice)
    assert report.at("model_call") == []


def test_a_resource_group_that_is_not_there(patient: Patient) -> None:
    group = patient.doctor(AICORE_PROXY_RESOURCE_GROUPS="taem").only("ai_api", "failure")

    assert group["data"] == {"resource_group": "taem", "status": 403}
    assert "RBAC: access denied" in group["words"]
    advised(
        group, "sees the resource groups default, team", "Did you mean team?", "Core Administration > Resource Groups"
    )

    patient.simulator.switch(admin_resource_groups="refused")
    advised(
        patient.doctor(AICORE_PROXY_RESOURCE_GROUPS="taem").only("ai_api", "failure"), "group 'taem' does not exist"
    )


def test_a_key_that_may_not_list_resource_groups_is_common(patient: Patient) -> None:
    patient.simulator.switch(admin_resource_groups="refused")

    report = patient.doctor()

    report.fine()
    advised(report.only("resource_groups", "note"), "AICORE_RESOURCE_GROUP")


def test_nothing_is_deployed(tmp_path: Path) -> None:
    for patient in treated(Landscape((SubaccountSpec("eu"),)), tmp_path):
        (deployments,) = patient.doctor().at("deployments", "failure")

        advised(deployments, "ML Operations > Configurations > Create", "mloperations_editor", "'extended'", "default")


def test_deployments_that_do_not_run(tmp_path: Path) -> None:
    advice = {"DEAD": "does not come back by itself", "PENDING": "takes minutes", "UNKNOWN": "takes minutes"}
    statuses = (*advice, "STOPPED", "RUNNING")
    models = ("gpt-5", "gpt-5-mini", "gpt-5-nano", "gpt-4o", "gpt-4.1")
    specs = tuple(DeploymentSpec(model, status=status) for model, status in zip(models, statuses, strict=True))  # type: ignore[arg-type]
    for patient in treated(Landscape((SubaccountSpec("eu", (), specs),)), tmp_path):
        report = patient.doctor()

    report.fine()
    told = {f["data"]["status"]: f for f in report.at("deployment", "warning")}
    assert set(told) == set(advice), "what was stopped is only counted"
    for status, words in advice.items():
        advised(told[status], words)
    assert report.at("deployments", "ok")[0]["data"]["statuses"] == dict.fromkeys(statuses, 1)
    assert {f["data"]["model"] for f in report.at("model_call")} == {"gpt-4.1"}


@pytest.mark.parametrize(("days", "level"), [(400, "note"), (30, "warning"), (-3, "warning")])
def test_the_end_of_a_model(patient: Patient, days: int, level: str) -> None:
    retires = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)).date().isoformat()
    version = {
        "name": "2025-01-01",
        "isLatest": True,
        "deprecated": True,
        "retirementDate": retires,
        "suggestedReplacements": ["gpt-6"],
    }
    entries = [{"model": m, "executableId": e, "description": "", "versions": [version]} for m, e in ENTRIES.items()]
    catalogue = {"count": 2, "resources": entries}
    patient.simulator.script({"body": catalogue}, "/v2/lm/scenarios/foundation-models/models", endpoint="ai_api")
    (gpt,) = patient.simulator.deployments(GPT)
    patient.simulator.call("PATCH", f"deployments/{gpt['id']}", {"version": "2025-01-01"})

    report = patient.doctor("--no-calls")

    report.fine()
    ends = {f["data"]["model"]: f for f in report.at("retirement", level)}
    assert set(ends) == {GPT, CLAUDE}
    assert {f["data"]["retires"] for f in ends.values()} == {retires}
    advised(ends[GPT], "gpt-6", "fixed version", "modelVersion latest")
    advised(ends[CLAUDE], "gpt-6", "plan another model")


# Model calls


CALLS: list[tuple[dict[str, Any], str, int | None, list[str]]] = [
    ({"status": 401}, "failure", 401, ["the deployment does not"]),
    ({"status": 403, "layer": "edge"}, "failure", 403, ["no such deployment", "AI-Resource-Group", "'extended'"]),
    ({"status": 404}, "failure", 404, ["deployed only minutes ago", "Deployments"]),
    ({"status": 429}, "warning", 429, ["requests per minute", "CA-ML-AIC"]),
    ({"status": 500}, "failure", 500, ["cloud-service-status"]),
    ({"status": 503, "layer": "edge"}, "failure", 503, ["cloud-service-status"]),
    ({"status": 400}, "failure", 400, ["report the words"]),
    ({"hang": True}, "failure", None, ["longer --timeout"]),
    ({"reset": True}, "failure", None, ["connection breaks"]),
    ({"garbage": "html"}, "failure", None, ["no answer of that model"]),
    ({"empty": True}, "failure", None, ["no answer of that model"]),
]


@pytest.fixture(scope="module")
def call_troubles(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("calls")
    return ill(folder, [case[0] for case in CALLS], models=(GPT, CLAUDE, GEMINI, EMBEDDING))


@pytest.mark.timed
@pytest.mark.parametrize(("subaccount", "script", "level", "status", "advice"), numbered(CALLS))
def test_a_model_in_trouble(
    call_troubles: Report, subaccount: str, script: dict[str, Any], level: str, status: int | None, advice: list[str]
) -> None:
    report = call_troubles.of(subaccount)
    calls = report.at("model_call")

    assert report.only("model_calls", level)["data"]["status"] == status, "all fail alike"
    assert {(f["data"]["model"], f["data"]["protocol"]) for f in calls} == ALL_CALLS
    for finding in calls:
        assert (finding["level"], finding["data"]["status"]) == (level, status)
        advised(finding, *advice)


def test_where_all_fail_alike_it_is_none_of_them(patient: Patient) -> None:
    patient.simulator.script({"status": 403, "layer": "edge"})

    _, text = patient.in_terminal(100, "doctor")

    shown = " ".join(ESCAPE.sub("", text).split())
    assert "all 4 deployments fail with 403" in shown
    assert shown.count("service plan 'extended'") == 1
    assert "SAP says 403 also where" not in shown, "it is not about a deployment"


def test_an_error_inside_a_stream_is_one(patient: Patient) -> None:
    patient.simulator.script({"error_after": 1})

    bad = patient.doctor().at("model_call", "failure")

    assert {f["data"]["model"] for f in bad if f["data"]["protocol"] == "messages"} == {GPT, CLAUDE, GEMINI}


def test_a_deployment_that_is_listed_but_gone(patient: Patient) -> None:
    (gpt,) = patient.simulator.deployments(GPT)
    patient.simulator.call("PATCH", f"deployments/{gpt['id']}", {"status": "STOPPED", "listed_status": "RUNNING"})

    report = patient.doctor()
    bad = report.at("model_call", "failure")

    assert report.at("model_calls") == [], "the others answer"
    assert {f["data"]["deployment"] for f in bad} == {gpt["id"]}
    advised(bad[0], "stopped or deleted a moment ago")


def listed(**members: Any) -> dict[str, Any]:
    """An AI API that answers everything with one odd resource."""
    odd = {"id": "d-odd", "resourceGroupId": "default", "model": "gpt-5", "status": "RUNNING", **members}
    return {"body": {"count": 1, "resources": [odd]}}


def running(name: Any, version: Any = "latest") -> dict[str, Any]:
    return {"resources": {"backendDetails": {"model": {"name": name, "version": version}}}}


HOSTILE: list[dict[str, Any]] = [
    listed(id="../../x y\u202e", details=running("gpt-5")),
    listed(deploymentUrl="javascript:alert(1)", details=running("gpt-5")),
    listed(deploymentUrl="https://127.0.0.1:1/other", details=running("gpt-5")),
    listed(details=running("x" * 5000 + "\x1b[2J")),
    listed(details=running("gpt-5", {"a": 1}), status=7, targetStatus=[], createdAt=None),
    listed(details=running("gpt-5"), versions=[{"name": 3, "isLatest": "yes", "retirementDate": "soon"}, None, "x"]),
    listed(details=running("gpt-5"), versions=[{"name": "1", "isLatest": True, "retirementDate": "9999-99-99"}]),
    listed(details="none", scenarioId=5, configurationId={}),
    {"body": {"count": "many", "resources": {}}},
    {"body": []},
    {"body": "null"},
]


def test_whatever_the_ai_api_says_is_a_finding_and_no_traceback(tmp_path: Path) -> None:
    report = ill(tmp_path, HOSTILE, "ai_api")

    assert report.value["complete"] is True
    for number in range(len(HOSTILE)):
        assert report.of(f"s{number}").only("token", "ok")
    assert report.at("model_call", "ok") == [], "none of these can be called"
