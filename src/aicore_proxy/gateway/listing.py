"""The model list, in OpenAI's shape and in Anthropic's."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from aicore_proxy.landscape import Catalog, aliases_of
from aicore_proxy.protocol.fault import Fault, Kind

LIST_LIMIT = 1000


def names(catalog: Catalog) -> list[str]:
    """The names that clients may pick: the operator's, as far as they are served, then for each model the vendor's
    usual one (Claude's differs from SAP's) and SAP's own."""
    listed = dict.fromkeys(name for name in (*catalog.naming.aliases, *catalog.pinned) if catalog.serving(name))
    for model in catalog.by_name:
        if model.startswith("anthropic--"):
            listed |= dict.fromkeys(alias for alias in aliases_of(model)[:1] if catalog.resolve(alias) == model)
        listed[model] = None
    return list(listed)


def openai_list(catalog: Catalog) -> dict[str, Any]:
    """``GET /v1/models`` as OpenAI shapes it."""
    return {"object": "list", "data": [openai_model(name, catalog) for name in names(catalog)]}


def openai_model(name: str, catalog: Catalog) -> dict[str, Any]:
    """One entry. ``created``: of its oldest deployment. Raises Fault(MODEL_NOT_FOUND)."""
    owned_by = owner(resolved(name, catalog))
    return {"id": name, "object": "model", "created": created_of(name, catalog), "owned_by": owned_by}


def anthropic_list(
    catalog: Catalog, limit: int = LIST_LIMIT, after: str | None = None, before: str | None = None
) -> dict[str, Any]:
    """``GET /v1/models`` as Anthropic shapes and pages it."""
    listed = names(catalog)
    if after in listed:
        listed = listed[listed.index(after) + 1 :]
    page = listed[:limit]
    if before in listed:
        page = listed[max(0, listed.index(before) - limit) : listed.index(before)]
        listed = listed[: listed.index(before)]
    data = [anthropic_model(name, catalog) for name in page]
    ends = {"first_id": page[0], "last_id": page[-1]} if page else {"first_id": None, "last_id": None}
    return {"data": data, "has_more": len(page) < len(listed), **ends}


def anthropic_model(name: str, catalog: Catalog) -> dict[str, Any]:
    """One entry, with the ``display_name`` that Claude Code's picker shows; ``created_at``: RFC 3339, of its oldest
    deployment. Raises Fault(MODEL_NOT_FOUND)."""
    shown = display_name(resolved(name, catalog))
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created_of(name, catalog)))
    return {"type": "model", "id": name, "display_name": shown, "created_at": created}


def created_of(name: str, catalog: Catalog) -> int:
    """When a model's oldest deployment was made: Unix seconds; 0 where SAP does not say."""
    return min((moment for d in catalog.serving(name) if (moment := unix_seconds(d.created_at))), default=0)


@lru_cache(4096)
def unix_seconds(date: str) -> int:
    """Of a date as SAP writes it (ISO 8601, UTC); 0: it is none."""
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return 0
    return max(0, int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()))


def resolved(name: str, catalog: Catalog) -> str:
    """SAP's name of a model. Raises Fault(MODEL_NOT_FOUND) with names that may have been meant."""
    if (model := catalog.resolve(name)) is not None:
        return model
    raise unknown_model(name, catalog)


def unknown_model(name: str, catalog: Catalog) -> Fault:
    """The 404 for a model that no deployment serves; never another model in its place."""
    wanted = catalog.alias_target(name)
    shown = (
        f"'{shortened(name)}'" if wanted is None else f"'{shortened(wanted)}' (for which '{shortened(name)}' stands)"
    )
    if not catalog.deployments():
        hint = "No model is deployed in the connected subaccounts."
    elif near := catalog.near((wanted or name)[:256]):
        hint = f"Did you mean {', '.join(near)}?"
    else:
        hint = "GET /v1/models lists the deployed models."
    words = f"The model {shown} does not exist or has no running deployment. {hint}"
    return Fault(Kind.MODEL_NOT_FOUND, words, code="model_not_found", param="model")


def shortened(name: str) -> str:
    return name if len(name) <= 128 else f"{name[:125]}..."


def owner(model: str) -> str:
    """Who made a model, by SAP's naming rule (vendor prefix; none for OpenAI, Google, Perplexity and SAP)."""
    vendor, _, bare = model.rpartition("--")
    if vendor:
        return vendor
    for prefix, maker in (("gemini", "google"), ("sonar", "perplexity"), ("sap-", "sap"), ("qwen", "alibaba")):
        if bare.startswith(prefix):
            return maker
    return "openai"


def display_name(model: str) -> str:
    """``anthropic--claude-4.5-sonnet`` -> ``Claude Sonnet 4.5``; others in capitals by word."""
    words = (model.partition("--")[2] or model).split("-")
    if words[0] == "claude" and len(words) == 3:
        words = [words[0], words[2], words[1]]
    return " ".join("GPT" if word == "gpt" else word[:1].upper() + word[1:] for word in words)
