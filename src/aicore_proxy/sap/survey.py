"""Everything that a service key lets one see of its subaccount, looked at once: for ``doctor`` and ``models``.

Nothing here is needed to serve; ``Discovery`` reads what is. A survey never raises: what failed stands in it in words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from aicore_proxy.sap.ai_api import AiApi, AiApiError, fallback_groups
from aicore_proxy.sap.discovery import model_of, word
from aicore_proxy.sap.scope import Scope
from aicore_proxy.sap.token import Grant, TokenError, TokenProvider

CALLS = 8
EXPLAINED = 20  # deployments that neither run nor were stopped, of which it is asked why


class Version(Struct, frozen=True):
    """One version of a model in SAP's catalogue. ``retires``: a date as SAP writes it, empty while none is set."""

    name: str
    latest: bool = False
    deprecated: bool = False
    retires: str = ""
    context_length: int | None = None
    streaming: bool | None = None
    replacements: tuple[str, ...] = ()


class CatalogueEntry(Struct, frozen=True):
    """A model in SAP's catalogue. ``scenarios``: ``foundation-models`` where it can be deployed, ``orchestration``."""

    model: str
    executable: str
    provider: str = ""
    display_name: str = ""
    scenarios: tuple[str, ...] = ()
    versions: tuple[Version, ...] = ()

    def version(self, name: str) -> Version | None:
        """The version that a deployment names; ``latest`` and nothing mean the latest. A deployment with a pinned
        version ends on its retirement date, one with ``latest`` moves on."""
        if name in ("", "latest"):
            return next((v for v in self.versions if v.latest), self.versions[0] if self.versions else None)
        return next((v for v in self.versions if v.name == name), None)


class Listed(Struct, frozen=True):
    """A deployment of any status, as the AI API lists it. ``message``: why it does not run, where SAP says so."""

    id: str
    resource_group: str
    status: str
    target_status: str = ""
    scenario: str = ""
    configuration: str = ""
    model: str = ""
    version: str = ""
    created_at: str = ""
    url: str = ""
    message: str = ""


class GroupSurvey(Struct, frozen=True):
    """A resource group. ``problem``: why its deployments could not be read; ``status``: of that answer."""

    name: str
    deployments: tuple[Listed, ...] = ()
    problem: str = ""
    status: int | None = None


class Survey(Struct, frozen=True):
    """A subaccount. ``groups_problem``: why the resource groups could not be listed; ``groups_forbidden``: the key may
    not, which is common and harmless; then ``groups`` are those that it would use anyway. ``models``: SAP's catalogue
    for this tenant and region, by SAP's name."""

    alias: str
    grant: Grant | None = None
    token_problem: str = ""
    token_refused: bool = False
    groups: tuple[GroupSurvey, ...] = ()
    groups_problem: str = ""
    groups_forbidden: bool = False
    models: Mapping[str, CatalogueEntry] = field(default_factory=dict)
    models_problem: str = ""

    @property
    def deployments(self) -> Sequence[Listed]:
        return [deployment for group in self.groups for deployment in group.deployments]


async def survey(api: AiApi, tokens: TokenProvider, scope: Scope = Scope()) -> Survey:  # noqa: B008 - frozen
    """Looks at a subaccount, within the timeouts of ``api`` and ``tokens``; the rest is skipped without a token."""
    try:
        await tokens.token()
    except TokenError as error:
        return Survey(api.key.name, token_problem=error.message, token_refused=error.refused)
    names, problem, forbidden = await _group_names(api, scope)
    calls = asyncio.Semaphore(CALLS)
    groups = await asyncio.gather(*(_group(api, name, calls) for name in names))
    readable = [group.name for group in groups if not group.problem] or names
    models, models_problem = await _models(api, readable[0])
    return Survey(
        api.key.name,
        grant=tokens.grant,
        groups=tuple(groups),
        groups_problem=problem,
        groups_forbidden=forbidden,
        models=models,
        models_problem=models_problem,
    )


async def _group_names(api: AiApi, scope: Scope) -> tuple[list[str], str, bool]:
    if scope.resource_groups:
        return list(dict.fromkeys(scope.resource_groups)), "", False
    own = api.key.resource_group
    try:
        names = await api.resource_groups()
    except AiApiError as error:
        return fallback_groups(api.key, []), error.message, error.forbidden
    return list(dict.fromkeys([*names, *([own] if own else [])])) or fallback_groups(api.key, []), "", False


async def _group(api: AiApi, name: str, calls: asyncio.Semaphore) -> GroupSurvey:
    try:
        async with calls:
            items = await api.deployments(name, status="")
    except AiApiError as error:
        return GroupSurvey(name, problem=error.message, status=error.status)
    listed = [_listed(item, name) for item in items]
    unclear = [d.id for d in listed if d.status not in ("RUNNING", "STOPPED", "STOPPING", "COMPLETED")][:EXPLAINED]
    said = dict(zip(unclear, await asyncio.gather(*(_message(api, d, name, calls) for d in unclear)), strict=True))
    return GroupSurvey(name, tuple(_with_message(d, said.get(d.id, "")) for d in listed))


def _listed(item: Mapping[str, Any], group: str) -> Listed:
    model, version = model_of(item)
    return Listed(
        id=item["id"],
        resource_group=group,
        status=word(item.get("status")),
        target_status=word(item.get("targetStatus")),
        scenario=word(item.get("scenarioId")),
        configuration=word(item.get("configurationName")),
        model=model,
        version=version,
        created_at=word(item.get("createdAt")),
        url=word(item.get("deploymentUrl")),
        message=word(item.get("statusMessage")),
    )


async def _message(api: AiApi, deployment: str, group: str, calls: asyncio.Semaphore) -> str:
    try:
        async with calls:
            answer = await api.deployment(deployment, group)
    except AiApiError:
        return ""
    return word(answer.get("statusMessage"))


def _with_message(deployment: Listed, message: str) -> Listed:
    return msgspec.structs.replace(deployment, message=message) if message else deployment


async def _models(api: AiApi, group: str) -> tuple[dict[str, CatalogueEntry], str]:
    try:
        return {entry["model"]: entry_of(entry) for entry in await api.models(group)}, ""
    except AiApiError as error:
        return {}, error.message


def entry_of(entry: Mapping[str, Any]) -> CatalogueEntry:
    """An entry of ``GET /lm/scenarios/foundation-models/models``, of which only the model's name is sure to be
    there."""
    versions = [_version(v) for v in _objects(entry.get("versions"))]
    return CatalogueEntry(
        model=entry["model"],
        executable=word(entry.get("executableId")),
        provider=word(entry.get("provider")),
        display_name=word(entry.get("displayName")),
        scenarios=tuple(word(s.get("scenarioId")) for s in _objects(entry.get("allowedScenarios"))),
        versions=tuple(versions),
    )


def _version(version: Mapping[str, Any]) -> Version:
    length, streaming = version.get("contextLength"), version.get("streamingSupported")
    replacements = version.get("suggestedReplacements")
    return Version(
        name=word(version.get("name")),
        latest=version.get("isLatest") is True,
        deprecated=version.get("deprecated") is True,
        retires=word(version.get("retirementDate")),
        context_length=length if isinstance(length, int) and not isinstance(length, bool) else None,
        streaming=streaming if isinstance(streaming, bool) else None,
        replacements=tuple(word(r) for r in replacements if word(r)) if isinstance(replacements, list) else (),
    )


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
