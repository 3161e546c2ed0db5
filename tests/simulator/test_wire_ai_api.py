"""The management plane (SAP AI Core wire facts, section 2)."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.simulator.conftest import Tenant

from aicore_proxy.simulator import DeploymentSpec, Landscape, Running, SubaccountSpec, Switches, in_thread


def listed(tenant: Tenant, query: str = "", **headers: str | None) -> dict[str, Any]:
    answer = tenant.get(f"/lm/deployments{query}", **headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def models(page: dict[str, Any]) -> set[str]:
    return {
        entry["details"]["resources"]["backendDetails"].get("model", {}).get("name", "") for entry in page["resources"]
    }


def test_wire_deployments_carry_what_every_sdk_reads(tenant: Tenant) -> None:
    page = listed(tenant)

    assert list(page) == ["count", "resources"]
    assert page["count"] == len(page["resources"]) == 37
    for entry in page["resources"]:
        assert re.fullmatch(r"d[0-9a-f]{15}", entry["id"])
        for name in (
            "status",
            "targetStatus",
            "createdAt",
            "modifiedAt",
            "startTime",
            "configurationId",
            "configurationName",
        ):
            assert entry[name]
        assert entry["deploymentUrl"] == f"{tenant.simulator.url}/v2/inference/deployments/{entry['id']}"
        assert "executableId" not in entry
    running = [entry for entry in page["resources"] if entry["configurationName"] == "gpt-5-cfg"]
    assert len(running) == 2, "gpt-5 is deployed twice in demo-eu"
    assert running[0]["details"]["resources"]["backendDetails"] == {"model": {"name": "gpt-5", "version": "latest"}}


def test_wire_backend_details_come_in_both_spellings_or_one(tenant: Tenant, simulator: Running) -> None:
    for switch, names in (
        ("both", {"backendDetails", "backend_details"}),
        ("camel", {"backendDetails"}),
        ("snake", {"backend_details"}),
    ):
        simulator.switch(backend_details=switch)
        details = listed(tenant)["resources"][0]["details"]
        assert set(details["resources"]) == set(details["scaling"]) == names


def test_wire_orchestration_has_empty_backend_details(tenant: Tenant) -> None:
    page = listed(tenant, "?scenarioId=orchestration&executableIds=orchestration&status=RUNNING")

    assert [entry["configurationName"] for entry in page["resources"]] == ["defaultOrchestrationConfig"]
    assert page["resources"][0]["details"]["resources"] == {"backendDetails": {}, "backend_details": {}}


def test_wire_a_stopped_deployment_still_lists_its_url(tenant: Tenant) -> None:
    page = listed(tenant, "?status=STOPPED")

    assert [entry["targetStatus"] for entry in page["resources"]] == ["STOPPED"]
    assert page["resources"][0]["deploymentUrl"].endswith(page["resources"][0]["id"])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?scenarioId=foundation-models&status=RUNNING", 35),
        ("?scenarioId=foundation-models&status=RUNNING&executableIds=azure-openai", 14),
        ("?executableIds=aws-bedrock,gcp-vertexai", 21),
        ("?scenarioId=nothing", 0),
    ],
)
def test_wire_deployments_are_filtered(tenant: Tenant, query: str, expected: int) -> None:
    page = listed(tenant, query)

    assert page["count"] == len(page["resources"]) == expected


def test_wire_a_deployment_is_filtered_by_its_configuration(tenant: Tenant) -> None:
    one = listed(tenant)["resources"][3]

    page = listed(tenant, f"?configurationId={one['configurationId']}")

    assert [entry["id"] for entry in page["resources"]] == [one["id"]]


@pytest.mark.parametrize("prefix", ["$", ""])
def test_wire_deployments_are_paged_with_and_without_the_dollar(tenant: Tenant, prefix: str) -> None:
    whole = [entry["id"] for entry in listed(tenant)["resources"]]

    pages = [listed(tenant, f"?{prefix}top=10&{prefix}skip={skip}") for skip in (0, 10, 20, 30)]

    assert [page["count"] for page in pages] == [37] * 4
    assert [len(page["resources"]) for page in pages] == [10, 10, 10, 7]
    assert [entry["id"] for page in pages for entry in page["resources"]] == whole


def test_wire_deployments_are_counted_as_plain_text(tenant: Tenant) -> None:
    answer = tenant.get("/lm/deployments/$count?status=RUNNING")

    assert (answer.text, answer.headers["content-type"]) == ("36", "text/plain")


def test_wire_one_deployment_has_its_details(tenant: Tenant) -> None:
    wanted = tenant.id("gpt-4o")

    answer = tenant.get(f"/lm/deployments/{wanted}").json()

    assert (answer["id"], answer["configurationName"]) == (wanted, "gpt-4o-cfg")
    assert {"statusDetails", "statusMessage"} <= set(answer)


def test_wire_what_is_not_there_is_an_ai_api_error(tenant: Tenant) -> None:
    answer = tenant.get("/lm/deployments/d0123456789abcde")

    error = answer.json()["error"]
    assert answer.status_code == 404
    assert set(error) == {"code", "message", "requestId", "target", "details"}
    assert re.fullmatch(r"0\d{7}", error["code"])
    assert error["target"] == "/api/v2/deployments/d0123456789abcde"


def test_wire_configurations_tell_model_and_executable(tenant: Tenant) -> None:
    deployment = tenant.get(f"/lm/deployments/{tenant.id('anthropic--claude-4.5-haiku')}").json()

    one = tenant.get(f"/lm/configurations/{deployment['configurationId']}").json()

    assert (one["executableId"], one["scenarioId"]) == ("aws-bedrock", "foundation-models")
    assert {"key": "modelName", "value": "anthropic--claude-4.5-haiku"} in one["parameterBindings"]
    assert {"key": "modelVersion", "value": "latest"} in one["parameterBindings"]
    assert one in tenant.get("/lm/configurations").json()["resources"]


def test_wire_configurations_and_deployments_are_made_and_ended(tenant: Tenant) -> None:
    base, headers = f"{tenant.simulator.url}/v2/lm", tenant.headers()
    wanted = {
        "name": "mine",
        "executableId": "azure-openai",
        "scenarioId": "foundation-models",
        "parameterBindings": [
            {"key": "modelName", "value": "gpt-4.1-mini"},
            {"key": "modelVersion", "value": "latest"},
        ],
    }
    made = tenant.http.post(f"{base}/configurations", json=wanted, headers=headers)
    assert (made.status_code, made.json()["message"]) == (201, "Configuration created")
    deployed = tenant.http.post(f"{base}/deployments", json={"configurationId": made.json()["id"]}, headers=headers)
    assert deployed.status_code == 202
    assert (deployed.json()["deploymentUrl"], deployed.json()["status"]) == ("", "UNKNOWN")
    one = f"{base}/deployments/{deployed.json()['id']}"

    assert tenant.http.get(one, headers=headers).json()["configurationId"] == made.json()["id"]
    refused = tenant.http.delete(one, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "01010076")
    assert tenant.http.patch(one, json={"targetStatus": "STOPPED"}, headers=headers).status_code == 202
    assert tenant.http.delete(one, headers=headers).status_code == 202
    assert tenant.http.get(one, headers=headers).status_code == 404


def test_wire_scenarios_and_executables_are_listed(tenant: Tenant) -> None:
    scenarios = tenant.get("/lm/scenarios").json()
    executables = tenant.get("/lm/scenarios/foundation-models/executables").json()

    assert {entry["id"] for entry in scenarios["resources"]} == {"foundation-models", "orchestration"}
    assert {entry["id"] for entry in executables["resources"]} == {"azure-openai", "aws-bedrock", "gcp-vertexai"}
    assert tenant.get("/lm/scenarios/foundation-models/executables/aws-bedrock").json()["deployable"] is True
    assert tenant.get("/lm/scenarios/nothing").status_code == 404


def test_wire_the_catalogue_has_costs_and_retirement_dates(tenant: Tenant) -> None:
    page = tenant.get("/lm/scenarios/foundation-models/models").json()
    found = {entry["model"]: entry for entry in page["resources"]}

    assert page["count"] == len(found) == 33
    sonnet = found["anthropic--claude-4.5-sonnet"]
    assert (sonnet["executableId"], sonnet["provider"]) == ("aws-bedrock", "Anthropic")
    assert {"scenarioId": "orchestration", "executableId": "orchestration"} in sonnet["allowedScenarios"]
    version = sonnet["versions"][0]
    assert (version["isLatest"], version["deprecated"], version["retirementDate"]) == (True, False, "")
    assert (version["contextLength"], version["streamingSupported"]) == (200_000, True)
    assert all(isinstance(value, str) for cost in version["cost"] for value in cost.values())
    old = found["anthropic--claude-4-sonnet"]["versions"][0]
    assert (old["deprecated"], old["retirementDate"] != "", old["suggestedReplacements"] != []) == (True, True, True)
    assert "cost" not in found["gpt-5.5"]["versions"][0], "the newest models have none"
    assert found["gpt-4o"]["versions"][0]["name"] == "2024-08-06"


def test_wire_resource_groups_are_listed_or_refused(tenant: Tenant, simulator: Running) -> None:
    page = tenant.get("/admin/resourceGroups", ai_resource_group=None).json()
    assert [(entry["resourceGroupId"], entry["status"]) for entry in page["resources"]] == [("default", "PROVISIONED")]

    simulator.switch(admin_resource_groups="refused")
    refused = tenant.get("/admin/resourceGroups", ai_resource_group=None)
    assert (refused.status_code, set(refused.json())) == (403, {"error"})


def test_wire_the_quota_is_requests_a_minute_and_model(tenant: Tenant) -> None:
    page = tenant.get("/admin/quota/model").json()

    assert page[0]["resourceType"] == "model"
    entry = next(detail for detail in page[0]["quotaDetails"] if detail["descriptors"]["modelName"] == "gpt-5")
    assert (entry["unit"], entry["limit"], entry["descriptors"]["providerName"]) == (
        "requestPerMinute",
        78,
        "azure-openai",
    )


@pytest.mark.parametrize("group", [None, "other"])
@pytest.mark.parametrize("plane", ["ai_api", "inference"])
def test_wire_a_missing_or_wrong_resource_group_is_refused_in_three_ways(
    tenant: Tenant, simulator: Running, plane: str, group: str | None
) -> None:
    def ask() -> tuple[int, str]:
        if plane == "ai_api":
            answer = tenant.get("/lm/deployments", ai_resource_group=group)
        else:
            answer = tenant.post("gpt-5", "chat/completions?api-version=2024-10-21", {}, ai_resource_group=group)
        return answer.status_code, answer.text

    assert ask() == (403, "RBAC: access denied")
    simulator.switch(resource_group_refusal="404")
    assert ask()[0] == 404
    simulator.switch(resource_group_refusal="tenant")
    assert ask() == (400, "Missing Tenant Id")


def test_deployments_come_and_go_at_run_time(tenant: Tenant, simulator: Running) -> None:
    made = simulator.call(
        "POST", "deployments", {"subaccount": "demo-eu", "model": "gpt-6", "resource_group": "team-a"}
    )
    assert made["id"] in [entry["id"] for entry in listed(tenant, ai_resource_group="team-a")["resources"]]
    assert made["id"] not in [entry["id"] for entry in listed(tenant)["resources"]]

    simulator.call("PATCH", f"deployments/{made['id']}", {"status": "STOPPED", "listed_status": "RUNNING"})
    assert listed(tenant, "?status=RUNNING", ai_resource_group="team-a")["count"] == 1
    simulator.call("DELETE", f"deployments/{made['id']}")
    assert listed(tenant, ai_resource_group="team-a")["count"] == 0


def test_the_ai_api_can_be_broken(tenant: Tenant, simulator: Running) -> None:
    simulator.script({"status": 504}, "demo-eu", endpoint="ai_api")
    answer = tenant.get("/lm/deployments")
    assert (answer.status_code, answer.text) == (504, "upstream request timeout")

    simulator.script({"body": {}}, "demo-eu", endpoint="ai_api")
    assert tenant.get("/lm/deployments").json() == {}

    simulator.script({"status": 403, "message": "No"}, "demo-eu", endpoint="ai_api")
    assert tenant.get("/lm/deployments").json()["error"]["message"] == "No"


def test_a_landscape_may_have_several_groups_and_switches() -> None:
    spec = SubaccountSpec(
        "one", ("gpt-5",), (DeploymentSpec("gpt-5", "d00000000000000a", "team-b"),), ("default", "team-b")
    )
    with in_thread(Landscape((spec,), Switches(list_executable=True))) as simulator:
        tenant = Tenant(simulator, "one")
        page = listed(tenant, ai_resource_group="team-b")

        assert [(entry["id"], entry["executableId"]) for entry in page["resources"]] == [
            ("d00000000000000a", "azure-openai")
        ]
        groups = tenant.get("/admin/resourceGroups", ai_resource_group=None).json()
        assert [entry["resourceGroupId"] for entry in groups["resources"]] == ["default", "team-b"]
