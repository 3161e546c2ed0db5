"""What a proxy is built from, as one value of plain values: the parent of several workers hands it to each.

Made from settings that were loaded, and from where SAP's own SDKs find service keys if the file has none.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from aicore_proxy.config.document import shown
from aicore_proxy.config.load import Loaded, LoadError, load
from aicore_proxy.config.settings import SECRETS, Settings, SettingsError, home_of, state_folder
from aicore_proxy.gateway.keys import ClientKey, clashes, client_key
from aicore_proxy.landscape import Naming
from aicore_proxy.sap.credentials import (
    CredentialsError,
    Found,
    ServiceKey,
    find_service_keys,
    other_sources,
    service_key,
)
from aicore_proxy.sap.scope import Scope
from aicore_proxy.server.tls import CertificateError, certificate_of

log = logging.getLogger("aicore_proxy.configuration")

DEFAULT_KEY = "default"
FIXED = (
    *("host", "port", "workers", "tls_certificate", "tls_key", "head_timeout", "head_limit", "idle_timeout"),
    *("stuck_timeout", "pool_idle", "cors_origins", "openapi", "simulator_port", "drain_delay"),
    *("drain_timeout", "snapshot", "log_format"),
)
"""Settings that take effect at the start only."""
LISTED = ("subaccounts", "keys", "api_key")
"""Settings whose changes are told by what becomes of them: they hold secrets."""
HOP = secrets.token_hex(8)
"""Of the process that was started: its workers get it with their configuration."""
T = TypeVar("T", bound=Struct)


class Configuration(Struct, frozen=True):
    """``keys``: the clients'. ``scopes``: by a service key's name, what of its subaccount is served; all where none is
    given. ``state``: the folder for what outlives the process. ``direct``: the upstream is on this machine. ``hop``: by
    which this proxy knows a request that it sent itself. Holds secrets: never logged."""

    settings: Settings
    keys: tuple[ClientKey, ...]
    service_keys: tuple[ServiceKey, ...]
    scopes: Mapping[str, Scope] = msgspec.field(default_factory=dict)
    state: str = ""
    direct: bool = False
    hop: str = HOP

    def __repr__(self) -> str:
        return "Configuration(…)"

    @property
    def naming(self) -> Naming:
        """The operator's say over names."""
        models = self.settings.models
        return Naming(self.settings.aliases, models.include, models.exclude)

    @property
    def snapshot_file(self) -> Path | None:
        """Where the deployments found last are kept."""
        return Path(self.state) / "deployments.json" if self.state and self.settings.snapshot else None


def client_keys(settings: Settings) -> tuple[ClientKey, ...]:
    """The clients' keys, none of them where none is configured. Raises SettingsError."""
    keys = [client_key(key.name, key.key or key.hash, models=key.models, owner=key.owner) for key in settings.keys]
    if settings.api_key:
        own = client_key(DEFAULT_KEY, settings.api_key)
        # One of the keys again, as a client's shell has it in AICORE_PROXY_API_KEY, is that one and no other
        keys = keys if any(key.digest == own.digest for key in keys) else [own, *keys]
    if problems := clashes(keys):
        raise SettingsError(problems)
    return tuple(keys)


def find_credentials(loaded: Loaded, environ: Mapping[str, str], home: Path) -> Found:
    """The service keys of the file's subaccounts, else those that SAP's own SDKs would find; a subaccount that stands
    twice is one. Reads files: not for the event loop. Raises CredentialsError."""
    settings = loaded.settings
    if not settings.subaccounts:
        folder = {"AICORE_PROXY_SERVICE_KEYS": settings.service_keys} if settings.service_keys else {}
        return find_service_keys({**environ, **folder}, home)
    keys: list[ServiceKey] = []
    problems: list[str] = []
    twins: list[str] = []
    scopes = scopes_of(settings)
    group = environ.get("AICORE_RESOURCE_GROUP", "").strip()
    for one, place in zip(settings.subaccounts, loaded.key_places, strict=True):
        if one.service_key is None:
            continue  # of which it was told already
        try:
            key = service_key(one.service_key, one.name, place, group)
        except CredentialsError as error:
            problems += error.problems
            continue
        twin = next((k for k in keys if (k.client_id, k.api_url) == (key.client_id, key.api_url)), None)
        if twin is None:
            keys.append(key)
        elif scopes[one.name] == scopes[twin.name]:
            twins.append(f"{place}: it is the service key of {shown(twin.name)} too: it is used once")
        else:
            words = f"it is the service key of {shown(twin.name)} too, which serves other models: make them one"
            problems.append(f"{place}: {words}")
    if problems:
        raise CredentialsError(problems)
    source = str(loaded.file) if loaded.file is not None else "the settings"
    notes = [f"{source} names subaccounts: {other} is ignored" for other in other_sources(environ, home)]
    return Found(tuple(keys), source, (*twins, *notes))


def load_telling_all(
    environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None, *, file: Path | None = None
) -> Loaded:
    """As ``load``; but where it raises SettingsError, that also tells what is wrong with the service keys and with the
    proxy's own certificate, so that nobody mends a file twice."""
    try:
        return load(environ, overrides, file=file)
    except LoadError as error:
        more = [] if error.so_far is None else _more_problems(error.so_far, environ)
        raise SettingsError([*error.problems, *more]) from None


def certificate_problems(loaded: Loaded) -> list[str]:
    """What is wrong with the proxy's own certificate, with where it is named. Reads files."""
    try:
        certificate_of(loaded.settings)
    except CertificateError as error:
        origin = loaded.origins.get("tls_certificate")
        return [f"{f'{origin}: ' if origin else ''}tls_certificate: {error}"]
    return []


def name_problems(loaded: Loaded) -> list[str]:
    """Whether one of the keys has the name of ``api_key``."""
    settings = loaded.settings
    own = [number for number, key in enumerate(settings.keys) if key.name == DEFAULT_KEY]
    if not own or not settings.api_key:
        return []
    hashed = f"sha256:{client_key(DEFAULT_KEY, settings.api_key).digest.hex()}"
    if any(key.key == settings.api_key or key.hash.lower() == hashed for key in settings.keys):
        return []
    origin = loaded.origins.get("keys")
    return [f"{f'{origin}: ' if origin else ''}keys[{own[0]}].name: '{DEFAULT_KEY}' is what api_key is called."]


def _more_problems(loaded: Loaded, environ: Mapping[str, str]) -> list[str]:
    problems = certificate_problems(loaded) + name_problems(loaded)
    try:
        find_credentials(loaded, environ, home_of(environ))
    except CredentialsError as error:
        problems += error.problems
    return problems


def scopes_of(settings: Settings, keys: Iterable[ServiceKey] = ()) -> dict[str, Scope]:
    """By a service key's name, what of its subaccount is served. ``keys``: those that were found elsewhere too."""
    groups = settings.resource_groups
    scopes = {key.name: Scope(groups) for key in keys if groups}
    for one in settings.subaccounts:
        scopes[one.name] = Scope(one.resource_groups or groups, one.deployments, one.include, one.exclude)
    return scopes


def configuration_of(
    loaded: Loaded,
    service_keys: tuple[ServiceKey, ...],
    environ: Mapping[str, str],
    made: ClientKey | None = None,
    *,
    direct: bool = False,
) -> Configuration:
    """The Configuration of what was loaded and found. ``made``: the key that was made where none is configured. Raises
    SettingsError."""
    settings = loaded.settings
    return Configuration(
        settings=settings,
        keys=client_keys(settings) or ((made,) if made is not None else ()),
        service_keys=service_keys,
        scopes=scopes_of(settings, service_keys),
        state="" if direct else str(state_folder(environ)),
        direct=direct,
    )


def changes(old: Configuration, new: Configuration) -> tuple[list[str], list[str]]:
    """What a reload changes, in words without secrets: what takes effect, and what only a restart changes."""
    told: list[str] = []
    fixed: list[str] = []
    for field in Settings.__struct_fields__:
        before, after = getattr(old.settings, field), getattr(new.settings, field)
        if before == after or field in LISTED:
            continue
        if field in FIXED:
            fixed.append(field)
        else:
            told.append(field if field in SECRETS else _setting(field, before, after))
    keys = {key.name: key for key in old.keys}, {key.name: key for key in new.keys}
    told += _members("key", *keys, lambda was, now: [] if was.digest == now.digest else ["another value"])
    subaccounts = {key.name: key for key in old.service_keys}, {key.name: key for key in new.service_keys}
    told += _members("subaccount", *subaccounts, _credentials)
    none = Scope()
    for name in subaccounts[0].keys() & subaccounts[1].keys():
        differences = _different(old.scopes.get(name, none), new.scopes.get(name, none))
        told += [f"subaccount {name}: {field}" for field in differences]
    return told, fixed


def _setting(name: str, was: object, now: object) -> str:
    """What is different of a setting: values of plain ones, else what of it."""
    match was, now:
        case int() | float() | str(), int() | float() | str():
            return f"{name} {was} -> {now}"
        case dict(), dict():
            return f"{name} ({', '.join(sorted(k for k in was.keys() | now.keys() if was.get(k) != now.get(k)))})"
        case Struct(), Struct():
            return f"{name} ({', '.join(_different(was, now))})"
    return name


def _members(
    what: str, was: Mapping[str, T], now: Mapping[str, T], difference: Callable[[T, T], list[str]]
) -> list[str]:
    told = [f"{what} {name} added" for name in now if name not in was]
    told += [f"{what} {name} removed" for name in was if name not in now]
    for name in now:
        if name in was and was[name] != now[name]:
            fields = difference(was[name], now[name]) or _different(was[name], now[name])
            told += [f"{what} {name}: {field}" for field in fields]
    return told


def _credentials(was: ServiceKey, now: ServiceKey) -> list[str]:
    return ["new credentials" if was.same_subaccount(now) else "another subaccount's credentials"]


def _different(was: Struct, now: Struct) -> list[str]:
    return [field for field in was.__struct_fields__ if getattr(was, field) != getattr(now, field)]
