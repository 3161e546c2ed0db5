"""``/_simulator/…``: state, service keys, requests, scripts, deployments, switches (docs/simulator.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from aicore_proxy.simulator.families import family
from aicore_proxy.simulator.faults import JSON
from aicore_proxy.simulator.inference import Inference
from aicore_proxy.simulator.landscape import (
    Deployment,
    DeploymentSpec,
    LandscapeError,
    Subaccount,
    Switches,
    add_deployment,
)
from aicore_proxy.simulator.operation import encode
from aicore_proxy.simulator.scripts import ScriptBook, ScriptError, setting_from
from aicore_proxy.simulator.server import Request
from aicore_proxy.simulator.tokens import der_of

PREFIX = "/_simulator/"
STATUSES = ("PENDING", "RUNNING", "COMPLETED", "DEAD", "STOPPING", "STOPPED", "UNKNOWN")


class Unusable(Exception):
    """A control request that cannot be followed: status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Control:
    """Answers control requests of one simulator."""

    def __init__(
        self,
        subaccounts: dict[str, Subaccount],
        inference: Inference,
        book: ScriptBook,
        certificate_url: Callable[[], str] = lambda: "",
    ) -> None:
        self._subaccounts = subaccounts
        self._certificate_url = certificate_url
        self._inference = inference
        self._book = book

    def answer(self, request: Request, base_url: str) -> tuple[int, bytes, str]:
        """Status, body, content type."""
        try:
            return 200, encode(self._answer(request, base_url)), JSON
        except (Unusable, ScriptError, LandscapeError) as error:
            status = error.status if isinstance(error, Unusable) else 400
            return status, encode({"error": str(error)}), JSON

    def _answer(self, request: Request, base_url: str) -> Any:
        match [request.method, *request.path.removeprefix(PREFIX).rstrip("/").split("/")]:
            case ["GET", "state"]:
                return self.state()
            case ["GET", "service-keys"]:
                return self.service_keys(base_url)
            case ["GET", "requests"]:
                return self._inference.records.listed()
            case ["DELETE", "requests"]:
                self._inference.records.clear()
                return {"requests": 0}
            case ["GET", "scripts"]:
                return [_shown(setting) for setting in self._book.settings]
            case ["POST", "scripts"]:
                self._book.set(setting_from(_body(request)))
                return {"scripts": len(self._book)}
            case ["DELETE", "scripts"]:
                self._book.clear()
                return {"scripts": 0}
            case ["POST", "deployments"]:
                return self._deploy(_body(request))
            case ["PATCH" | "DELETE" as method, "deployments", wanted]:
                return self._change(method, wanted, request)
            case ["GET", "switches"]:
                return msgspec.to_builtins(self._inference.switches)
            case ["PATCH", "switches"]:
                return self._switch(_body(request))
            case ["PATCH", "subaccounts", name]:
                return self._rekey(self._named(name), _body(request))
            case ["DELETE", "tokens"]:
                return self._revoke(request.query.get("at"))
            case _:
                raise Unusable(404, f"There is no {request.method} {request.path}; see docs/simulator.md.")

    def state(self) -> dict[str, Any]:
        """``open`` comes first, so that a look at the first bytes tells it."""
        return {
            "open": self._inference.open,
            "subaccounts": {
                subaccount.name: {
                    "deployments": [
                        {
                            "id": deployment.id,
                            "model": deployment.model,
                            "open": deployment.open,
                            "received": deployment.received,
                            "pushed": deployment.pushed,
                            "status": deployment.status,
                            "resource_group": deployment.resource_group,
                        }
                        for deployment in subaccount.deployments.values()
                    ],
                    "token_requests": subaccount.token_requests,
                    "ai_api_requests": subaccount.ai_api_requests,
                }
                for subaccount in self._subaccounts.values()
            },
        }

    def service_keys(self, base_url: str) -> dict[str, Any]:
        """A service key of each subaccount, as SAP BTP hands them out; one of X.509 lacks the private key, which is not
        known here."""
        return {
            subaccount.name: {
                "clientid": subaccount.client_id,
                **self._proof(subaccount),
                "url": base_url,
                "identityzone": subaccount.name,
                "identityzoneid": subaccount.zone_id,
                "appname": subaccount.client_id.removeprefix("sb-"),
                "serviceurls": {"AI_API_URL": base_url},
            }
            for subaccount in self._subaccounts.values()
        }

    def _proof(self, subaccount: Subaccount) -> dict[str, str]:
        if not subaccount.certificate:
            return {"clientsecret": subaccount.client_secret, "credential-type": "binding-secret"}
        certified = {"certificate": subaccount.certificate, "certurl": self._certificate_url()}
        return {**certified, "credential-type": "x509"}

    # --- changes

    def _named(self, name: str) -> Subaccount:
        if name not in self._subaccounts:
            raise Unusable(404, f"There is no subaccount {name}; there are {', '.join(self._subaccounts)}.")
        return self._subaccounts[name]

    def _deploy(self, body: Mapping[str, Any]) -> Any:
        wanted = dict(body)
        name = wanted.pop("subaccount", None) or next(iter(self._subaccounts))
        try:
            spec = msgspec.convert(wanted, DeploymentSpec)
        except msgspec.ValidationError as error:
            raise Unusable(400, f"The deployment is not valid: {error}") from None
        return _deployed(add_deployment(self._named(name), spec))

    def _change(self, method: str, wanted: str, request: Request) -> Any:
        subaccount = next((s for s in self._subaccounts.values() if wanted in s.deployments), None)
        if subaccount is None:
            raise Unusable(404, f"There is no deployment {wanted}.")
        if method == "DELETE":
            return _deployed(subaccount.deployments.pop(wanted))
        deployment = subaccount.deployments[wanted]
        for name, value in _body(request).items():
            if _fits(name, value):
                setattr(deployment, name, value)
            elif name == "model" and isinstance(value, str):
                deployment.model, deployment.family = value, family(value)
            elif name == "resource_group" and isinstance(value, str):
                deployment.resource_group = value
                if value not in subaccount.resource_groups:
                    subaccount.resource_groups.append(value)
            else:
                raise Unusable(
                    400,
                    f"{name}: {value!r} is not possible; there are status, listed_status "
                    f"({', '.join(STATUSES)}), version, url, model and resource_group.",
                )
        return _deployed(deployment)

    def _switch(self, body: Mapping[str, Any]) -> Any:
        switches = self._inference.switches
        try:
            changed = msgspec.convert({**msgspec.to_builtins(switches), **body}, Switches)
        except msgspec.ValidationError as error:
            raise Unusable(400, f"The switches are not valid: {error}") from None
        for name in Switches.__struct_fields__:
            setattr(switches, name, getattr(changed, name))
        return msgspec.to_builtins(switches)

    def _rekey(self, subaccount: Subaccount, body: Mapping[str, Any]) -> Any:
        for name, value in body.items():
            if name == "clientsecret" and isinstance(value, str):
                subaccount.client_secret = value
            elif name == "quota" and isinstance(value, int):
                subaccount.quota = value
            elif name == "certificate" and isinstance(value, str) and (not value or der_of(value)):
                subaccount.certificate = value
            else:
                words = "clientsecret (text), certificate (PEM or empty) and quota (number) can."
                raise Unusable(400, f"{name} cannot be changed; {words}")
        return {"subaccount": subaccount.name}

    def _revoke(self, at: str | None) -> Any:
        revoked = list(self._subaccounts.values()) if at is None else [self._named(at)]
        for subaccount in revoked:
            subaccount.generation += 1
        return {"revoked": [subaccount.name for subaccount in revoked]}


def _deployed(deployment: Deployment) -> dict[str, Any]:
    return {
        "id": deployment.id,
        "subaccount": deployment.subaccount,
        "model": deployment.model,
        "status": deployment.status,
    }


def _fits(name: str, value: Any) -> bool:
    """Whether it is a property of a deployment, and a value of it, that nothing else follows from."""
    if name in ("status", "listed_status"):
        return value in STATUSES or (name == "listed_status" and value is None)
    return name in ("version", "url") and isinstance(value, str)


def _shown(setting: Any) -> dict[str, Any]:
    return {"at": setting.at, "endpoint": setting.endpoint, "script": msgspec.to_builtins(setting.script)}


def _body(request: Request) -> Any:
    try:
        body = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unusable(400, f"The body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise Unusable(400, "The body must be a JSON object.")
    return body
