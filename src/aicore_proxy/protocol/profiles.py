"""Facts about model families, as data, derived by rule from a model's SAP name.

Sources: SAP AI Core wire facts, sections 3.2 (OpenAI families), 4.3 (Claude on Bedrock) and 5 (Gemini). A family's
newest known rules apply to every later version: nothing here lists models.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from aicore_proxy.protocol.neutral import Family

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class Profile(Struct, frozen=True):
    """What a model takes and refuses.

    ``version``: numbers of its name, ``(4, 5)``. ``thinking``: how it is told to think: ``effort`` (OpenAI's
    ``reasoning_effort``), ``budget`` (Claude up to 4.5, Gemini 2.5), ``either`` (Claude 4.6: adaptive or budget),
    ``adaptive`` (Claude 4.7 and later), ``level`` (Gemini 3), None: not at all. ``refuses``: neutral sampling names
    that are a 400. ``one_of_sampling``: temperature and top_p not together. ``completion_tokens``: wants
    ``max_completion_tokens``. ``effort_with_tools``: False where both together are a 400 on Chat Completions.
    ``mid_system``: takes system turns after the first other turn. ``max_output``: the output bound to use where a
    dialect demands one and the client gave none; for GPT and Gemini also the largest that the model takes.
    ``prefill``: the last turn may be the assistant's. ``efforts``: values of effort it takes.
    """

    family: Family
    version: tuple[int, ...] = ()
    size: str = ""
    thinking: Literal["effort", "budget", "either", "adaptive", "level"] | None = None
    refuses: frozenset[str] = frozenset()
    one_of_sampling: bool = False
    completion_tokens: bool = False
    effort_with_tools: bool = True
    responses_only: bool = False
    mid_system: bool = False
    prefill: bool = True
    max_output: int = 8192
    most_output: int | None = None
    """The largest output bound that a Claude model is documented to take."""
    efforts: tuple[str, ...] = ()
    output_schema: bool = True
    signed_calls: bool = False
    """Gemini 3: function calls of the current turn must carry their thought signature."""
    budgets: tuple[int, int] | None = None
    """The smallest and the largest thinking budget, where the model has fixed ones (Gemini 2.5)."""
    stops_thinking: bool = True
    """Thinking can be turned off."""


@lru_cache(maxsize=1024)
def profile_of(model: str) -> Profile:
    """The Profile of a model by its SAP name (``anthropic--claude-4.5-sonnet``, ``gpt-5.2``, ``gemini-2.5-pro``)."""
    name = model.lower()
    vendor, _, bare = name.rpartition("--")
    if match := re.match(r"claude-(\d+(?:\.\d+)?)-(\w+)", bare):
        return _claude(_version(match[1]), match[2])
    if match := re.match(r"(?:gpt-(\d+(?:\.\d+)?o?)|(o\d+))(.*)", bare):
        return _openai(match[1], match[2], match[3])
    if match := re.match(r"gemini-(\d+(?:\.\d+)?)(.*)", bare):
        return _gemini(_version(match[1]), match[2])
    return Profile(family=vendor or re.split(r"[-\d]", bare, maxsplit=1)[0] or "unknown")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


SAMPLING = frozenset({"temperature", "top_p", "top_k"})
PENALTIES = frozenset({"presence_penalty", "frequency_penalty", "logprobs", "logit_bias"})


def _claude(version: tuple[int, ...], size: str) -> Profile:
    adaptive_only = version >= (4, 7)
    thinking: Literal["budget", "either", "adaptive"] | None
    if adaptive_only:
        thinking = "adaptive"
    elif version >= (4, 6):
        thinking = "either"
    else:
        thinking = "budget" if version >= (3, 7) else None
    return Profile(
        family="claude",
        version=version,
        size=size,
        thinking=thinking,
        refuses=SAMPLING if adaptive_only else frozenset(),
        one_of_sampling=version >= (4, 5),
        mid_system=version >= (4, 8),
        prefill=version < (4, 6),
        max_output=4096 if version < (3, 5) else 8192 if version < (3, 7) else 32000 if version < (4, 6) else 64000,
        most_output=_most_of_claude(version, size),
        efforts=_claude_efforts(version, size),
        output_schema=version >= (4, 5),
    )  # fmt: skip


def _claude_efforts(version: tuple[int, ...], size: str) -> tuple[str, ...]:
    """Levels came with 4.5 Opus, ``max`` with 4.6, ``xhigh`` with 4.7 (Anthropic's page on effort)."""
    if version >= (4, 7):
        return ("low", "medium", "high", "xhigh", "max")
    if version >= (4, 6):
        return ("low", "medium", "high", "max")
    return ("low", "medium", "high") if version == (4, 5) and size == "opus" else ()


def _most_of_claude(version: tuple[int, ...], size: str) -> int:
    """Anthropic, "Models overview"; more is a 400 ("max_tokens: 100000 > 64000, which is the maximum …")."""
    if version < (3, 7):
        return 4_096 if version < (3, 5) else 8_192
    if version < (4, 5) and size == "opus":
        return 32_000
    return 64_000 if version < (4, 6) else 128_000


def _openai(gpt: str | None, o_series: str | None, rest: str) -> Profile:
    version = (3, 5) if gpt == "35" else _version(gpt or o_series or "")
    reasoning = bool(o_series) or (version >= (5,) and "chat" not in rest)
    efforts: tuple[str, ...] = ()
    if reasoning:
        efforts = ("low", "medium", "high")
        if not o_series:
            efforts = ("none", *efforts) if version >= (5, 1) else ("minimal", *efforts)
            if version >= (5, 2):
                efforts = (*efforts, "xhigh")
    return Profile(
        family="gpt",
        version=version,
        size=rest.strip("-"),
        thinking="effort" if reasoning else None,
        refuses=(frozenset({"temperature", "top_p"}) | PENALTIES) if reasoning else frozenset(),
        completion_tokens=reasoning,
        # "gpt-5.x with function tools and reasoning_effort" is a 400 on chat/completions (wire facts 3.2)
        effort_with_tools=not (reasoning and len(version) > 1),
        responses_only="codex" in rest,
        mid_system=True,
        max_output=_most_output(version, rest, reasoning=reasoning, o_series=bool(o_series)),
        efforts=efforts,
    )


def _most_output(version: tuple[int, ...], rest: str, *, reasoning: bool, o_series: bool) -> int:
    """The output that OpenAI's models are documented to take at most ("max_tokens is too large: …")."""
    if reasoning:
        return 100_000 if o_series else 128_000
    return 32_768 if version == (4, 1) else 4_096 if version < (4,) else 16_384


def _gemini(version: tuple[int, ...], rest: str) -> Profile:
    size = rest.strip("-")
    by_level = version >= (3,)
    # thinkingBudget per model of 2.5, thinkingLevel of 3 (Google, "Thinking"); penalties: "Penalty is not enabled for
    # this model" from 2.5 on
    budgets = (128, 32768) if size.startswith("pro") else (512, 24576) if "lite" in size else (1, 24576)
    efforts: tuple[str, ...] = ("minimal", "low", "medium", "high")
    if size.startswith("pro"):
        efforts = ("low", "high") if version == (3,) else ("low", "medium", "high")
    return Profile(
        family="gemini",
        version=version,
        size=size,
        thinking="level" if by_level else "budget" if version >= (2, 5) else None,
        refuses=frozenset({"presence_penalty", "frequency_penalty"}) if version >= (2, 5) else frozenset(),
        efforts=efforts if by_level else (),
        max_output=65536 if version >= (2, 5) else 8192,
        signed_calls=by_level,
        budgets=budgets if version >= (2, 5) and not by_level else None,
        stops_thinking=not by_level and not size.startswith("pro"),
    )


# Effort and budget: one table for all codecs, growing with the effort, so that a detour keeps the order.

BUDGETS = {"none": 0, "minimal": 1024, "low": 2048, "medium": 8192, "high": 24576, "xhigh": 49152, "max": 65536}
_UP_TO = {"none": 0, "minimal": 1024, "low": 4096, "medium": 16384, "high": 32768, "xhigh": 57344}
SMALLEST_BUDGET = 1024


def budget_of(effort: str, max_tokens: int | None = None) -> int:
    """Thinking tokens for an effort (0: do not think; an unknown effort counts as ``medium``). With ``max_tokens`` at
    most three quarters of it, so that an answer fits, but never fewer than 1,024 (what Claude takes at least)."""
    budget = BUDGETS.get(effort, BUDGETS["medium"])
    if max_tokens is None or budget <= SMALLEST_BUDGET:
        return budget
    return min(budget, max(SMALLEST_BUDGET, max_tokens * 3 // 4))


def effort_of(budget: int) -> str:
    """The effort whose budget is nearest, by the same table; a negative budget (Gemini: as it sees fit) is
    ``medium``."""
    if budget < 0:
        return "medium"
    return next((effort for effort, limit in _UP_TO.items() if budget <= limit), "max")


def nearest_effort(effort: str, offered: tuple[str, ...]) -> str | None:
    """``effort`` or the nearest of ``offered`` (the lower of two as near, but thinking is not turned off for it);
    None where none is offered."""
    if effort in offered or not offered:
        return effort if offered else None
    rank = EFFORTS.index(effort) if effort in EFFORTS else EFFORTS.index("medium")
    thinking = [name for name in offered if name != "none"] or list(offered)
    return min(thinking, key=lambda name: (abs(EFFORTS.index(name) - rank), EFFORTS.index(name)))
