"""Service keys from where SAP's own SDKs look, or from a folder with one JSON file per subaccount.

The Python SDK's order (SAP AI Core wire facts, section 1.2): ``AICORE_SERVICE_KEY``, variables ``AICORE_*``, the
configuration file, ``VCAP_SERVICES``; then, as its other SDKs do, mounted bindings. The first source that yields any
value supplies all of them; only the resource group is searched across all sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from aicore_proxy.sap.bindings import Binding, cloud_foundry, mounted, mounts
from aicore_proxy.sap.service_key import (
    CredentialsError,
    Secret,
    ServiceKey,
    alias_of,
    decoded,
    path_of,
    read,
    service_key,
    text,
)

__all__ = ["CredentialsError", "Found", "Secret", "ServiceKey", "find_service_keys", "service_key"]

FOLDER_VARIABLE = "AICORE_PROXY_SERVICE_KEYS"
RESOURCE_GROUP = "AICORE_RESOURCE_GROUP"
VCAP = "VCAP_SERVICES"
VCAP_FILE = "VCAP_SERVICES_FILE_PATH"  # Cloud Foundry, where the bindings of an app do not fit into a variable
# Settings of the SDK, without the prefix AICORE_, -> the service key's member
MEMBERS = {
    "CLIENT_ID": "clientid",
    "CLIENT_SECRET": "clientsecret",
    "AUTH_URL": "url",
    "BASE_URL": "AI_API_URL",
    "CERT_URL": "certurl",
    "CERT_STR": "certificate",
    "KEY_STR": "key",
}
FILES = {"CERT_FILE_PATH": "certificate", "KEY_FILE_PATH": "key"}
MOUNTS = (Path("/etc/secrets/sapbtp"), Path("/etc/secrets/sapcp"), Path("/etc/secrets/appfnd"))


class Found(Struct, frozen=True):
    """``source``: in words, for the log. ``notes``: one log line each. ``files``: what was read, and folders whose
    listing counts: a change of any (also of what a link leads to) calls for another look."""

    keys: tuple[ServiceKey, ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def find_service_keys(environ: Mapping[str, str], home: Path, defaults: tuple[Path, ...] = MOUNTS) -> Found:
    """The credentials of this environment, none of them when there are none. ``defaults``: where bindings are mounted
    if nothing else is said. Reads files: not for the event loop. Raises CredentialsError."""
    group = environ.get(RESOURCE_GROUP, "").strip()
    if folder := environ.get(FOLDER_VARIABLE, "").strip():
        return from_folder(path_of(folder), group, other_sources(environ, home))
    notes: list[str] = []
    config, config_path = config_file(environ, home, notes)
    files = (config_path,) if config else ()
    bindings = vcap_bindings(environ)
    group = group or text(config, RESOURCE_GROUP) or text(config, "resource_group")
    group = group or next((g for b in bindings if (g := text(b.credentials, RESOURCE_GROUP))), "")
    direct: tuple[tuple[str, Callable[[], Mapping[str, Any]]], ...] = (
        ("AICORE_SERVICE_KEY", lambda: decoded(environ.get("AICORE_SERVICE_KEY", ""), "AICORE_SERVICE_KEY")),
        ("the variables AICORE_*", lambda: from_settings(environ)),
        (str(config_path), lambda: from_config(config)),
    )
    for source, look in direct:
        if raw := look():
            watched = (*files, *certificate_files(environ if source.startswith("the ") else config))
            try:
                key = service_key(raw, "default", source, group)
            except CredentialsError as error:
                settings = source != "AICORE_SERVICE_KEY" and raw is not config
                raise (as_settings(error) if settings else error) from None
            return Found((key,), source, tuple(notes), watched)
    if bindings:
        return from_bindings(bindings, VCAP if environ.get(VCAP, "").strip() else VCAP_FILE, group, notes)
    roots = mounts(environ, defaults)
    if found := [binding for root in roots for binding in mounted(root)]:
        return from_bindings(found, ", ".join(str(root) for root in roots if root.is_dir()), group, notes, roots)
    if environ.get("SERVICE_BINDING_ROOT"):
        notes.append(f"SERVICE_BINDING_ROOT: no binding of type aicore in {roots[0]}")
    return Found(notes=tuple(notes))


def from_folder(folder: Path, group: str, ignored: Iterable[str]) -> Found:
    """Every ``*.json`` of the folder; the alias is the file's name without ``.json``."""
    problems: list[str] = []
    notes = [f"{FOLDER_VARIABLE} is set: {source} is ignored" for source in ignored]
    bindings: list[Binding] = []
    for path in sorted(p for p in folder.glob("*.json") if not p.name.startswith(".")):
        try:
            bindings.append(Binding(alias_of(path.stem), decoded(read(path), str(path)), str(path), (path,)))
        except CredentialsError as error:
            problems += error.problems
    if not bindings and not problems:
        problems.append(f"{FOLDER_VARIABLE}: no *.json file in {folder}")
    return from_bindings(bindings, str(folder), group, notes, (folder,), problems)


def from_bindings(
    bindings: Iterable[Binding],
    source: str,
    group: str,
    notes: Iterable[str] = (),
    roots: Iterable[Path] = (),
    problems: Iterable[str] = (),
) -> Found:
    """A subaccount per binding; the same key twice is used once. Raises CredentialsError with all problems."""
    keys: list[ServiceKey] = []
    wrong, said = list(problems), list(notes)
    files = [*roots]
    for binding in bindings:
        files += binding.files
        try:
            key = service_key(binding.credentials, alias_of(binding.alias), binding.source, group)
        except CredentialsError as error:
            wrong += error.problems
            continue
        twin = next((k for k in keys if (k.client_id, k.api_url) == (key.client_id, key.api_url)), None)
        if twin is not None:
            said.append(f"{binding.source} holds the same service key as {twin.name}: it is used once")
            continue
        keys.append(msgspec.structs.replace(key, name=unused(key.name, [k.name for k in keys])))
    if wrong:
        raise CredentialsError(wrong)
    return Found(tuple(keys), source, tuple(said), tuple(dict.fromkeys(files)))


def unused(name: str, taken: Iterable[str]) -> str:
    names = set(taken)
    return next(n for n in (name, *(f"{name}-{number}" for number in range(2, len(names) + 3))) if n not in names)


def from_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """A service key's members from ``AICORE_*`` settings: variables, or the SDK's configuration file."""
    raw = {member: text(settings, f"AICORE_{name}") for name, member in MEMBERS.items()}
    for name, member in FILES.items():
        if path := text(settings, f"AICORE_{name}"):
            if raw.get(member):  # an error of the SDK too: one of them is surely out of date
                inline = f"AICORE_{name.removesuffix('_FILE_PATH')}_STR"
                raise CredentialsError([f"both {inline} and AICORE_{name} are given: leave one of them out"])
            raw[member] = read(path_of(path))
    return {member: value for member, value in raw.items() if value}


def as_settings(error: CredentialsError) -> CredentialsError:
    """The same problems in the names of settings, where they were given as such and not as a service key."""
    names = {member: f"AICORE_{name}" for name, member in MEMBERS.items()} | {
        "serviceurls.AI_API_URL": "AICORE_BASE_URL"
    }
    problems = []
    for source, _, problem in (each.partition(": ") for each in error.problems):
        member, space, words = problem.partition(" ")
        words = words.replace("certificate and key)", "AICORE_CERT_STR and AICORE_KEY_STR)")
        problems.append(f"{source}: {names.get(member, member)}{space}{words}")
    return CredentialsError(problems)


def certificate_files(settings: Mapping[str, Any]) -> list[Path]:
    """The files that settings name for certificate and key, in the SDK's names or in lower case without prefix."""
    named = (text(settings, f"AICORE_{name}") or text(settings, name.lower()) for name in FILES)
    return [path_of(path) for path in named if path]


def from_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration file's members: the SDK's names, the same in lower case without prefix, or a service key."""
    if "clientid" in config or "credentials" in config:
        return config
    lower = {f"AICORE_{name}": config[name.lower()] for name in (*MEMBERS, *FILES) if name.lower() in config}
    return from_settings({**lower, **config})


def config_file(environ: Mapping[str, str], home: Path, notes: list[str]) -> tuple[Mapping[str, Any], Path]:
    """The SDK's configuration file, empty where there is none. One that was asked for by name must exist; another
    that may not be read is passed over with a note, as the SDK does."""
    profile = environ.get("AICORE_PROFILE", "").strip()
    folder = path_of(environ.get("AICORE_HOME", "").strip() or str(home / ".aicore"))
    named = profile not in ("", "default")
    path = folder / (f"config_{profile}.json" if named else "config.json")
    if chosen := environ.get("AICORE_CONFIG", "").strip():
        path, named = path_of(chosen), True
    if not named:
        try:
            path.stat()
            path.open("rb").close()
        except PermissionError:
            notes.append(f"{path} may not be read: it is passed over")
            return {}, path
        except OSError:
            return {}, path
    return decoded(read(path), str(path)), path


def vcap_bindings(environ: Mapping[str, str]) -> list[Binding]:
    """Cloud Foundry's, from the variable, or from the file that stands in for it."""
    if document := environ.get(VCAP, "").strip():
        return cloud_foundry(document, VCAP)
    if file := environ.get(VCAP_FILE, "").strip():
        return cloud_foundry(read(Path(file)), file, Path(file))
    return []


def other_sources(environ: Mapping[str, str], home: Path) -> Iterator[str]:
    """Sources that hold something, for the note that they are ignored. Reads nothing that may be broken."""
    if environ.get("AICORE_SERVICE_KEY"):
        yield "AICORE_SERVICE_KEY"
    if found := sorted(f"AICORE_{name}" for name in (*MEMBERS, *FILES) if environ.get(f"AICORE_{name}")):
        yield ", ".join(found)
    folder = path_of(environ.get("AICORE_HOME", "").strip() or str(home / ".aicore"))
    if (path := path_of(environ.get("AICORE_CONFIG", "").strip() or str(folder / "config.json"))).exists():
        yield str(path)
    if '"aicore"' in environ.get(VCAP, ""):
        yield VCAP
    elif environ.get(VCAP_FILE, "").strip():
        yield VCAP_FILE
    if environ.get("SERVICE_BINDING_ROOT"):
        yield "SERVICE_BINDING_ROOT"
