"""aicore-router's YAML as our settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aicore_proxy.config.document import shown
from aicore_proxy.config.legacy import STRONG, key_entry
from aicore_proxy.config.render import escaped
from aicore_proxy.landscape import aliases_of, spellings

DEFAULT_BIND = "127.0.0.1:8900"
LEVELS = {"trace": "debug", "debug": "debug", "info": "info", "warn": "warning", "error": "error"}
TAKEN = frozenset(
    ("log_level", "bind", "api_keys", "providers", "models", "refresh_interval_secs", "load_balancing", "quotas")
)
INSTEAD = {
    "fallback_models": "an unknown model is a 404 here that names the nearest; say with aliases what it should be",
    "log_requests": "this proxy logs every request as a line of JSON, and counts in /metrics",
    "openai_api_version": "this proxy chooses the version that a deployment takes",
}


def of_aicore_router(value: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Our settings, and what is to be said of them."""
    remarks: list[str] = []
    settings: dict[str, Any] = {}
    host, _, port = str(value.get("bind") or DEFAULT_BIND).rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or (":" in host and not host.endswith("]")):
        host, port = str(value.get("bind")), "8900"
    settings |= {"host": host.strip("[]"), "port": int(port)}
    if (level := LEVELS.get(str(value.get("log_level")))) is not None:
        settings["log_level"] = level
    if isinstance(interval := value.get("refresh_interval_secs"), int | float | str):
        settings["discovery_interval"] = interval
    settings["subaccounts"] = _subaccounts(value, settings, remarks)
    settings["keys"] = _keys(value, remarks)
    _models(value.get("models"), settings, remarks)
    left = [name for name in value if name not in TAKEN]
    remarks += [f"{shown(name)} is left out{f': {INSTEAD[name]}' if name in INSTEAD else ''}." for name in left]
    return {name: given for name, given in settings.items() if given != []}, remarks


def _subaccounts(value: Mapping[str, Any], settings: dict[str, Any], remarks: list[str]) -> list[dict[str, Any]]:
    subaccounts: list[dict[str, Any]] = []
    weights: dict[str, Any] = {}
    for number, one in enumerate(value["providers"]):
        if not isinstance(one, Mapping):
            remarks.append(f"providers[{number}] is left out: it has no fields.")
            continue
        name = str(one.get("name") or f"provider-{number + 1}")
        if str(one.get("enabled", True)).lower() == "false":
            remarks.append(f"providers[{number}] ({shown(name)}) is left out: it is not enabled.")
            continue
        key = {
            "clientid": one.get("uaa_client_id"),
            "clientsecret": one.get("uaa_client_secret"),
            "url": re.sub(r"/oauth/token/?$", "", str(one.get("uaa_token_url") or "")).rstrip("/"),
            "serviceurls": {"AI_API_URL": one.get("genai_api_url")},
        }
        groups = [str(one.get("resource_group") or "default")]
        subaccounts.append(escaped({"name": name, "service_key": key, "resource_groups": groups}))
        if str(one.get("weight", 1)) != "1":
            weights[name] = one["weight"]
    if str(value.get("load_balancing")) == "fallback":
        if len(subaccounts) > 1:
            settings["routing"] = {"tiers": {one["name"]: number for number, one in enumerate(subaccounts)}}
    elif weights:
        settings |= {"strategy": "weighted", "routing": {"weights": weights}}
    elif len(subaccounts) > 1:
        remarks.append(
            "load_balancing round_robin is left out: a conversation goes where its prompt is cached, which is cheaper; "
            "'strategy: round_robin' is the same as before."
        )
    return subaccounts


def _keys(value: Mapping[str, Any], remarks: list[str]) -> list[dict[str, Any]]:
    keys = []
    limits = isinstance(value.get("quotas"), Mapping)
    given = value.get("api_keys")
    seen: set[str] = set()  # the same twice is one key there
    for number, one in enumerate(given if isinstance(given, list) else [], 1):
        limits = limits or (isinstance(one, Mapping) and len(one) > 1)
        token = str((one.get("key") if isinstance(one, Mapping) else one) or "").strip()
        if not token or token in seen:
            continue
        seen.add(token)
        keys.append(escaped(key_entry(f"key-{number}", token)))
        if len(token) < STRONG:
            remarks.append(f"api_keys[{number - 1}] is so short that it can be guessed; it is taken by its hash.")
    if limits:
        remarks.append("quotas and the limits of keys are left out: this version has none.")
    return keys


def _models(models: Any, settings: dict[str, Any], remarks: list[str]) -> None:
    """Which models are served, and by which names, as far as our own rules do not find them by themselves."""
    served: list[str] = []
    aliases: dict[str, str] = {}
    for one in models if isinstance(models, list) else []:
        if not isinstance(one, Mapping) or not one.get("name"):
            continue
        name = str(one["name"])
        model = str(one.get("aicore_model_name") or name)
        served.append(model)
        patterns = one.get("aliases")
        for alias in map(str, (name, *(patterns if isinstance(patterns, list) else ()))):
            if leads_there(alias.removesuffix("-*"), model):
                continue
            if "*" in alias:
                remarks.append(
                    f"the alias '{shown(alias)}' is left out: an alias has no wildcards here; write out the names."
                )
            else:
                aliases[alias] = model
        if one.get("pricing"):
            remarks.append(f"the pricing of {shown(name)} is left out: this version counts tokens, not costs.")
    if served:
        settings["models"] = {"include": escaped(list(dict.fromkeys(served)))}
    if aliases:
        settings["aliases"] = escaped(aliases)


def leads_there(name: str, model: str) -> bool:
    """Whether a client's name for a model is understood without being told."""
    known = {spelled.lower() for spelled in (model, *aliases_of(model))}
    return any(spelling in known for spelling in spellings(name))
