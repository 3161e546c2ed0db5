"""Which deployments run, in all subaccounts and resource groups; a new Catalog whenever that was read anew.

A failure never takes anything away: each resource group of each subaccount keeps what was last known good.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from aicore_proxy.landscape import Catalog, Deployment, Naming, catalog_of
from aicore_proxy.sap import snapshot
from aicore_proxy.sap.ai_api import DEFAULT_GROUP, AiApi, AiApiError, fallback_groups
from aicore_proxy.sap.scope import Pin, Scope, chosen, missing
from aicore_proxy.tasks import Supervisor

log = logging.getLogger("aicore_proxy.sap.discovery")

DEPLOYMENT_ID = re.compile(r"[\w.-]{4,64}", re.ASCII)
ORCHESTRATION = "orchestration"
REWRITE = 4.0  # seconds after which what could not be kept on disk is written again
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
    if never; ``problems``: of the last refresh, in words; ``snapshot_of``: Unix seconds of the snapshot that it still
    stands on, None once it was read."""

    alias: str
    deployments: int
    read_at: float | None
    problems: tuple[str, ...]
    resource_groups: tuple[str, ...] = ()
    snapshot_of: float | None = None


class Discovery:
    """Owns what is known of each subaccount, and one task per subaccount that refreshes it.

    ``publish`` gets each new Catalog, from within the event loop; the first one may be incomplete, as subaccounts do
    not wait for each other. ``scopes``: by alias, what of a subaccount is served; all of it where none is given.
    ``snapshot_file``: where the last known good state is kept, and read from at the start.
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
        scopes: Mapping[str, Scope] | None = None,
        naming: Naming = Naming(),  # noqa: B008 - frozen
        snapshot_file: Path | None = None,
    ) -> None:
        given = scopes or {}
        self._subaccounts = {api.key.name: _Subaccount(api, given.get(api.key.name, Scope())) for api in apis}
        self._naming = naming
        self._keeper = _Keeper(snapshot_file, supervisor) if snapshot_file is not None else None
        self._warnings: tuple[str, ...] = ()
        self._supervisor = supervisor
        self._publish = publish
        self._times = times or DiscoveryTimes()
        self._clock = clock
        self._chance = chance

    def start(self) -> None:
        """Begins to refresh in the background, at once and then for ever. What was last known, of the snapshot, is
        published within moments, however long SAP takes."""
        if self._keeper is not None:
            self._supervisor.start("last known deployments", self._restore(self._keeper))
        for subaccount in self._subaccounts.values():
            self._begin(subaccount)

    def reconfigure(
        self, apis: Sequence[AiApi], scopes: Mapping[str, Scope], naming: Naming, times: DiscoveryTimes
    ) -> None:
        """Takes these subaccounts, scopes and names from now on, and publishes what follows from them. What is known of
        a subaccount that stays is kept; those that are new, or of which more is to be read, are read at once."""
        kept = self._subaccounts
        sooner = times != self._times
        self._subaccounts, self._naming, self._times = {}, naming, times
        for api in apis:
            alias, scope = api.key.name, scopes.get(api.key.name, Scope())
            known = kept.get(alias)
            if known is not None and known.api.key.same_subaccount(api.key):
                del kept[alias]
                self._subaccounts[alias] = known
                if known.rescope(api, scope):
                    known.begun_at = float("-inf")
                    known.wanted.set()
                elif sooner:  # it waits for as long as was right before
                    known.wanted.set()
            else:
                self._subaccounts[alias] = _Subaccount(api, scope)
                self._begin(self._subaccounts[alias])
        for gone in kept.values():
            for task in (gone.keeping, gone.flight):
                if task is not None:
                    task.cancel()
        self._publish(self._catalog())

    def _begin(self, subaccount: _Subaccount) -> None:
        subaccount.keeping = self._supervisor.start(f"discovery {subaccount.alias}", self._keep(subaccount))

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
            SubaccountState(
                alias, len(s.served()), s.read_at, s.problems, tuple(s.groups), None if s.seen else s.kept_at
            )
            for alias, s in self._subaccounts.items()
        ]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the configuration says of names and deployments that does not fit what runs, one line each."""
        return self._warnings

    async def _restore(self, keeper: _Keeper) -> None:
        """Fills those subaccounts that nothing is known of by now."""
        kept = await keeper.load()
        restored = [s for s in self._subaccounts.values() if s.restore(kept.get(snapshot.identity(s.api.key)))]
        if restored:
            self._publish(self._catalog())

    async def _keep(self, subaccount: _Subaccount) -> None:
        while True:
            subaccount.wanted.clear()
            await asyncio.wait({self._fly(subaccount)})
            cold = subaccount.read_at is None and not any(subaccount.deployments())
            pause = self._times.interval
            if cold or subaccount.problems:
                pause = min(pause, self._times.cold if cold else self._times.failing)
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
            if self._keeper is not None:
                self._keeper.save(self._subaccounts.values())
        finally:
            subaccount.flight = None

    def _catalog(self) -> Catalog:
        subaccounts = self._subaccounts.values()
        found, twice = once(d for subaccount in subaccounts for d in subaccount.served())
        pins = (pin for subaccount in subaccounts for pin in subaccount.pins())
        pinned, warnings = chosen(Pin(pin.name, found.get(place(pin.deployment), pin.deployment)) for pin in pins)
        warnings += twice
        catalog = catalog_of(found.values(), self._clock(), self._naming, pinned)
        for subaccount in subaccounts:
            if subaccount.seen:
                running = (d.id for d in subaccount.deployments())
                warnings += missing(subaccount.alias, subaccount.scope, running, subaccount.scope.resource_groups)
        if all(subaccount.seen for subaccount in subaccounts):
            for alias, model in catalog.unserved_aliases().items():
                near = f" Near: {', '.join(names)}." if (names := catalog.near(model, 3)) else ""
                warnings.append(f"The alias {alias} stands for {model}, of which no deployment runs.{near}")
        for warning in warnings:
            if warning not in self._warnings:
                log.warning("%s", warning)
        self._warnings = tuple(warnings)
        return catalog


class _Keeper:
    """Keeps the last known good state on disk, off the event loop; what cannot be written is tried again until it can.
    Owns the one write that may be under way."""

    def __init__(self, path: Path, supervisor: Supervisor) -> None:
        self._path = path
        self._supervisor = supervisor
        self._write: asyncio.Task[None] | None = None
        self._next: Mapping[str, snapshot.Kept | None] | None = None
        self._failed = ""

    async def load(self) -> Mapping[str, snapshot.Kept]:
        try:
            return await asyncio.to_thread(snapshot.load, self._path)
        except snapshot.SnapshotError as error:
            log.warning("The last known deployments are not used: %s", error)
            return {}

    def save(self, subaccounts: Iterable[_Subaccount]) -> None:
        """Writes soon what is known now; does not wait."""
        self._next = {snapshot.identity(s.api.key): s.kept() for s in subaccounts}
        if self._write is None:
            self._write = self._supervisor.start("snapshot", self._save())

    async def _save(self) -> None:
        try:
            while (known := self._next) is not None:
                self._next = None
                try:
                    await asyncio.to_thread(snapshot.save, self._path, known)
                    self._failed = ""
                except snapshot.SnapshotError as error:
                    if str(error) != self._failed:
                        self._failed = str(error)
                        log.warning("The last known deployments are not kept: %s", error)
                    await asyncio.sleep(REWRITE)
                    if self._next is None:
                        self._next = known
        finally:
            self._write = None


class _Subaccount:
    """Owned by Discovery. ``groups``: resource group -> its deployments when they were last read well; ``kept_at``:
    Unix seconds of that; ``seen``: whether any group was ever read by this process."""

    def __init__(self, api: AiApi, scope: Scope) -> None:
        self.api = api
        self.scope = scope
        self.alias = api.key.name
        self.groups: dict[str, dict[str, Deployment]] = {}
        self.problems: tuple[str, ...] = ()
        self.read_at: float | None = None
        self.kept_at: float | None = None
        self.seen = False
        self.begun_at = float("-inf")
        self.flight: asyncio.Task[None] | None = None
        self.keeping: asyncio.Task[None] | None = None
        self.wanted = asyncio.Event()
        self._emptied: set[str] = set()  # groups whose list came back empty once, after it was not
        self._listed: set[str] = set()  # groups that the key was once shown
        self._models: dict[str, tuple[str, str]] = {}  # configuration id -> model and version: it never changes
        self._executables: dict[str, str] = {}  # model -> executable, of the catalogue
        self._catalogue_read = False  # in this refresh
        self._unlike: set[str] = set()  # deployments left out, each named once in the log
        self._calls = asyncio.Semaphore(CALLS)
        self._catalogue = asyncio.Lock()

    def rescope(self, api: AiApi, scope: Scope) -> bool:
        """Takes another way in and another scope; whether there is something new to read."""
        groups = self.scope.resource_groups
        self.api, self.scope = api, scope
        if scope.resource_groups == groups:
            return False
        if scope.resource_groups:
            self.groups = {name: group for name, group in self.groups.items() if name in scope.resource_groups}
        return True

    def deployments(self) -> Sequence[Deployment]:
        """Each once, though two resource groups may list it."""
        return list({d.id: d for group in self.groups.values() for d in group.values()}.values())

    def served(self) -> Sequence[Deployment]:
        """Those of the models that are to be served."""
        return [d for d in self.deployments() if self.scope.admits(d)]

    def pins(self) -> Sequence[Pin]:
        """The operator's names for those that run."""
        running = {d.id: d for d in self.deployments()} if self.scope.pinned else {}
        ids = ((name, wanted) for name, several in self.scope.pinned.items() for wanted in several)
        return [Pin(name, running[wanted]) for name, wanted in ids if wanted in running]

    def kept(self) -> snapshot.Kept | None:
        """What is worth keeping, None where nothing was ever read."""
        if self.kept_at is None:
            return None
        return snapshot.Kept(self.alias, self.kept_at, {name: tuple(g.values()) for name, g in self.groups.items()})

    def restore(self, kept: snapshot.Kept | None) -> bool:
        """Takes what was last known, unless something is known already. Whether there was anything."""
        if kept is None or self.groups or self.seen:
            return False
        wanted = self.scope.resource_groups
        for name, deployments in kept.groups.items():
            if not wanted or name in wanted:
                usable = [d for d in deployments if usable_url(d.url, self.api.key.api_url) is not None]
                own = (msgspec.structs.replace(d, subaccount=self.alias, resource_group=name) for d in usable)
                self.groups[name] = {d.id: d for d in own if DEPLOYMENT_ID.fullmatch(d.id)}
        if not (count := len(self.deployments())):
            self.groups.clear()
            return False
        self._listed = set(self.groups)
        self.kept_at = kept.read_at
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(kept.read_at))
        log.info("%s: %d deployments as last known on %s, until SAP AI Core was asked", self.alias, count, when)
        return True

    async def read(self) -> list[str]:
        """Reads all groups. Gives what went wrong; what it concerns keeps its last state."""
        self._catalogue_read = False
        groups, problems = await self._resource_groups()
        outcomes = await asyncio.gather(*(self._read_group(group) for group in groups))
        problems += [problem for problem in outcomes if problem]
        if None in outcomes:
            self.seen, self.kept_at = True, time.time()
        for gone in self.groups.keys() - set(groups):
            del self.groups[gone]
        return problems

    async def _resource_groups(self) -> tuple[list[str], list[str]]:
        key = self.api.key
        if self.scope.resource_groups:
            return list(dict.fromkeys(self.scope.resource_groups)), []
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
        if known and not found and group not in self._emptied and not await self._ended(known.values()):
            self._emptied.add(group)
            return f"{self.alias}: the list of deployments of {group} came back empty; believed when seen again"
        self._emptied.discard(group)
        self.groups[group] = {d.id: d for d in found}
        return None

    async def _ended(self, known: Iterable[Deployment]) -> bool:
        """Whether SAP says of each that it does not run any more, as far as asked: an empty list alone may be a fault
        of the moment, and would take everything away."""
        for deployment in [*known][:CALLS]:
            try:
                async with self._calls:
                    item = await self.api.deployment(deployment.id, deployment.resource_group)
            except AiApiError as error:
                if error.status != 404:
                    return False
            else:
                if item.get("status") in ("RUNNING", None):
                    return False
        return True

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
        """The inference base."""
        api_url = self.api.key.api_url
        if given := word(item.get("deploymentUrl")).rstrip("/"):
            return usable_url(given, api_url)
        return f"{api_url}/v2/inference/deployments/{item['id']}"

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


def place(deployment: Deployment) -> Hashable:
    """Where requests to a deployment go: what is the same in two subaccounts is one."""
    return deployment.id, deployment.url


def once(deployments: Iterable[Deployment]) -> tuple[dict[Hashable, Deployment], list[str]]:
    """Each deployment by its place, and what is to be said where several subaccounts have it: two service keys may be
    of the same one. The first has it: its limits count once, and nobody fails over from it to itself."""
    found: dict[Hashable, Deployment] = {}
    shared: dict[tuple[str, str], int] = {}
    for deployment in deployments:
        first = found.setdefault(place(deployment), deployment)
        if first.subaccount != deployment.subaccount:
            pair = first.subaccount, deployment.subaccount
            shared[pair] = shared.get(pair, 0) + 1
    return found, [
        f"{other}: {count} of its deployments are also those of {first}, and are served once, from there."
        for (first, other), count in shared.items()
    ]


def usable_url(given: str, api_url: str) -> str | None:
    """``given`` if tokens may be sent there: https, or plain where the API is plain too. Another scheme is not HTTP."""
    try:
        parts = urlsplit(given)
    except ValueError:
        return None
    allowed = ("https", urlsplit(api_url).scheme)
    plain = not parts.query and not parts.fragment and parts.username is None and given.isprintable()
    return given if parts.scheme in allowed and parts.hostname and plain and " " not in given else None


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
