"""Configurations of other proxies as ours: LiteLLM's ``model_list`` with ``sap/`` models, aicore-router's YAML, and the
``config.json`` of the older proxies. What cannot be taken is said, never dropped in silence.

Field names: LiteLLM's pages "Config.yaml" and "SAP Generative AI Hub"; iberryful/aicore-router's
``examples/config.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from aicore_proxy.config import legacy
from aicore_proxy.config.document import Document
from aicore_proxy.config.import_aicore_router import of_aicore_router
from aicore_proxy.config.import_litellm import of_litellm
from aicore_proxy.config.render import escaped, yaml_of
from aicore_proxy.config.settings import SettingsError


class Imported(Struct, frozen=True):
    """``kind``: whose configuration it was. ``settings``: ours. ``remarks``: what could not be taken or is different,
    a line each."""

    kind: str
    settings: dict[str, Any]
    remarks: list[str]

    def text(self, source: str) -> str:
        """The configuration file, with the remarks on top."""
        lines = [f"Made by `aicore-proxy config import` of {source}, the configuration of {self.kind}."]
        lines += ["What is different here:" if self.remarks else "Everything could be taken."]
        lines += [f"- {remark}" for remark in self.remarks]
        head = "".join(f"# {line}\n" for line in lines)
        return f"{head}\n{yaml_of(self.settings)}"


def imported(document: Document, cwd: Path) -> Imported:
    """Another proxy's configuration as ours. Raises SettingsError where it is none that we know."""
    value = document.value
    if isinstance(value.get("model_list"), list):
        return Imported("LiteLLM", *of_litellm(value))
    if _is_aicore_router(value):
        return Imported("aicore-router", *of_aicore_router(value))
    if legacy.is_legacy(value):
        read = legacy.converted(value, document.path.parent, cwd)
        port = {"port": read.settings["port"]} if "port" in read.settings else {}
        return Imported("sap-ai-core-llm-proxy", escaped(read.settings) | port, read.notes[1:])
    words = "is not a configuration that can be imported: LiteLLM's has model_list, aicore-router's has providers"
    raise SettingsError([f"{document.path}: {words}, the older proxies' config.json has subAccounts."])


def _is_aicore_router(value: Mapping[str, Any]) -> bool:
    providers = value.get("providers")
    return isinstance(providers, list) and any(isinstance(one, Mapping) and "genai_api_url" in one for one in providers)
