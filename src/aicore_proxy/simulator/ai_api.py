"""SAP's management plane under ``/v2`` (SAP AI Core wire facts, section 2)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from aicore_proxy.simulator import faults
from aicore_proxy.simulator.families import catalogue_entry
from aicore_proxy.simulator.faults import Refusal
from aicore_proxy.simulator.inference import group_refusal
from aicore_proxy.simulator.landscape import Deployment, DeploymentSpec, Subaccount, Switches, add_deployment
from aicore_proxy.simulator.operation import encode, parsed
from aicore_proxy.simulator.server import Request

PAGE = 10_000
LARGEST_PAGE = 100_000
_SCENARIOS = {"foundation-models": "Foundation models of several vendors", "orchestration": "Orchestration of models"}

_DATES = {"createdAt": "2024-01-01T00:00:00Z", "modifiedAt": "2024-01-01T00:00:00Z"}


class AiApi:
    """Answers management requests of one simulator. Owns the configurations made at run time."""

    def __init__(self, switches: Switches, base_url: Callable[[Request], str]) -> None:
        self._switches = switches
        self._base_url = base_url
        self._made: dict[str, dict[str, Any]] = {}

    def answer(self, request: Request, subaccount: Subaccount) -> tuple[int, bytes, str]:
        """Status, body, content type. Raises Refusal."""
        path = request.path.removeprefix("/v2").rstrip("/")
        if path.startswith("/admin/"):
            return self._json(self._admin(path, request, subaccount))
        group = request.headers.get("ai-resource-group", "")
        if group not in subaccount.resource_groups:
            raise group_refusal(self._switches, group)
        here = [d for d in subaccount.deployments.values() if d.resource_group == group]
        match path.split("/")[1:]:
            case ["lm", "deployments"] if request.method == "POST":
                return self._deploy(request, subaccount, group)
            case ["lm", "deployments"]:
                return self._json(_page([self._deployment(d, request) for d in _filtered(here, request)], request))
            case ["lm", "deployments", "$count"]:
                return 200, str(len(_filtered(here, request))).encode(), faults.PLAIN
            case ["lm", "deployments", wanted]:
                return self._one_deployment(wanted, request, subaccount, here)
            case ["lm", "configurations"] if request.method == "POST":
                return self._configure(request)
            case ["lm", "configurations"]:
                return self._json(_page(self._configurations(here), request))
            case ["lm", "configurations", wanted]:
                found = next((c for c in self._configurations(here) if c["id"] == wanted), None)
                return self._json(found or _missing("Configuration", wanted, request))
            case ["lm", "scenarios", *rest]:
                return self._json(self._scenarios(rest, here, request))
            case ["lm", "meta"]:
                return self._json({"aiApi": {"version": "2.42.0", "capabilities": {"multitenant": True}}})
            case _:
                raise faults.ai_api(404, "01010001", "Not found", request.path)

    def _json(self, value: Any) -> tuple[int, bytes, str]:
        return 200, encode(value), faults.JSON

    # --- deployments

    def _deployment(self, deployment: Deployment, request: Request) -> dict[str, Any]:
        model: dict[str, Any] = {}
        if deployment.family.executable != "orchestration":
            model = {"model": {"name": deployment.model, "version": deployment.version}}
        spellings = {
            "both": ("backendDetails", "backend_details"),
            "camel": ("backendDetails",),
            "snake": ("backend_details",),
        }
        names = spellings[self._switches.backend_details]
        status = deployment.listed_status or deployment.status
        made = deployment.created
        url = deployment.url or f"{self._base_url(request)}/v2/inference/deployments/{deployment.id}"
        value: dict[str, Any] = {
            "id": deployment.id,
            "createdAt": made,
            "modifiedAt": made,
            "status": status,
            "targetStatus": "RUNNING" if status in ("RUNNING", "PENDING", "UNKNOWN") else "STOPPED",
            "lastOperation": "CREATE",
            "scenarioId": _scenario(deployment),
            "configurationId": deployment.configuration_id,
            "configurationName": _configuration_name(deployment),
            "latestRunningConfigurationId": deployment.configuration_id,
            "submissionTime": made,
            "startTime": made,
            "deploymentUrl": "" if status == "UNKNOWN" else url,
            "details": {
                "resources": dict.fromkeys(names, model),
                "scaling": {name: {} for name in names},
            },
        }
        if self._switches.list_executable:
            value["executableId"] = deployment.family.executable
        if status == "STOPPED":
            value["completionTime"] = made
        return value

    def _one_deployment(
        self, wanted: str, request: Request, subaccount: Subaccount, here: list[Deployment]
    ) -> tuple[int, bytes, str]:
        found = next((d for d in here if d.id == wanted), None)
        if found is None:
            _missing("Deployment", wanted, request)
            raise AssertionError
        if request.method == "GET":
            return self._json(self._deployment(found, request) | {"statusDetails": {}, "statusMessage": ""})
        target = f"/api/v2/deployments/{wanted}"
        if request.method == "DELETE":
            if found.status not in ("STOPPED", "UNKNOWN"):
                text = f"Invalid Request, Current status {found.status} cannot be changed.."
                raise faults.ai_api(400, "01010076", text, target)
            del subaccount.deployments[wanted]
            return 202, encode({"id": wanted, "message": "Deletion scheduled", "targetStatus": "DELETED"}), faults.JSON
        if request.method == "PATCH":
            body = _body(request)
            if body.get("targetStatus") == "STOPPED":
                found.status = "STOPPED"
            elif "configurationId" not in body:
                raise faults.ai_api(400, "01010007", "targetStatus or configurationId is required", target)
            return 202, encode({"id": wanted, "message": "Deployment modification scheduled"}), faults.JSON
        raise faults.ai_api(405, "01010002", "Method not allowed", target)

    def _deploy(self, request: Request, subaccount: Subaccount, group: str) -> tuple[int, bytes, str]:
        wanted = str(_body(request).get("configurationId", ""))
        made = self._made.get(wanted)
        if made is None:
            _missing("Configuration", wanted, request)
            raise AssertionError
        bound = {binding["key"]: binding["value"] for binding in made["parameterBindings"]}
        spec = DeploymentSpec(
            bound.get("modelName", "orchestration"), resource_group=group, version=bound.get("modelVersion", "latest")
        )
        deployment = add_deployment(subaccount, spec)
        deployment.configuration_id = wanted
        body = {"id": deployment.id, "message": "Deployment scheduled.", "deploymentUrl": "", "status": "UNKNOWN"}
        return 202, encode(body), faults.JSON

    # --- configurations and scenarios

    def _configure(self, request: Request) -> tuple[int, bytes, str]:
        body = _body(request)
        for name in ("name", "executableId", "scenarioId"):
            if not isinstance(body.get(name), str):
                raise faults.ai_api(400, "01010007", f"{name} is required", "/api/v2/configurations")
        wanted = str(uuid.uuid4())
        self._made[wanted] = {
            "parameterBindings": [],
            "inputArtifactBindings": [],
            **body,
            "id": wanted,
            "createdAt": "2026-05-01T08:00:00Z",
        }
        return 201, encode({"id": wanted, "message": "Configuration created"}), faults.JSON

    def _configurations(self, here: list[Deployment]) -> list[dict[str, Any]]:
        listed = {d.configuration_id: _configuration(d) for d in here}
        return list((listed | self._made).values())

    def _scenarios(self, rest: list[str], here: list[Deployment], request: Request) -> Any:
        if rest and rest[0] not in _SCENARIOS:
            return _missing("Scenario", rest[0], request)
        match rest:
            case []:
                return _page([_scenario_entry(scenario) for scenario in _SCENARIOS], request)
            case [scenario]:
                return _scenario_entry(scenario)
            case ["foundation-models", "models"]:
                models = sorted({d.model for d in here if d.family.executable != "orchestration"})
                return _page([catalogue_entry(model) for model in models], request)
            case [scenario, "executables"]:
                return _page([_executable(scenario, name) for name in _executables(scenario, here)], request)
            case [scenario, "executables", name] if name in _executables(scenario, here):
                return _executable(scenario, name)
            case [scenario, "versions"]:
                return _page([{"id": "0.0.1", "scenarioId": scenario, **_DATES}], request)
            case _:
                raise faults.ai_api(404, "01010001", "Not found", request.path)

    # --- admin

    def _admin(self, path: str, request: Request, subaccount: Subaccount) -> Any:
        if path == "/admin/resourceGroups":
            if self._switches.admin_resource_groups == "refused":
                raise faults.ai_api(403, "01010005", "Forbidden", "/api/v2/admin/resourceGroups")
            groups = [
                {
                    "resourceGroupId": name,
                    "tenantId": subaccount.zone_id,
                    "zoneId": subaccount.zone_id,
                    "labels": [],
                    "status": "PROVISIONED",
                    "statusMessage": "All onboarding steps are completed.",
                    "createdAt": "2024-01-01T00:00:00Z",
                }
                for name in subaccount.resource_groups
            ]
            return _page(groups, request)
        if path == "/admin/quota/model":
            models = sorted(
                {d.model for d in subaccount.deployments.values() if d.family.executable != "orchestration"}
            )
            return [{"resourceType": "model", "quotaDetails": [_quota(model, subaccount) for model in models]}]
        raise faults.ai_api(404, "01010001", "Not found", request.path)


def _quota(model: str, subaccount: Subaccount) -> dict[str, Any]:
    executable = next(d.family.executable for d in subaccount.deployments.values() if d.model == model)
    names = {"modelName": model, "modelVersion": "*", "providerName": executable}
    return {"unit": "requestPerMinute", "limit": subaccount.quota or 78, "descriptors": names}


def _scenario(deployment: Deployment) -> str:
    return "orchestration" if deployment.family.executable == "orchestration" else "foundation-models"


def _configuration_name(deployment: Deployment) -> str:
    if deployment.family.executable == "orchestration":
        return "defaultOrchestrationConfig"
    return f"{deployment.model}-cfg"


def _configuration(deployment: Deployment) -> dict[str, Any]:
    bound = [{"key": "modelName", "value": deployment.model}, {"key": "modelVersion", "value": deployment.version}]
    return {
        "id": deployment.configuration_id,
        "name": _configuration_name(deployment),
        "executableId": deployment.family.executable,
        "scenarioId": _scenario(deployment),
        "parameterBindings": bound if _scenario(deployment) == "foundation-models" else [],
        "inputArtifactBindings": [],
        "createdAt": deployment.created,
    }


def _scenario_entry(scenario: str) -> dict[str, Any]:
    return {
        "id": scenario,
        "name": scenario,
        "description": _SCENARIOS[scenario],
        "labels": [{"key": "scenarios.ai.sap.com/llm", "value": "true"}],
        **_DATES,
    }


def _executables(scenario: str, here: list[Deployment]) -> list[str]:
    return sorted({d.family.executable for d in here if _scenario(d) == scenario})


def _executable(scenario: str, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "description": f"{name}, simulated",
        "scenarioId": scenario,
        "versionId": "0.0.1",
        "deployable": True,
        "parameters": [{"name": "modelName", "type": "string"}, {"name": "modelVersion", "type": "string"}],
        "inputArtifacts": [],
        "labels": [],
        **_DATES,
    }


def _filtered(deployments: list[Deployment], request: Request) -> list[Deployment]:
    query = request.query
    wanted = [name for name in query.get("executableIds", "").split(",") if name]
    tests: list[Callable[[Deployment], bool]] = []
    if scenario := query.get("scenarioId"):
        tests.append(lambda d: _scenario(d) == scenario)
    if status := query.get("status"):
        tests.append(lambda d: (d.listed_status or d.status) == status)
    if configuration := query.get("configurationId"):
        tests.append(lambda d: d.configuration_id == configuration)
    if wanted:
        tests.append(lambda d: d.family.executable in wanted)
    return [d for d in deployments if all(test(d) for test in tests)]


def _page(resources: list[dict[str, Any]], request: Request) -> dict[str, Any]:
    """``count`` is the number of all that match; ``$top`` and ``$skip`` choose, also without the ``$``."""
    top = _number(request, "top", PAGE)
    skip = _number(request, "skip", 0)
    if top > LARGEST_PAGE:
        raise faults.ai_api(400, "01010007", f"$top must not be above {LARGEST_PAGE}", request.path)
    return {"count": len(resources), "resources": resources[skip : skip + top]}


def _number(request: Request, name: str, default: int) -> int:
    text = request.query.get(f"${name}", request.query.get(name))
    if text is None:
        return default
    if not text.isdigit():
        raise faults.ai_api(400, "01010007", f"${name} must be a number", request.path)
    return int(text)


def _missing(kind: str, name: str, request: Request) -> Refusal:
    target = request.path.replace("/v2/lm/", "/api/v2/", 1)
    raise faults.ai_api(404, "01010008", f"{kind} {name} not found", target)


def _body(request: Request) -> Mapping[str, Any]:
    body = parsed(request.body)
    if isinstance(body, str):
        raise faults.ai_api(400, "01010007", body, request.path)
    return body
