"""What is deployed where: subaccounts, their resource groups and deployments, and the switches between behaviours on
which the evidence conflicts (SAP AI Core wire facts, section 10)."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from aicore_proxy.simulator.families import Family, family

GPT = ("gpt-4o", "gpt-4.1", "gpt-5", "gpt-5-mini", "gpt-5-nano", "gpt-5.2", "gpt-5.4", "gpt-5.5", "o3", "o4-mini",
       "gpt-5.3-codex")  # fmt: skip
CLAUDE = tuple(
    f"anthropic--claude-{name}"
    for name in ("4-sonnet", "4.5-sonnet", "4.5-haiku", "4.5-opus", "4.6-sonnet", "4.6-opus", "4.7-opus", "4.8-opus",
                 "5-sonnet", "5.5-sonnet", "5.5-opus", "5.5-haiku")
)  # fmt: skip
GEMINI = ("gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-3.1-flash-lite", "gemini-3.5-flash",
          "gemini-3.5-flash-lite")  # fmt: skip
EMBEDDINGS = ("text-embedding-3-small", "text-embedding-3-large", "gemini-embedding")
DEMO_MODELS = (*GPT, *CLAUDE, *GEMINI, *EMBEDDINGS, "amazon--nova-lite")

Status = Literal["PENDING", "RUNNING", "COMPLETED", "DEAD", "STOPPING", "STOPPED", "UNKNOWN"]


class LandscapeError(ValueError):
    """What is wrong with a landscape."""


class DeploymentSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A deployment as configured. ``id`` empty: derived from subaccount, group, model and number; ``url``: listed
    instead of its own."""

    model: str
    id: str = ""
    resource_group: str = "default"
    status: Status = "RUNNING"
    version: str = "latest"
    created: str = ""
    url: str = ""


class SubaccountSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A subaccount as configured: model names, or deployments in full. ``quota``: requests a minute and model.
    ``certificate``: PEM chain; with it the service key is one of X.509 and the secret is not accepted."""

    name: str
    models: tuple[str, ...] = ()
    deployments: tuple[DeploymentSpec, ...] = ()
    resource_groups: tuple[str, ...] = ("default",)
    quota: int = 0
    certificate: str = ""


class Switches(Struct, forbid_unknown_fields=True):
    """Behaviours that can be switched, each with the likelier one as its default. Changed at run time by
    ``PATCH /_simulator/switches``."""

    strict: bool = False
    """Refuse what is only said to be refused: Claude's ``metadata`` and ``output_config.format``, Gemini's
    ``thinkingConfig``."""
    refuse_parameters: bool = True
    """o-series and gpt-5 refuse ``max_tokens`` and sampling parameters (field) or take them (help page)."""
    converse_stream: Literal["python", "json"] = "python"
    invoke_event_lines: bool = False
    beta_envelope: Literal["anthropic", "bare"] = "anthropic"
    stopped_deployment: Literal[404, 503] = 404
    resource_group_refusal: Literal["403", "404", "tenant"] = "403"
    admin_resource_groups: Literal["allowed", "refused"] = "allowed"
    retry_after: bool = True
    x_retry_after: bool = True
    azure_usage: Literal["frame", "finish"] = "frame"
    gemini_usage: Literal["every", "last"] = "every"
    gemini_function_prefix: str = ""
    backend_details: Literal["both", "camel", "snake"] = "both"
    list_executable: bool = False
    """Whether listed deployments carry ``executableId``."""
    check_signatures: bool = True
    """Refuse thoughts whose signature is none, altered, wrapped or another model's; off: any that is there will do."""
    expires_in: int = 43199
    """Life of a token, seconds; 0 or less: refused at once."""
    clock: float = 0.0
    """Seconds by which the ``Date`` of the token service and the AI API is ahead of the time."""


class Landscape(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that a simulator serves."""

    subaccounts: tuple[SubaccountSpec, ...]
    switches: Switches = field(default_factory=Switches)


class Deployment(Struct, eq=False):
    """A deployment that runs, with its counters. Owned by the Simulator; used on its event loop only."""

    id: str
    subaccount: str
    resource_group: str
    model: str
    family: Family
    version: str
    status: Status
    created: str
    configuration_id: str
    listed_status: Status | None = None
    url: str = ""
    open: int = 0
    received: int = 0
    pushed: int = 0
    minute: int = 0
    used: int = 0


class Subaccount(Struct, eq=False):
    """A subaccount and its counters. ``generation`` rises when all its tokens are revoked."""

    name: str
    client_id: str
    client_secret: str
    zone_id: str
    resource_groups: list[str]
    deployments: dict[str, Deployment]
    quota: int = 0
    certificate: str = ""
    generation: int = 0
    token_requests: int = 0
    ai_api_requests: int = 0


def demo() -> Landscape:
    """``demo-eu`` and ``demo-us``: the same models in both, two of them twice in ``demo-eu``, an orchestration
    deployment and a stopped one."""
    twice = (DeploymentSpec("gpt-5"), DeploymentSpec("anthropic--claude-4.5-sonnet"))
    extra = (
        DeploymentSpec("orchestration"),
        DeploymentSpec("gpt-4.1", status="STOPPED", created="2026-03-01T08:00:00Z"),
    )
    return Landscape(
        (
            SubaccountSpec("demo-eu", DEMO_MODELS, (*twice, *extra)),
            SubaccountSpec("demo-us", DEMO_MODELS, extra),
        )
    )


def load(path: Path) -> Landscape:
    """A landscape from a JSON file. Raises LandscapeError, OSError."""
    return from_json(path.read_bytes())


def from_json(raw: bytes) -> Landscape:
    """``{"subaccounts": [{"name", "models": […], "deployments": [{…}], …}], "switches": {…}}``; ``subaccounts`` may
    also be an object ``{name: [model, …]}``. Raises LandscapeError."""
    try:
        value = msgspec.json.decode(raw)
        if isinstance(value, dict) and isinstance(value.get("subaccounts"), dict):
            value["subaccounts"] = [
                {"name": name, "models": inner} if isinstance(inner, list) else {"name": name, **inner}
                for name, inner in value["subaccounts"].items()
            ]
        return msgspec.convert(value, Landscape)
    except (msgspec.ValidationError, msgspec.DecodeError, TypeError) as error:
        raise LandscapeError(f"The landscape is not usable: {error}") from None


def simple(models: list[str] | tuple[str, ...], subaccounts: int = 1, **switches: Any) -> Landscape:
    """``subaccounts`` subaccounts ``sub-1`` …, each with one deployment of every model. Handy in tests."""
    names = (f"sub-{number}" for number in range(1, subaccounts + 1))
    return Landscape(tuple(SubaccountSpec(name, tuple(models)) for name in names), Switches(**switches))


def build(spec: SubaccountSpec) -> Subaccount:
    """The running form of a configured subaccount. Raises LandscapeError where an id occurs twice."""
    digest = hashlib.sha256(spec.name.encode()).hexdigest()
    built = Subaccount(
        spec.name,
        f"sb-{digest[:8]}!b100|aicore!b200",
        f"{digest[8:24]}$abc=",
        str(uuid.UUID(digest[:32])),
        list(spec.resource_groups),
        {},
        spec.quota,
        spec.certificate,
    )
    for wanted in (*(DeploymentSpec(model) for model in spec.models), *spec.deployments):
        add_deployment(built, wanted)
    return built


def add_deployment(subaccount: Subaccount, spec: DeploymentSpec) -> Deployment:
    """Deploys. Raises LandscapeError if that id exists."""
    number = sum(1 for other in subaccount.deployments.values() if other.model == spec.model)
    seed = f"{subaccount.name}/{spec.resource_group}/{spec.model}/{number}"
    while (deployment_id := spec.id or "d" + hashlib.sha256(seed.encode()).hexdigest()[:15]) in subaccount.deployments:
        if spec.id:
            raise LandscapeError(f"Deployment {deployment_id} exists already in {subaccount.name}.")
        seed += "+"
    if spec.resource_group not in subaccount.resource_groups:
        subaccount.resource_groups.append(spec.resource_group)
    deployment = Deployment(
        deployment_id,
        subaccount.name,
        spec.resource_group,
        spec.model,
        family(spec.model),
        spec.version,
        spec.status,
        spec.created or f"2026-05-01T08:00:{number:02d}Z",
        str(uuid.uuid5(uuid.NAMESPACE_URL, f"configuration/{deployment_id}")),
        url=spec.url,
    )
    subaccount.deployments[deployment_id] = deployment
    return deployment
