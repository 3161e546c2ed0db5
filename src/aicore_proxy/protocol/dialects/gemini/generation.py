"""``generationConfig`` in both directions: sampling, thinking, the form of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec.structs import replace

from aicore_proxy.protocol.dialects.gemini.offer import conflicting, reported
from aicore_proxy.protocol.dialects.gemini.wire import NAME, Node
from aicore_proxy.protocol.neutral import Loss, Output, ReasoningAsk, Request, Sampling
from aicore_proxy.protocol.profiles import Profile, budget_of, effort_of, nearest_effort
from aicore_proxy.protocol.schema import Narrowed, for_gemini, from_openapi

Json = Any

FIELDS: Mapping[str, str] = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "stop": "stopSequences",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "logprobs": "logprobs",
    "n": "candidateCount",
}
"""Neutral names of sampling and theirs in ``generationConfig``, for both directions."""


# Reading


def read_sampling(config: Node) -> Sampling:
    values: dict[str, Json] = {}
    for name, wire in FIELDS.items():
        match name:
            case "stop":
                values[name] = config.texts(wire)
            case "logprobs":
                if config.flag("responseLogprobs"):
                    values[name] = config.integer(wire) or 0
            case "max_tokens" | "top_k" | "seed" | "n":
                values[name] = config.integer(wire)
            case _:
                values[name] = config.number(wire)
    return Sampling(**values)


def read_reasoning(config: Node) -> ReasoningAsk | None:
    thinking = config.node("thinkingConfig")
    if thinking is None:
        return None
    budget = thinking.integer("thinkingBudget")
    level = (thinking.text("thinkingLevel") or "").lower().removeprefix("thinking_level_") or None
    if level == "unspecified":
        level = None
    mode: Literal["off", "on", "adaptive"] | None = None
    match budget:
        case None:
            pass
        case 0:
            mode = "off"
        case _ if budget < 0:
            mode, budget = "adaptive", None
        case _:
            mode = "on"
    visible = thinking.flag("includeThoughts")
    return ReasoningAsk(mode, level, budget, visible, extras=thinking.rest())


def read_output(config: Node) -> Output | None:
    mime = config.text("responseMimeType")
    if mime not in (None, "application/json", "text/plain"):
        # A form that only Gemini knows (text/x.enum) stays with its schema as it is
        config.leave("responseMimeType")
        return None
    own = config.node("responseSchema")
    schema = config.node("responseJsonSchema") or config.node("_responseJsonSchema") or own
    if schema is not None:
        return Output("schema", from_openapi(schema.value))
    return None if mime is None else Output("json" if mime == "application/json" else "text")


# Writing

MAX_STOPS = 5
MAX_TOP_K = 64
INT32 = 0x7FFFFFFF
LEAST_THOUGHTS = 1024
"""Tokens to allow for thoughts that cannot be turned off, where the model has no budget (Gemini 3)."""


def generation_config(request: Request, profile: Profile, losses: list[Loss], *, plain: bool) -> dict[str, Json]:
    """``generationConfig``. ``plain``: without a form of the answer, since a function stands for it."""
    sampling = _bounded(request.sampling, profile, losses)
    values = {wire: getattr(sampling, name) for name, wire in FIELDS.items()}
    config: dict[str, Json] = {wire: value for wire, value in values.items() if value not in (None, ())}
    if "stopSequences" in config:
        config["stopSequences"] = list(sampling.stop)
    wanted = config.pop("logprobs", None)
    if wanted is not None and request.source != NAME:
        losses.append(Loss("logprobs", NAME, reason="Gemini tells them in a form of its own"))
    elif wanted is not None:
        config |= {"responseLogprobs": True} | ({"logprobs": wanted} if wanted else {})
    if request.output and request.output.verbosity is not None:
        losses.append(Loss("verbosity", NAME, reason="no such setting"))
    if not plain:
        config |= _format(request, profile, losses)
    if thinking := _thinking(request, profile, losses):
        config["thinkingConfig"] = thinking
    if "maxOutputTokens" in config and _thinks_unasked(request, profile):
        # Thoughts count as output: a small bound that was meant for the answer alone must not be used up by them
        room, bound = profile.budgets[0] if profile.budgets else LEAST_THOUGHTS, config["maxOutputTokens"]
        config["maxOutputTokens"] = max(bound, min(bound + room, 4 * room))
    return config


def _bounded(sampling: Sampling, profile: Profile, losses: list[Loss]) -> Sampling:
    """``sampling`` as the model takes it."""
    if sampling.logit_bias:
        losses.append(Loss("logit_bias", NAME, reason="no such setting"))
    changes: dict[str, Json] = {}
    for name in sorted(profile.refuses):
        if (value := getattr(sampling, name, None)) is not None:
            changes[name] = None
            # Zero is what the model does anyway
            if value:
                losses.append(Loss(name, NAME, reason="refused by the model"))
    if len(sampling.stop) > MAX_STOPS:
        changes["stop"] = sampling.stop[:MAX_STOPS]
        losses.append(Loss("stop", NAME, reason=f"only the first {MAX_STOPS} stop sequences are taken"))
    if sampling.seed is not None and not -INT32 <= sampling.seed <= INT32:
        changes["seed"] = sampling.seed & INT32
    if profile.version:
        changes |= _within(sampling, profile, losses)
    return replace(sampling, **changes) if changes else sampling


def _within(sampling: Sampling, profile: Profile, losses: list[Loss]) -> dict[str, Json]:
    """Numbers above the model's own bounds, which it would refuse."""
    changes: dict[str, Json] = {}
    if (sampling.max_tokens or 0) > profile.max_output:
        changes["max_tokens"] = profile.max_output
        losses.append(Loss("max_tokens", NAME, reason=f"the model writes at most {profile.max_output} tokens"))
    if sampling.top_k is not None and not 1 <= sampling.top_k <= MAX_TOP_K:
        changes["top_k"] = MAX_TOP_K if sampling.top_k > MAX_TOP_K else None
        losses.append(Loss("top_k", NAME, reason=f"the model takes 1 to {MAX_TOP_K}"))
    return changes


def _thinking(request: Request, profile: Profile, losses: list[Loss]) -> dict[str, Json] | None:
    ask = request.reasoning
    if ask is None:
        return None
    # "Thinking level is not supported for this model" before Gemini 3, which still takes a budget
    if request.source == NAME and not (ask.effort and profile.thinking == "budget"):
        return _as_asked(ask)
    config: dict[str, Json] = {}
    match profile.thinking:
        case "level":
            if (level := _level(ask, profile)) is not None:
                config["thinkingLevel"] = level.upper()
        case "budget":
            if (budget := _budget(ask, profile, request.sampling.max_tokens)) is not None:
                config["thinkingBudget"] = budget
        case _:
            if ask.mode not in (None, "off") or ask.effort not in (None, "none"):
                losses.append(Loss("reasoning", NAME, reason="the model does not think"))
            return None
    off = _off(ask)
    if off and not profile.stops_thinking:
        losses.append(Loss("reasoning", NAME, reason="the model always thinks"))
    # Who asks for thinking in Anthropic's words sees it unless they say otherwise
    visible = True if ask.visible is None and ask.mode in ("on", "adaptive") else ask.visible
    if visible is not None and not off:
        config["includeThoughts"] = visible
    return config or None


def _off(ask: ReasoningAsk) -> bool:
    return ask.mode == "off" or (ask.mode is None and ask.effort == "none")


def _thinks_unasked(request: Request, profile: Profile) -> bool:
    """Whether the model thinks although the client wants it not to."""
    ask = request.reasoning
    return request.source != NAME and ask is not None and _off(ask) and not profile.stops_thinking


def _as_asked(ask: ReasoningAsk) -> dict[str, Json] | None:
    config: dict[str, Json] = {}
    if ask.visible is not None:
        config["includeThoughts"] = ask.visible
    if ask.budget is not None or ask.mode == "adaptive":
        config["thinkingBudget"] = -1 if ask.budget is None else ask.budget
    if ask.effort is not None:
        config["thinkingLevel"] = ask.effort.upper()
    return {**config, **ask.extras} or None


def _level(ask: ReasoningAsk, profile: Profile) -> str | None:
    """The level for an ask; None leaves it to the model."""
    effort = ask.effort
    if ask.mode == "off" or effort == "none":
        return profile.efforts[0] if profile.efforts else None
    if effort is None and ask.mode == "on" and ask.budget is not None:
        effort = effort_of(ask.budget)
    return nearest_effort(effort, profile.efforts) if effort is not None else None


def _budget(ask: ReasoningAsk, profile: Profile, max_tokens: int | None) -> int | None:
    """The thinking budget for an ask: -1 as the model sees fit, 0 none; None says nothing."""
    smallest, largest = profile.budgets or (1, 24576)
    if _off(ask):
        return 0 if profile.stops_thinking else smallest
    if ask.budget is not None:
        return min(max(ask.budget, smallest), largest)
    if ask.effort is not None:
        budget = budget_of(ask.effort, max_tokens)
        if budget == 0 and profile.stops_thinking:
            return 0
        return min(max(budget, smallest), largest)
    return -1 if ask.mode in ("on", "adaptive") else None


def _format(request: Request, profile: Profile, losses: list[Loss]) -> dict[str, Json]:
    match request.output:
        case None:
            return {}
        case Output(kind="text"):
            return {"responseMimeType": "text/plain"} if request.source == NAME else {}
        case Output(kind="json") if conflicting(request, profile):
            losses.append(
                Loss("response_format", NAME, reason="refused beside functions before Gemini 3: asked for in words")
            )
            return {}
        case Output(kind="json"):
            return {"responseMimeType": "application/json"}
        case Output(schema=schema, description=words):
            told = {"description": words} if words else {}
            narrowed = (
                Narrowed(dict(schema or {})) if request.source == NAME else for_gemini({**told, **(schema or {})})
            )
            reported(narrowed, "response_format", losses)
            return {"responseMimeType": "application/json", "responseJsonSchema": narrowed.schema}
