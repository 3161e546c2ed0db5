"""Which deployments run, in all subaccounts and resource groups; a new Catalog whenever that was read anew.

A failure never takes anything away: each resource group of each subaccount keeps what was last known good.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from aicore_proxy.landscape import Catalog, Deployment, catalog_of
from aicore_proxy.sap.ai_api import DEFAULT_GROUP, AiApi, AiApiError, fallback_groups
from aicore_proxy.tasks import Supervisor

log = logging.getLogger("aicore_proxy.sap.discovery")

DEPLOYMENT_ID = re.compile(r"[\w.-]{4,64}", re.ASCII)
ORCHESTRATION = "orchestration"
CALLS = 8  # to one subaccount's AI API at the same time
# SAP's names say who serves a model, where neither the list nor the catalogue does
EXECUTABLES = (
    (re.compile(r"(anthropic|amazon)--"), "aws-bedrock"),
    (re.compile(r"gemini"), "gcp-vertexai"),
    (re.compile(r"gpt-|o\d|text-embedding-|dall-e"), "azure-openai"),
    (re.compile(r"mistralai--"), "aicore-mistralai"),
    (re.compile(r"cohere-"), "aicore-cohere"),
    (re.compile(r"nvidia--"), "aicore-nvidia"),
    (re.compile(r"sonar"), "perplexity-ai"),
    (re.compile(r"sap-rpt-"), "aicore-sap"),
)


class DiscoveryTimes(Struct, frozen=True):
    """Seconds. ``interval``: between refreshes (± 10 %); ``failing``: while the last one failed; ``cold``: while
    nothing is known yet; ``on_demand``: at least between two that were asked for."""

    interval: float = 300.0
    failing: float = 30.0
    cold: float = 1.5
    on_demand: float = 10.0


class SubaccountState(Struct, frozen=True):
    """What discovery knows of a subaccount. ``read_at``: when all of it was last read, by the clock of discovery, None
    if never; ``problems``: of the last refresh, in words."""

    alias: str
    deployments: int
    read_at: float | None
    problems: tuple[str, ...]


class Discovery:
    """Owns what is known of each subaccount, and one task per subaccount that refreshes it.

    ``publish`` gets each new Catalog, from within the event loop; the first one may be incomplete, as subaccounts do
    not wait for each other.
    """

    def __init__(
        self,
        apis: Sequence[AiApi],
        supervisor: Supervisor,
        publish: Callable[[Catalog], None],
        *,
        times: DiscoveryTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._subaccounts = {api.key.name: _Subaccount(api) for api in apis}
        self._supervisor = supervisor
        self._publish = publish
        self._times = times or DiscoveryTimes()
        self._clock = clock
        self._chance = chance

    def start(self) -> None:
        """Begins to refresh in the background, at once and then for ever."""
        for alias, subaccount in self._subaccounts.items():
            self._supervisor.start(f"discovery {alias}", self._keep(subaccount))

    def refresh_soon(self, alias: str) -> None:
        """Asks for a refresh of a subaccount, at most once in ten seconds; later ones are put off until then."""
        if (subaccount := self._subaccounts.get(alias)) is not None:
            subaccount.wanted.set()

    async def refresh_now(self, max_wait: float) -> bool:
        """Refreshes all subaccounts (not those read in the last ten seconds) and waits for it, also for refreshes
        already under way. False when there was nothing to wait for, or not all was done within ``max_wait``."""
        now = self._clock()
        flights = [
            self._fly(subaccount)
            for subaccount in self._subaccounts.values()
            if subaccount.flight is not None or now - subaccount.begun_at >= self._times.on_demand
        ]
        if not flights:
            return False
        _, pending = await asyncio.wait(flights, timeout=max_wait)
        return not pending

    def states(self) -> list[SubaccountState]:
        return [
            SubaccountState(alias, len(list(s.deployments())), s.read_at, s.problems)
            for alias, s in self._subaccounts.items()
        ]

    async def _keep(self, subaccount: _Subaccount) -> None:
        while True:
            subaccount.wanted.clear()
            await asyncio.wait({self._fly(subaccount)})
            cold = subaccount.read_at is None and not any(subaccount.deployments())
            pause = self._times.cold if cold else self._times.failing if subaccount.problems else self._times.interval
            pause *= 0.9 + 0.2 * self._chance()
            waiter = subaccount.wanted.wait()
            try:
                await asyncio.wait_for(waiter, pause)
            except TimeoutError:
                continue
            if (early := subaccount.begun_at + self._times.on_demand - self._clock()) > 0:
                await asyncio.sleep(early)

    def _fly(self, subaccount: _Subaccount) -> asyncio.Task[None]:
        if subaccount.flight is None:
            subaccount.begun_at = self._clock()
            subaccount.flight = self._supervisor.start(f"refresh {subaccount.alias}", self._refresh(subaccount))
        return subaccount.flight

    async def _refresh(self, subaccount: _Subaccount) -> None:
        try:
            before = subaccount.problems
            subaccount.problems = tuple(await subaccount.read())
            for problem in subaccount.problems:
                if problem not in before:
                    log.warning("%s", problem)
            if before and not subaccount.problems:
                log.info("%s: discovery works again", subaccount.alias)
            if not subaccount.problems:
                subaccount.read_at = self._clock()
            self._publish(self._catalog())
        finally:
            subaccount.flight = None

    def _catalog(self) -> Catalog:
        found = (d for subaccount in self._subaccounts.values() for d in subaccount.deployments())
        return catalog_of(found, self._clock())


class _Subaccount:
    """Owned by Discovery. ``groups``: resource group -> its deployments when they were last read well."""

    def __init__(self, api: AiApi) -> None:
        self.api = api
        self.alias = api.key.name
        self.groups: dict[str, dict[str, Deployment]] = {}
        self.problems: tuple[str, ...] = ()
        self.read_at: float | None = None
        self.begun_at = float("-inf")
        self.flight: asyncio.Task[None] | None = None
        self.wanted = asyncio.Event()
        self._emptied: set[str] = set()  # groups whose list came back empty once, after it was not
        self._listed: set[str] = set()  # groups that the key was once shown
        self._models: dict[str, tuple[str, str]] = {}  # configuration id -> model and version: it never changes
        self._executables: dict[str, str] = {}  # model -> executable, of the catalogue
        self._catalogue_read = False  # in this refresh
        self._unlike: set[str] = set()  # deployments left out, each named once in the log
        self._calls = asyncio.Semaphore(CALLS)
        self._catalogue = asyncio.Lock()

    def deployments(self) -> Sequence[Deployment]:
        """Each once, though two resource groups may list it."""
        return list({d.id: d for group in self.groups.values() for d in group.values()}.values())

    async def read(self) -> list[str]:
        """Reads all groups. Gives what went wrong; what it concerns keeps its last state."""
        self._catalogue_read = False
        groups, problems = await self._resource_groups()
        outcomes = await asyncio.gather(*(self._read_group(group) for group in groups))
        problems += [problem for problem in outcomes if problem]
        for gone in self.groups.keys() - set(groups):
            del self.groups[gone]
        return problems

    async def _resource_groups(self) -> tuple[list[str], list[str]]:
        key = self.api.key
        try:
            groups = await self.api.resource_groups()
        except AiApiError as error:
            known = sorted(self._listed)
            return fallback_groups(key, known), [] if error.forbidden else [error.message]
        if not groups and self.groups and "" not in self._emptied:
            self._emptied.add("")
            return list(self.groups), [f"{self.alias}: the list of resource groups came back empty"]
        self._emptied.discard("")
        if key.resource_group is not None and key.resource_group not in groups:
            groups.append(key.resource_group)
        self._listed = set(groups)
        return groups or [key.resource_group or DEFAULT_GROUP], []

    async def _read_group(self, group: str) -> str | None:
        """Reads one group. Gives the problem, if any."""
        try:
            async with self._calls:
                listed = await self.api.deployments(group)
            running = [item for item in listed if item.get("status") == "RUNNING"]
            read = await asyncio.gather(*(self._deployment(item, group) for item in running))
            found = [deployment for deployment in read if deployment is not None]
        except AiApiError as error:
            return f"{error.message} (resource group {group})"
        known = self.groups.get(group)
        if known and not found and group not in self._emptied:
            self._emptied.add(group)
            return f"{self.alias}: the list of deployments of {group} came back empty; believed when seen again"
        self._emptied.discard(group)
        self.groups[group] = {d.id: d for d in found}
        return None

    async def _deployment(self, item: Mapping[str, Any], group: str) -> Deployment | None:
        """A Deployment of an entry of the list, None for what is not served. Raises AiApiError."""
        identity = item["id"]
        executable = word(item.get("executableId"))
        if ORCHESTRATION in (executable, item.get("scenarioId")):
            return None
        url = self._url(item)
        if not DEPLOYMENT_ID.fullmatch(identity) or url is None:
            self._left_out(identity, group, "its id or URL is not usable")
            return None
        model, version = model_of(item)
        if not model and (configuration := word(item.get("configurationId"))):
            model, version = await self._configured(configuration, group)
        if not model:
            self._left_out(identity, group, "it names no model")
            return None
        return Deployment(
            id=identity,
            subaccount=self.alias,
            resource_group=group,
            executable=executable or await self._executable(model, group),
            model=model,
            url=url,
            version=version,
            created_at=word(item.get("createdAt")),
        )

    def _url(self, item: Mapping[str, Any]) -> str | None:
        """The inference base: https, or plain where the API is plain too. A URL of another scheme is not HTTP."""
        given = word(item.get("deploymentUrl")).rstrip("/")
        if not given:
            return f"{self.api.key.api_url}/v2/inference/deployments/{item['id']}"
        try:
            parts = urlsplit(given)
        except ValueError:
            return None
        allowed = ("https", urlsplit(self.api.key.api_url).scheme)
        plain = not parts.query and not parts.fragment and parts.username is None and given.isprintable()
        return given if parts.scheme in allowed and parts.hostname and plain and " " not in given else None

    async def _configured(self, configuration: str, group: str) -> tuple[str, str]:
        """Model and version of a configuration, for lists that lack the backend's details."""
        if configuration not in self._models:
            try:
                async with self._calls:
                    answer = await self.api.configuration(configuration, group)
            except AiApiError as error:
                if error.forbidden:
                    return "", ""
                raise
            bindings = answer.get("parameterBindings")
            values = {
                binding.get("key"): word(binding.get("value"))
                for binding in (bindings if isinstance(bindings, list) else ())
                if isinstance(binding, dict)
            }
            self._models[configuration] = values.get("modelName", ""), values.get("modelVersion", "")
        return self._models[configuration]

    async def _executable(self, model: str, group: str) -> str:
        """Who serves a model: by the catalogue, else by the rule of SAP's names, else nothing."""
        async with self._catalogue:
            if model not in self._executables and not self._catalogue_read:
                self._catalogue_read = True
                await self._read_catalogue(group)
        return self._executables.get(model) or executable_by_rule(model)

    async def _read_catalogue(self, group: str) -> None:
        try:
            for entry in await self.api.models(group):
                if executable := word(entry.get("executableId")):
                    self._executables[entry["model"]] = executable
        except AiApiError as error:
            if not error.forbidden:
                log.info("%s", error)

    def _left_out(self, identity: str, group: str, why: str) -> None:
        if identity not in self._unlike:
            self._unlike.add(identity)
            log.warning("%s: deployment %.64r of %s is left out: %s", self.alias, identity, group, why)


def model_of(item: Mapping[str, Any]) -> tuple[str, str]:
    """Model name and version by ``details.resources``, where both spellings occur, or one of them."""
    match item.get("details"):
        case {"resources": {"backendDetails": {"model": dict() as model}}} if model.get("name"):
            pass
        case {"resources": {"backend_details": {"model": dict() as model}}} if model.get("name"):
            pass
        case _:
            return "", ""
    return word(model.get("name")), word(model.get("version"))


def executable_by_rule(model: str) -> str:
    return next((executable for pattern, executable in EXECUTABLES if pattern.match(model)), "")


def word(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""
