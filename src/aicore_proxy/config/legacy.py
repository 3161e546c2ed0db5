"""The ``config.json`` of the older proxies (pjq/sap-ai-core-llm-proxy, wl21st/sap-ai-core-llm-proxy), read as it is.

Their users change nothing: the same names lead to the same deployments, the same tokens let in, at the same address.
Field names: their ``config.json.example`` and configuration parsers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aicore_proxy.config.settings import SettingsError

MARKS = frozenset({"subAccounts", "service_key_json", "deployment_models", "secret_authentication_tokens"})
KNOWN = MARKS | {"resource_group", "deployment_ids", "model_filters", "host", "port"}
OF_SUBACCOUNT = frozenset({"resource_group", "service_key_json", "deployment_models", "deployment_ids"})


def is_legacy(value: Mapping[str, Any]) -> bool:
    """Whether a file's content is of that shape."""
    return bool(MARKS & value.keys())


def looks_like_it(path: Path) -> bool:
    """Whether the file is JSON of that shape; never raises."""
    from aicore_proxy.config.document import read_document  # noqa: PLC0415

    try:
        return is_legacy(read_document(path).value)
    except SettingsError as error:
        # It is broken: if it speaks of what they have, the user should hear of it
        return any(mark in path.read_text(errors="replace") for mark in MARKS) if "larger" not in str(error) else False


def converted(value: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The same as our settings, not checked yet; and what is to be said of it, a line each."""
    notes = ["read as the configuration of an older proxy; 'aicore-proxy config import' makes our own of it"]
    settings: dict[str, Any] = {}
    for name in ("host", "port"):
        if value.get(name) is not None:
            settings[name] = value[name]
    subaccounts = value.get("subAccounts")
    if subaccounts is None:
        subaccounts = {"default": {name: value[name] for name in OF_SUBACCOUNT if name in value}}
    if isinstance(subaccounts, Mapping):
        settings["subaccounts"] = [_subaccount(name, one, notes, folder) for name, one in subaccounts.items()]
    else:
        settings["subaccounts"] = subaccounts
    tokens = value.get("secret_authentication_tokens")
    if isinstance(tokens, list):
        given = [token for token in dict.fromkeys(map(str, tokens)) if token.strip()]
        settings["keys"] = [{"name": f"token-{number}", "key": token} for number, token in enumerate(given, 1)]
    elif tokens is not None:
        settings["keys"] = tokens
    if not tokens:
        notes.append("secret_authentication_tokens is empty: the older proxy let everybody in, this one makes a key")
    if isinstance(filters := value.get("model_filters"), Mapping):
        settings["models"] = _filters(filters)
    notes += [f"'{name}' means nothing here and is left out{_instead(name)}" for name in sorted(value.keys() - KNOWN)]
    return settings, notes


def _subaccount(name: str, one: Any, notes: list[str], folder: Path) -> Any:
    if not isinstance(one, Mapping):
        return one
    pinned: dict[str, list[str]] = {}
    for member in ("deployment_models", "deployment_ids"):
        entries = one.get(member) or {}
        if not isinstance(entries, Mapping):
            return {"name": name, "deployments": entries}
        for model, places in entries.items():
            several = places if isinstance(places, list) else [places]
            pinned.setdefault(str(model).strip(), []).extend(_id(str(place)) for place in several)
    unknown = sorted(one.keys() - OF_SUBACCOUNT)
    notes += [f"'{member}' of the subaccount {name} means nothing here and is left out" for member in unknown]
    settings: dict[str, Any] = {
        "name": str(name),
        "service_key_file": _path(str(one.get("service_key_json") or ""), folder),
    }
    if group := one.get("resource_group"):
        settings["resource_groups"] = [group]
    settings["deployments"] = {model: list(dict.fromkeys(ids)) for model, ids in pinned.items() if ids}
    return settings


def _id(place: str) -> str:
    """A deployment's id: the last step of its URL, or as it is."""
    match = re.search(r"/deployments/([^/?#]+)", place)
    return (match[1] if match else place.rstrip("/").rpartition("/")[2]).strip()


def _path(name: str, folder: Path) -> str:
    """They look in the working directory, which mostly is the file's folder."""
    return str(Path.cwd() / name) if name and not (folder / name).exists() and Path(name).exists() else name


def _filters(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Regular expressions that must meet the beginning of a name."""
    found: dict[str, Any] = {}
    for kind in ("include", "exclude"):
        patterns = filters.get(kind, filters.get(f"{kind}_filters"))
        if patterns is not None:
            found[kind] = [f"re:{pattern}" for pattern in patterns] if isinstance(patterns, list) else patterns
    return found


def _instead(name: str) -> str:
    if "cert" in name or "ca_" in name:
        return ": name certificate authorities of your own with SSL_CERT_FILE"
    return ""
