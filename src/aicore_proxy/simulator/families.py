"""What a model's name says about it, by rule: executable, family, version, limits, prices. No list of models.

Source: SAP AI Core wire facts, section 9 (naming) and the per-family rules of sections 3 to 5.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

from msgspec import Struct

_EXECUTABLES = (
    (r"anthropic--|amazon--", "aws-bedrock"),
    (r"gpt-|chatgpt-|o\d|text-embedding-(3|ada)|dall-e", "azure-openai"),
    (r"gemini-", "gcp-vertexai"),
    (r"mistralai--", "aicore-mistralai"),
    (r"cohere", "aicore-cohere"),
    (r"sonar", "perplexity-ai"),
    (r"nvidia--", "aicore-nvidia"),
    (r"sap-rpt", "aicore-sap"),
    (r"orchestration$", "orchestration"),
)
_CLAUDE = re.compile(r"anthropic--claude-(?P<version>\d+(?:\.\d+)?)-(?P<size>[a-z-]+)")
_GPT = re.compile(r"gpt-(?P<version>\d+(?:\.\d+)?)")
_GEMINI = re.compile(r"gemini-(?P<version>\d+(?:\.\d+)?)")
_O_SERIES = re.compile(r"o\d")


class Family(Struct, frozen=True):
    """``vendor`` is the body's maker: openai, claude, nova, titan, gemini or other; ``version`` like ``(4, 5)``."""

    executable: str
    vendor: str
    version: tuple[int, int]
    size: str
    embedding: bool
    reasons: bool
    responses_only: bool


def family(model: str) -> Family:
    """Reads a SAP model name."""
    executable = next((name for pattern, name in _EXECUTABLES if re.match(pattern, model)), "aicore-opensource")
    vendor, version, size = "other", (0, 0), ""
    if found := _CLAUDE.match(model):
        vendor, version, size = "claude", _version(found["version"]), found["size"]
    elif model.startswith("amazon--"):
        vendor = "titan" if "titan" in model else "nova"
    elif executable == "azure-openai":
        vendor = "openai"
        version = _version(found["version"]) if (found := _GPT.match(model)) else (0, 0)
    elif found := _GEMINI.match(model):
        vendor, version = "gemini", _version(found["version"])
    elif executable == "gcp-vertexai":
        vendor = "gemini"
    reasons = (
        (vendor == "openai" and (version >= (5, 0) or _O_SERIES.match(model) is not None))
        or (vendor == "claude" and version >= (3, 7))
        or (vendor == "gemini" and version >= (2, 5))
    )
    return Family(executable, vendor, version, size, "embed" in model, reasons, "codex" in model)


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def upstream_name(model: str) -> str:
    """The vendor's own name, as answers carry it: ``claude-sonnet-4-5-20250929``, ``gpt-4o-2024-08-06``."""
    kind = family(model)
    if kind.vendor == "claude":
        number = "-".join(str(part) for part in kind.version if part) or "0"
        dated = f"-{_date(model)}" if kind.version < (4, 6) else ""
        return f"claude-{kind.size}-{number}{dated}"
    if kind.vendor == "openai" and not kind.embedding:
        date = _date(model)
        return f"{model}-{date[:4]}-{date[4:6]}-{date[6:]}"
    return model


def _date(model: str) -> str:
    known = {"anthropic--claude-4.5-sonnet": "20250929", "gpt-4o": "20240806", "gpt-5": "20250807"}
    seed = zlib.crc32(model.encode())
    return known.get(model) or f"2025{seed % 12 + 1:02d}{seed // 16 % 28 + 1:02d}"


def dimensions(model: str) -> int:
    """Length of an embedding."""
    return 1536 if model.endswith(("-small", "ada-002")) else 3072 if model.endswith("-large") else 768


_WINDOWS = (
    (r"gpt-4o", 128_000),
    (r"gpt-4\.1", 1_047_576),
    (r"gpt-5\.[45]$", 1_050_000),
    (r"gpt-5", 400_000),
    (r"o\d", 200_000),
    (r"anthropic--claude-(4\.[678]|5)", 1_000_000),
    (r"anthropic--", 200_000),
    (r"gemini-embedding", 2_048),
    (r"gemini-", 1_048_576),
    (r"text-embedding", 8_192),
    (r"amazon--nova", 300_000),
)


def context_length(model: str) -> int:
    """Tokens that fit."""
    return next((tokens for pattern, tokens in _WINDOWS if re.match(pattern, model)), 128_000)


def catalogue_entry(model: str) -> dict[str, Any]:
    """The model as ``GET /lm/scenarios/foundation-models/models`` lists it. The newest GPT models have no cost there,
    as in the field (SAP AI Core wire facts 2.3)."""
    kind = family(model)
    provider = {"claude": "Anthropic", "openai": "OpenAI", "gemini": "Google", "nova": "Amazon", "titan": "Amazon"}
    deprecated = model in {"anthropic--claude-4-sonnet", "gpt-4o-mini", "o1", "o3-mini"} or "claude-3" in model
    seed = zlib.crc32(model.encode()) % 900
    version: dict[str, Any] = {
        "name": _catalogue_version(model),
        "isLatest": True,
        "deprecated": deprecated,
        "retirementDate": "2027-02-28" if deprecated else "",
        "contextLength": context_length(model),
        "inputTypes": ["text"] if kind.embedding else ["text", "image"],
        "capabilities": ["text-embedding"] if kind.embedding else ["text-generation", "image-recognition"],
        "streamingSupported": not kind.embedding,
        "cost": [{"inputCost": f"0.{seed + 100:05d}"}, {"outputCost": f"0.{4 * seed + 400:05d}"}],
        "metadata": [{"meanWinRate": "0.8"}],
        "suggestedReplacements": ["anthropic--claude-4.6-sonnet"] if model == "anthropic--claude-4-sonnet" else [],
    }
    if kind.vendor == "openai" and kind.version >= (5, 4):
        del version["cost"]
    return {
        "model": model,
        "executableId": kind.executable,
        "accessType": "Remote",
        "displayName": model.replace("--", " ").replace("-", " ").title(),
        "provider": provider.get(kind.vendor, "SAP"),
        "description": f"{model}, simulated",
        "allowedScenarios": [
            {"scenarioId": "foundation-models", "executableId": kind.executable},
            {"scenarioId": "orchestration", "executableId": "orchestration"},
        ],
        "versions": [version],
    }


def _catalogue_version(model: str) -> str:
    kind = family(model)
    if kind.vendor == "openai" and not kind.embedding:
        date = _date(model)
        return f"{date[:4]}-{date[4:6]}-{date[6:]}"
    return "001" if kind.vendor == "gemini" else "1"
