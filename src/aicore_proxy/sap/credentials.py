"""Service keys from where SAP's own SDKs look, or from a folder with one JSON file per subaccount.

The Python SDK's order (SAP AI Core wire facts, section 1.2): the first source that yields any value supplies all of
them; only the resource group is searched across all sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

FOLDER_VARIABLE = "AICORE_PROXY_SERVICE_KEYS"
RESOURCE_GROUP = "AICORE_RESOURCE_GROUP"
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


class CredentialsError(Exception):
    """What is wrong with the credentials that were found, one problem a line, with file and member, never a value."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Secret(Struct, frozen=True):
    """A text that never shows in logs, tracebacks and representations."""

    value: str = ""

    def __bool__(self) -> bool:
        return bool(self.value)

    def __repr__(self) -> str:
        return "Secret('****')" if self.value else "Secret('')"

    def __str__(self) -> str:
        return "****" if self.value else ""


class ServiceKey(Struct, frozen=True):
    """One subaccount's credentials. ``name``: its alias; ``token_url``: complete, with ``/oauth/token``;
    ``api_url``: base of the AI API without ``/v2``; ``certificate``, ``key``, ``certificate_url``: X.509 (PEM)."""

    name: str
    client_id: str
    client_secret: Secret
    token_url: str
    api_url: str
    identity_zone_id: str = ""
    resource_group: str | None = None
    certificate: str = ""
    key: Secret = Secret()
    certificate_url: str = ""


class Found(Struct, frozen=True):
    """``source``: in words, for the log. ``notes``: one log line each."""

    keys: tuple[ServiceKey, ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()


def find_service_keys(environ: Mapping[str, str], home: Path) -> Found:
    """The credentials of this environment, none of them when there are none. Reads files. Raises CredentialsError."""
    group = environ.get(RESOURCE_GROUP, "").strip()
    if folder := environ.get(FOLDER_VARIABLE, "").strip():
        return from_folder(Path(folder).expanduser(), group, other_sources(environ, home))
    config, config_path = config_file(environ, home)
    binding = vcap_credentials(environ)
    group = group or text(config, RESOURCE_GROUP) or text(config, "resource_group") or text(binding, RESOURCE_GROUP)
    for source, raw in (
        ("AICORE_SERVICE_KEY", decoded(environ.get("AICORE_SERVICE_KEY", ""), "AICORE_SERVICE_KEY")),
        ("the variables AICORE_*", from_settings(environ)),
        (str(config_path), from_config(config)),
        ("VCAP_SERVICES", binding),
    ):
        if raw:
            return Found((service_key(raw, "default", source, group),), source)
    return Found()


def from_folder(folder: Path, group: str, ignored: Iterable[str]) -> Found:
    """Every ``*.json`` of the folder; the alias is the file's name without ``.json``."""
    keys: list[ServiceKey] = []
    problems: list[str] = []
    notes = [f"{FOLDER_VARIABLE} is set: {source} is ignored" for source in ignored]
    for path in sorted(p for p in folder.glob("*.json") if not p.name.startswith(".")):
        try:
            key = service_key(decoded(read(path), str(path)), path.stem, str(path), group)
        except CredentialsError as error:
            problems += error.problems
            continue
        twin = next((k for k in keys if (k.client_id, k.api_url) == (key.client_id, key.api_url)), None)
        if twin is None:
            keys.append(key)
        else:
            notes.append(f"{path} holds the same service key as {twin.name}.json: it is used once")
    if not keys and not problems:
        problems.append(f"{FOLDER_VARIABLE}: no *.json file in {folder}")
    if problems:
        raise CredentialsError(problems)
    return Found(tuple(keys), str(folder), tuple(notes))


def service_key(raw: Mapping[str, Any], name: str, source: str, resource_group: str = "") -> ServiceKey:
    """A ServiceKey of the JSON that SAP BTP gives out, also wrapped in ``{"credentials": …}``. Base URLs may end in
    ``/v2``, token URLs in ``/oauth/token``. Raises CredentialsError; ``source`` is for its words."""
    if isinstance(inner := raw.get("credentials"), dict) and "clientid" not in raw:
        raw = inner
    problems: list[str] = []
    urls = raw.get("serviceurls")
    if isinstance(urls, str):  # mounted bindings hold nested values as JSON texts
        urls = decoded(urls, f"{source}: serviceurls")
    api_url = text(urls, "AI_API_URL") if isinstance(urls, dict) else ""
    key = ServiceKey(
        name=name,
        client_id=text(raw, "clientid"),
        client_secret=Secret(text(raw, "clientsecret")),
        token_url=url_of(text(raw, "url"), "/oauth/token", problems, f"{source}: url"),
        api_url=url_of(api_url or text(raw, "AI_API_URL"), "/v2", problems, f"{source}: serviceurls.AI_API_URL"),
        identity_zone_id=text(raw, "identityzoneid"),
        resource_group=text(raw, "resourceGroup") or resource_group or None,
        certificate=pem(text(raw, "certificate")),
        key=Secret(pem(text(raw, "key"))),
        certificate_url=text(raw, "certurl"),
    )
    if not key.client_id:
        problems.append(f"{source}: clientid is missing")
    if not key.client_secret:
        has = " (X.509 credentials alone are not supported yet)" if key.certificate else ""
        problems.append(f"{source}: clientsecret is missing{has}")
    if problems:
        raise CredentialsError(problems)
    token_url = key.token_url + "/oauth/token"
    return msgspec.structs.replace(key, token_url=token_url)


def url_of(value: str, ending: str, problems: list[str], where: str) -> str:
    """``value`` without ``ending`` and slashes at its end; notes a problem where it is no http(s) URL."""
    base = value.strip().rstrip("/").removesuffix(ending).rstrip("/")
    if not base:
        problems.append(f"{where} is missing")
        return ""
    try:
        parts = urlsplit(base)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.username
    except ValueError:
        fine = False
    if not fine:
        problems.append(f"{where} is not an http(s) URL")
    return base


def from_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """A service key's members from ``AICORE_*`` settings: variables, or the SDK's configuration file."""
    raw = {member: text(settings, f"AICORE_{name}") for name, member in MEMBERS.items()}
    for name, member in FILES.items():
        if (path := text(settings, f"AICORE_{name}")) and not raw.get(member):
            raw[member] = read(Path(path).expanduser())
    return {member: value for member, value in raw.items() if value}


def from_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration file's members: the SDK's names, the same in lower case without prefix, or a service key."""
    if "clientid" in config or "credentials" in config:
        return config
    lower = {f"AICORE_{name}": config[name.lower()] for name in (*MEMBERS, *FILES) if name.lower() in config}
    return from_settings({**lower, **config})


def config_file(environ: Mapping[str, str], home: Path) -> tuple[Mapping[str, Any], Path]:
    """The SDK's configuration file, empty where there is none. One that was asked for by name must exist."""
    profile = environ.get("AICORE_PROFILE", "").strip()
    folder = Path(environ.get("AICORE_HOME", "").strip() or home / ".aicore").expanduser()
    named = profile not in ("", "default")
    path = folder / (f"config_{profile}.json" if named else "config.json")
    if chosen := environ.get("AICORE_CONFIG", "").strip():
        path, named = Path(chosen).expanduser(), True
    if not path.exists() and not named:
        return {}, path
    return decoded(read(path), str(path)), path


def vcap_credentials(environ: Mapping[str, str]) -> Mapping[str, Any]:
    """The first binding labelled ``aicore``, whatever the outer member is called."""
    services = decoded(environ.get("VCAP_SERVICES", ""), "VCAP_SERVICES")
    for bindings in services.values():
        for binding in bindings if isinstance(bindings, list) else ():
            if isinstance(binding, dict) and binding.get("label") == "aicore":
                credentials = binding.get("credentials")
                return credentials if isinstance(credentials, dict) else {}
    return {}


def other_sources(environ: Mapping[str, str], home: Path) -> Iterator[str]:
    """Sources that hold something, for the note that they are ignored. Reads nothing that may be broken."""
    if environ.get("AICORE_SERVICE_KEY"):
        yield "AICORE_SERVICE_KEY"
    if found := sorted(f"AICORE_{name}" for name in (*MEMBERS, *FILES) if environ.get(f"AICORE_{name}")):
        yield ", ".join(found)
    folder = Path(environ.get("AICORE_HOME", "").strip() or home / ".aicore").expanduser()
    if (path := Path(environ.get("AICORE_CONFIG", "").strip() or folder / "config.json").expanduser()).exists():
        yield str(path)
    if '"aicore"' in environ.get("VCAP_SERVICES", ""):
        yield "VCAP_SERVICES"


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise CredentialsError([f"{path} cannot be read: {reason}"]) from None


def decoded(document: str, source: str) -> Mapping[str, Any]:
    if not document.strip():
        return {}
    try:
        value = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        # the reason would quote nothing, but its position helps nobody either
        raise CredentialsError([f"{source} is not valid JSON"]) from None
    if not isinstance(value, dict):
        raise CredentialsError([f"{source} is not a JSON object"])
    return value


def text(raw: Mapping[str, Any], member: str) -> str:
    value = raw.get(member)
    return value.strip() if isinstance(value, str) else ""


def pem(value: str) -> str:
    return value.replace("\\n", "\n")
