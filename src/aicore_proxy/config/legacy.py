"""The ``config.json`` of the older proxies (pjq/sap-ai-core-llm-proxy, wl21st/sap-ai-core-llm-proxy), read as it is.

Their users change nothing: the same names lead to the same deployments, the same tokens let in, at the same address.
Field names: their ``config.json.example`` and configuration parsers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from aicore_proxy.config.document import read_text, shown
from aicore_proxy.config.settings import SettingsError
from aicore_proxy.config.yaml_values import Place

MARKS = ("subAccounts", "service_key_json", "deployment_models", "secret_authentication_tokens")
OF_SUBACCOUNT = ("resource_group", "service_key_json", "deployment_models", "deployment_ids")
KNOWN = frozenset({*MARKS, *OF_SUBACCOUNT, "model_filters", "host", "port"})
STRONG = 8
"""Characters of a token that is a good key here too."""


THEIRS = {
    "service_key_file": "service_key_json",
    "resource_groups": "resource_group",
    "deployments": "deployment_models",
    "keys": "secret_authentication_tokens",
    "models": "model_filters",
}


class Read(Struct, frozen=True):
    """``settings``: ours, not checked yet. ``notes``: what is to be said of them, a line each. ``names``: theirs of the
    subaccounts, in order; none where the file itself is the only one."""

    settings: dict[str, Any]
    notes: list[str]
    names: tuple[str, ...] = ()

    def place(self, ours: Place) -> Place:
        """Where in their file what stands at a place of ours comes from."""
        match ours:
            case ("subaccounts", int(number), *rest):
                inside = tuple(THEIRS.get(str(step), step) for step in rest[:1]) + tuple(rest[1:])
                inside = inside[:1] if inside[:1] == ("resource_group",) else inside
                return ("subAccounts", self.names[number], *inside) if number < len(self.names) else inside
            case ("keys", int(number), *_):
                return ("secret_authentication_tokens", number)
            case ("subaccounts",) if self.names:
                return ("subAccounts",)
            case (str(name), *rest):
                return (THEIRS.get(name, name), *rest)
        return ours


def is_legacy(value: Mapping[str, Any]) -> bool:
    """Whether a file's content is of that shape."""
    return any(mark in value for mark in MARKS)


def looks_like_it(path: Path) -> bool:
    """Whether a file of that shape is there, or a broken one, of which its user should hear."""
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where it may not look
        return False
    try:
        text = read_text(path)
        value = json.loads(text)
    except SettingsError:
        return False
    except (ValueError, RecursionError):
        return any(mark in text for mark in MARKS)
    return isinstance(value, dict) and is_legacy(value)


def converted(value: Mapping[str, Any], folder: Path, cwd: Path) -> Read:
    """The same as our settings. ``folder``: the file's; ``cwd``: where they look for service keys."""
    notes = ["read as the configuration of an older proxy (`aicore-proxy config import` makes our own of it)"]
    settings: dict[str, Any] = {name: value[name] for name in ("host", "port") if value.get(name) is not None}
    if isinstance(port := settings.get("port"), str) and re.fullmatch("[0-9]{1,9}", port):
        settings["port"] = int(port)
    subaccounts = value.get("subAccounts")
    if subaccounts is None:
        only = {name: value[name] for name in OF_SUBACCOUNT if name in value}
        subaccounts = {"default": only} if only.keys() - {"resource_group"} else {}
    names: tuple[str, ...] = ()
    if isinstance(subaccounts, Mapping):
        made = {str(name): _subaccount(str(name), one, notes, (folder, cwd)) for name, one in subaccounts.items()}
        merged = _merged(made, notes)
        names = tuple(merged) if "subAccounts" in value else ()
        settings["subaccounts"] = list(merged.values())
    else:
        settings["subaccounts"] = subaccounts
    settings["keys"] = _keys(value.get("secret_authentication_tokens"), notes)
    if isinstance(filters := value.get("model_filters"), Mapping):
        settings["models"] = _filters(filters, notes)
    notes += [f"'{shown(name)}' has no meaning here{_instead(name)}" for name in value if name not in KNOWN]
    return Read(settings, notes, names)


def _keys(tokens: Any, notes: list[str]) -> Any:
    """The tokens as keys. Those that would be refused as ours, short ones, go in by their hash."""
    if not tokens:
        notes.append("secret_authentication_tokens is empty: this proxy lets nobody in without a key, so it makes one")
        return []
    if not isinstance(tokens, list):
        return tokens
    keys: list[Any] = []
    for number, token in enumerate(dict.fromkeys(token.strip() for token in tokens if isinstance(token, str)), 1):
        if not token:
            continue
        keys.append(key_entry(f"token-{number}", token))
        if len(token) < STRONG:
            notes.append(f"secret_authentication_tokens[{number - 1}] is so short that it can be guessed")
    others = [token for token in tokens if not isinstance(token, str)]
    return keys + [{"name": f"token-{len(tokens) + number}", "key": [other]} for number, other in enumerate(others, 1)]


def key_entry(name: str, token: str) -> dict[str, str]:
    """Another proxy's token as one of ``keys``. What would be refused as a key of ours goes in by its hash."""
    if len(token) >= STRONG and re.fullmatch("[!-~]+", token) and not token.lower().startswith("sha256:"):
        return {"name": name, "key": token}
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
    return {"name": name, "hash": f"sha256:{digest}"}


def _subaccount(name: str, one: Any, notes: list[str], folders: tuple[Path, Path]) -> Any:
    if not isinstance(one, Mapping):
        return one
    own = re.sub(r"[^A-Za-z0-9._@ -]+", "-", name).strip(" .-_@")[:64] or "default"
    if own != name:
        notes.append(f"the subaccount '{shown(name)}' is called '{own}' here")
    pinned: dict[str, list[str]] = {}
    for member in ("deployment_models", "deployment_ids"):
        entries = one.get(member) or {}
        if not isinstance(entries, Mapping):
            return {"name": own, "deployments": entries}
        for model, places in entries.items():
            several = places if isinstance(places, list) else [places]
            pinned.setdefault(str(model).strip(), []).extend(_id(str(place)) for place in several)
    unknown = [member for member in one if member not in OF_SUBACCOUNT]
    notes += [f"'{shown(member)}' of the subaccount {own} has no meaning here" for member in unknown]
    settings: dict[str, Any] = {"name": own}
    if key := one.get("service_key_json"):
        settings["service_key_file"] = _path(key, *folders) if isinstance(key, str) else key
    settings["resource_groups"] = [one.get("resource_group") or "default"]
    settings["deployments"] = {model: list(dict.fromkeys(ids)) for model, ids in pinned.items() if ids}
    return settings


def _merged(made: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """A subaccount has one resource group there, so several of the same service key are how to have several groups:
    here they are one."""
    merged: dict[str, Any] = {}
    first: dict[str, Any] = {}
    for name, one in made.items():
        key = one.get("service_key_file") if isinstance(one, dict) else None
        twin = first.setdefault(key, one) if isinstance(key, str) else one
        if twin is one or not (_plain(one) and _plain(twin)):
            merged[name] = one
            continue
        twin["resource_groups"] = list(dict.fromkeys([*twin["resource_groups"], *one["resource_groups"]]))
        for model, ids in one["deployments"].items():
            twin["deployments"][model] = list(dict.fromkeys([*twin["deployments"].get(model, []), *ids]))
        notes.append(
            f"the subaccount '{shown(name)}' has the service key of '{twin['name']}', and is part of that here"
        )
    return merged


def _plain(one: Mapping[str, Any]) -> bool:
    """Whether it is of the shape that can be put together; what is wrong with another is told as it stands."""
    return all(isinstance(group, str) for group in one.get("resource_groups", (None,)))


def _id(place: str) -> str:
    """A deployment's id: a step of its URL, or as it is."""
    match = re.search(r"/deployments/([^/?#]+)", place)
    return (match[1] if match else place.strip().rstrip("/").rpartition("/")[2]).strip()


def _path(name: str, folder: Path, cwd: Path) -> str:
    """They look in the working directory, which mostly is the file's folder."""
    here = os.path.isfile(folder / name), os.path.isfile(cwd / name)  # noqa: PTH113 - it raises nothing
    return str(cwd / name) if here == (False, True) else name


def _filters(filters: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Regular expressions that must meet the beginning of a name. Their example has them as ``include_filters``, their
    parser as ``include``."""
    found: dict[str, Any] = {}
    for kind in ("include", "exclude"):
        patterns = filters.get(kind, filters.get(f"{kind}_filters"))
        if patterns:
            found[kind] = [f"re:{pattern}" for pattern in patterns] if isinstance(patterns, list) else patterns
    known = {"include", "exclude", "include_filters", "exclude_filters"}
    notes += [f"'{shown(name)}' of model_filters has no meaning here" for name in filters if name not in known]
    return found


def _instead(name: str) -> str:
    return ": name certificate authorities of your own with SSL_CERT_FILE" if "cert" in name else ""
