"""The whole examination: this machine, then every subaccount at once, then the names over all of them."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from aicore_proxy.cli.accounts import Account, accounts
from aicore_proxy.cli.doctor import advice, machine
from aicore_proxy.cli.doctor.account import Looking, examine
from aicore_proxy.cli.doctor.finding import Finding, Section
from aicore_proxy.config.load import Loaded, LoadError, load
from aicore_proxy.config.settings import Settings, SettingsError, home_of, state_folder
from aicore_proxy.landscape import Deployment, Naming, admitted, catalog_of
from aicore_proxy.sap.credentials import CredentialsError, Found, ServiceKey, service_key
from aicore_proxy.sap.scope import Pin, Scope, chosen
from aicore_proxy.sap.token import client_tls
from aicore_proxy.server.configuration import find_credentials, scopes_of
from aicore_proxy.upstream import Proxies

CALLS = 16
"""Model calls at a time."""


class Wanted(Struct, frozen=True):
    """What is asked of the doctor. ``file``: the configuration file; ``simulated``: service keys of the simulator
    instead of one's own; ``seconds``: for one step; ``deadline``: for all, seconds; ``calls``: whether models are
    called; ``models``: patterns of those that are."""

    file: Path | None = None
    simulated: Mapping[str, Mapping[str, object]] | None = None
    seconds: float = 20.0
    deadline: float = 120.0
    calls: bool = True
    models: tuple[str, ...] = ()


class Prepared(Struct, frozen=True):
    """What the looks at the subaccounts need, found out while nothing runs yet."""

    settings: Settings
    keys: tuple[ServiceKey, ...]
    scopes: Mapping[str, Scope]
    source: str
    proxies: Proxies
    tls: ssl.SSLContext
    client_tls: Mapping[str, ssl.SSLContext]


def at_home(section: Section, wanted: Wanted) -> Prepared | None:
    """Looks at this machine. Blocks. None where nothing beyond it can be looked at."""
    loaded, good = _load(section, wanted)
    settings = loaded.settings
    found = _credentials(section, loaded, wanted)
    if good and wanted.simulated is None:
        state = state_folder(os.environ)
        machine.look_at_keys(section, settings, state)
        machine.look_at_state(section, state, needed=not settings.keys and not settings.api_key)
        machine.look_at_port(section, settings)
        machine.look_at_certificate(section, settings)
    machine.look_at_descriptors(section)
    tls = machine.look_at_ca_variables(section, os.environ)
    proxies = machine.look_at_proxies(section, os.environ)
    if found is None or not found.keys or tls is None or proxies is None:
        return None
    shown, keys = {}, []
    for key in found.keys:
        try:
            if (context := client_tls(key, os.environ)) is not None:
                shown[key.name] = context
            keys.append(key)
        except ValueError as error:
            section.fail("service_keys", "Service keys", str(error), (advice.NEW_KEY,))
    direct = Proxies() if wanted.simulated is not None else proxies
    scopes = scopes_of(settings, tuple(keys))
    return Prepared(settings, tuple(keys), scopes, found.source, direct, tls, shown)


def _load(section: Section, wanted: Wanted) -> tuple[Loaded, bool]:
    """The settings, and whether they are good: of a file with mistakes what is left without them."""
    try:
        loaded = load(os.environ, {}, file=wanted.file)
    except SettingsError as error:
        for problem in error.problems:
            steps = ("aicore-proxy config check tells all about the file; docs/configuration.md has every setting.",)
            section.fail("settings", "Settings", problem.rstrip("."), steps)
        return (error.so_far if isinstance(error, LoadError) else None) or Loaded(Settings()), False
    where = str(loaded.file) if loaded.file is not None else "defaults and variables, no configuration file"
    section.ok("settings", "Settings", where, file=str(loaded.file) if loaded.file is not None else None)
    for note in loaded.notes:
        section.warn("settings", "Settings", note.rstrip("."))
    return loaded, True


def _credentials(section: Section, loaded: Loaded, wanted: Wanted) -> Found | None:
    if wanted.simulated is not None:
        keys = tuple(service_key(key, name, "the simulator") for name, key in wanted.simulated.items())
        section.ok("service_keys", "Service keys", "of the embedded simulator: nothing of your account is looked at")
        return Found(keys, "the simulator")
    try:
        found = find_credentials(loaded, os.environ, home_of(os.environ))
    except CredentialsError as error:
        for problem in error.problems:
            section.fail("service_keys", "Service keys", problem.rstrip("."), advice.unusable_key(problem))
        return None
    if not found.keys and loaded.settings.subaccounts:
        return None  # what is wrong with all of them was told with the settings
    if not found.keys:
        section.fail("service_keys", "Service keys", "none found", advice.no_key())
    else:
        names = [key.name for key in found.keys]
        words = f"{', '.join(names)}, from {found.source}"
        section.ok("service_keys", "Service keys", words, names=names, source=found.source)
    for note in found.notes:
        section.note("service_keys", "Service keys", note)
    return found


async def abroad(
    prepared: Prepared,
    wanted: Wanted,
    finished: Callable[[Section], None],
    told: Callable[[Finding], None] = lambda _: None,
) -> tuple[list[Section], bool]:
    """Looks at all subaccounts; ``finished`` hears each section. Gives them in the order of their keys, and whether
    all was looked at within the deadline."""
    sections = {key.name: Section("subaccount", key.name, told) for key in prepared.keys}
    served: list[Deployment] = []
    done: set[str] = set()
    calls = asyncio.Semaphore(CALLS) if wanted.calls else None
    looking = Looking(os.environ, prepared.proxies, prepared.source, wanted.seconds, calls, wanted.models)

    async def one(account: Account) -> None:
        served.extend(await examine(sections[account.key.name], account, looking))
        done.add(account.key.name)
        finished(sections[account.key.name])

    async with accounts(
        prepared.keys,
        prepared.scopes,
        tls=prepared.tls,
        proxies=prepared.proxies,
        client_tls=prepared.client_tls,
        seconds=wanted.seconds,
    ) as found:
        try:
            async with asyncio.timeout(wanted.deadline), asyncio.TaskGroup() as group:
                for account in found:
                    group.create_task(one(account))
        except TimeoutError:
            for name in sections.keys() - done:
                step = "Look at what is slow above; --deadline gives more time, --no-calls and --model leave calls out."
                words = f"not all was looked at within {wanted.deadline:g} s"
                sections[name].fail("deadline", "Deadline", words, (step,))
                finished(sections[name])
    names = Section("names", "")
    if len(done) == len(sections):
        tell_names(names, prepared.settings, served)
        for pattern in wanted.models:
            if not any(admitted((deployment.model,), (pattern,), ()) for deployment in served):
                step = "aicore-proxy models lists what runs, with all its names."
                names.fail("model_call", pattern, "no model that runs meets this: nothing was called", (step,))
    if names.findings:
        finished(names)
    return [*sections.values(), *([names] if names.findings else [])], len(done) == len(sections)


def tell_names(section: Section, settings: Settings, served: Sequence[Deployment]) -> None:
    """Aliases and patterns of the configuration that lead to nothing over all subaccounts."""
    naming = Naming(settings.aliases, settings.models.include, settings.models.exclude)
    pins = [
        Pin(name, deployment)
        for one in settings.subaccounts
        for name, ids in one.deployments.items()
        for deployment in served
        if deployment.subaccount == one.name and deployment.id in ids
    ]
    catalog = catalog_of(served, naming=naming, pinned=chosen(pins)[0])
    lists = "aicore-proxy models lists what runs."
    for alias, target in catalog.unserved_aliases().items():
        near = catalog.near(target)
        step = f"Did you mean {', '.join(near)}?" if near else lists
        words = f"{alias} stands for {target}, which nobody serves: requests for it get a 404"
        section.warn("alias", "Aliases", words, (step,), alias=alias, model=target)
    if served_aliases := len(settings.aliases) - len(catalog.unserved_aliases()):
        section.ok("alias", "Aliases", f"{served_aliases} lead to models that run")
    for kind, patterns in (("include", naming.include), ("exclude", naming.exclude)):
        for pattern in patterns:
            if not any(admitted((deployment.model,), (pattern,), ()) for deployment in served):
                section.warn("patterns", "Patterns", f"models.{kind}: '{pattern}' meets no model that runs", (lists,))
    # A key may be for an alias or a pinned name, without the model behind it
    named = {*catalog.by_name, *catalog.pinned, *settings.aliases}
    for key in settings.keys:
        for pattern in key.models:
            if not admitted(named, (pattern,), ()):
                words = f"the key {key.name} may use '{pattern}', which meets no model that runs"
                section.warn("key_models", "Client keys", words, (lists,), key=key.name, pattern=pattern)
