"""LiteLLM's configuration as our settings: what it has of SAP AI Core."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from aicore_proxy.config.document import shown
from aicore_proxy.config.import_aicore_router import leads_there
from aicore_proxy.config.legacy import STRONG, key_entry
from aicore_proxy.config.render import escaped

PORT = 4000
PROVIDER = "sap/"
VARIABLE = "os.environ/"
SERVICE_KEY = "AICORE_SERVICE_KEY"
MEMBERS = {
    "AICORE_CLIENT_ID": "clientid",
    "AICORE_CLIENT_SECRET": "clientsecret",
    "AICORE_AUTH_URL": "url",
    "AICORE_CERT_URL": "certurl",
    "AICORE_CERT_STR": "certificate",
    "AICORE_KEY_STR": "key",
}
STRATEGIES = {"least-busy": "least_outstanding"}


class _Import:
    """One import: settings and remarks grow on the way."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.aliases: dict[str, str] = {}
        self.served: dict[str, None] = {}
        self.everything = False
        self.subaccounts: list[dict[str, Any]] = []
        self.elsewhere = False
        """Whether a model's credentials stand where SAP's own SDKs look."""

    def model(self, number: int, entry: Any) -> None:
        place = f"model_list[{number}]"
        params = entry.get("litellm_params") if isinstance(entry, Mapping) else None
        if not isinstance(entry, Mapping) or not isinstance(params, Mapping):
            self.remarks.append(f"{place} is left out: it has no litellm_params.")
            return
        model = str(params.get("model") or "")
        name = str(entry.get("model_name") or model)
        if not model.startswith(PROVIDER):
            self.remarks.append(f"{place} ({shown(name)}) is left out: {shown(model)} is not at SAP AI Core.")
            return
        model = model.removeprefix(PROVIDER)
        others = [shown(str(given)) for given in params if given not in ("model", "api_key", "resource_group")]
        others += [shown(str(given)) for given in entry if given not in ("model_name", "litellm_params", "model_info")]
        if others:
            self.remarks.append(f"{place} ({shown(name)}): {', '.join(others)} left out.")
        self._credentials(params)
        if "*" in model:
            self.everything = self.everything or model == "*"
            self.served[model] = None
            return
        self.served[model] = None
        if leads_there(name, model):
            return
        if self.aliases.setdefault(name, model) != model:
            self.remarks.append(
                f"{place}: '{shown(name)}' leads to {shown(self.aliases[name])} alone, not to {shown(model)} too: "
                "a name is one model here."
            )

    def _credentials(self, params: Mapping[str, Any]) -> None:
        """A service key of its own: a variable's, or written out."""
        given = str(params.get("api_key") or "")
        if not given or given == f"{VARIABLE}{SERVICE_KEY}":
            self.elsewhere = True  # where SAP's own SDKs look, we look too
            return
        self.subaccount(_reference(given) if given.startswith(VARIABLE) else given, params.get("resource_group"))

    def subaccount(self, key: Any, group: Any) -> None:
        """A subaccount, once per service key."""
        if isinstance(key, str) and not key.startswith("${"):
            try:
                key = escaped(json.loads(key))
            except (ValueError, RecursionError):
                self.remarks.append("an api_key is left out: it is not a service key, which is JSON.")
                return
        one: dict[str, Any] = {"name": "", "service_key": key}
        if group:
            one["resource_groups"] = [_reference(str(group))]
        if any(one["service_key"] == known["service_key"] for known in self.subaccounts):
            return
        one["name"] = f"sap-{len(self.subaccounts) + 1}"
        self.subaccounts.append(one)

    def environment(self, given: Any) -> None:
        """``environment_variables``: SAP's among them are credentials."""
        if not isinstance(given, Mapping):
            return
        group = given.get("AICORE_RESOURCE_GROUP")
        if key := given.get(SERVICE_KEY):
            self.subaccount(_reference(str(key)), group)
        elif given.get("AICORE_CLIENT_ID"):
            members = {ours: _reference(str(given[name])) for name, ours in MEMBERS.items() if given.get(name)}
            if "url" in members:
                members["url"] = re.sub(r"/oauth/token/?$", "", members["url"])
            api = re.sub(r"/v2/?$", "", _reference(str(given.get("AICORE_BASE_URL") or "")))
            self.subaccount({**members, "serviceurls": {"AI_API_URL": api}}, group)
        elif group:
            self.remarks.append("AICORE_RESOURCE_GROUP: set it as a variable, or resource_groups here.")
        known = {SERVICE_KEY, "AICORE_RESOURCE_GROUP", "AICORE_BASE_URL", *MEMBERS}
        if others := [shown(str(name)) for name in given if name not in known]:
            self.remarks.append(f"environment_variables {', '.join(others)} left out: set them where the proxy starts.")


def of_litellm(value: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Our settings, and what is to be said of them."""
    run = _Import()
    for number, entry in enumerate(value["model_list"]):
        run.model(number, entry)
    run.environment(value.get("environment_variables"))
    settings: dict[str, Any] = {"port": PORT}
    run.remarks.insert(
        0, f"port {PORT}, where LiteLLM listens, but on this machine only: 'host: 0.0.0.0' lets others in."
    )
    if run.subaccounts:
        if run.elsewhere and not _given(value):
            # Subaccounts of a file are all there are
            run.subaccount(f"${{{SERVICE_KEY}}}", None)
            run.remarks.append(
                f"models without an api_key of their own are those of {run.subaccounts[-1]['name']}: its service key "
                f"is expected in the variable {SERVICE_KEY}; another place is service_key_file."
            )
        settings["subaccounts"] = run.subaccounts
    else:
        run.remarks.append("credentials come from where SAP's SDKs look: AICORE_SERVICE_KEY and the like.")
    general = _section(value, "general_settings")
    if key := general.get("master_key"):
        settings["keys"] = [_master(str(key), run)]
    elif "LITELLM_MASTER_KEY" not in general:
        run.remarks.append("without master_key LiteLLM lets everybody in: this proxy makes a key at its first start.")
    router = _section(value, "router_settings")
    _group_aliases(router.get("model_group_alias"), run)
    strategy = str(router.get("routing_strategy"))
    if strategy in STRATEGIES:
        settings["strategy"] = STRATEGIES[strategy]
    left = [f"general_settings.{name}" for name in general if name != "master_key"]
    taken = ("model_group_alias", *(("routing_strategy",) if strategy in STRATEGIES else ()))
    left += [f"router_settings.{name}" for name in router if name not in taken]
    left += [f"litellm_settings.{name}" for name in _section(value, "litellm_settings")]
    sections = ("model_list", "environment_variables", "general_settings", "router_settings", "litellm_settings")
    left += [str(name) for name in value if name not in sections]
    if left:
        run.remarks.append(f"left out: {', '.join(map(shown, left))}.")
    if run.aliases:
        settings["aliases"] = escaped(run.aliases)
    if run.served and not run.everything:
        settings["models"] = {"include": escaped(list(run.served))}
    return settings, run.remarks


def _master(key: str, run: _Import) -> dict[str, str]:
    if key.startswith(VARIABLE):
        return {"name": "master", "key": _reference(key)}
    if len(key) < STRONG:
        run.remarks.append("master_key is so short that it can be guessed; it is taken by its hash.")
    entry: dict[str, str] = escaped(key_entry("master", key))
    return entry


def _group_aliases(given: Any, run: _Import) -> None:
    for alias, target in given.items() if isinstance(given, Mapping) else ():
        wanted = str(target.get("model") if isinstance(target, Mapping) else target)
        model = run.aliases.get(wanted, wanted)
        if not leads_there(str(alias), model):
            run.aliases.setdefault(str(alias), model)


def _given(value: Mapping[str, Any]) -> bool:
    """Whether the file itself has SAP's own variables."""
    variables = _section(value, "environment_variables")
    return bool(variables.get(SERVICE_KEY) or variables.get("AICORE_CLIENT_ID"))


def _section(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _reference(text: str) -> str:
    """LiteLLM's ``os.environ/NAME`` as our ``${NAME}``; any other text as it is."""
    if text.startswith(VARIABLE) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text.removeprefix(VARIABLE)):
        return f"${{{text.removeprefix(VARIABLE)}}}"
    return text.replace("${", "$${")
