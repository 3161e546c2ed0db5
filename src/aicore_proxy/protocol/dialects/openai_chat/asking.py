"""How a request wants its answer: sampling, reasoning, form. Read here, and written for an upstream's Profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aicore_proxy.protocol.dialects.openai_chat.reading import NAME
from aicore_proxy.protocol.neutral import Json, Loss, Output, ReasoningAsk, Sampling
from aicore_proxy.protocol.openai_members import malformed, member, optional, rest, typed
from aicore_proxy.protocol.profiles import Profile, effort_of, nearest_effort
from aicore_proxy.protocol.schema import is_strict

MOST_STOPS = 4
"""OpenAI API reference, ``stop``: "up to 4 sequences"."""

# Reading


def decode_sampling(body: Mapping[str, Json], extras: dict[str, Json]) -> Sampling:
    """Numbers and bounds. Raises Fault(MALFORMED)."""
    bound = optional(body, "max_completion_tokens", int)
    older = optional(body, "max_tokens", int)
    if not optional(body, "logprobs", bool) and body.get("top_logprobs") is not None:
        extras["top_logprobs"] = body["top_logprobs"]
    return Sampling(
        max_tokens=bound if bound is not None else older,
        temperature=optional(body, "temperature", float),
        top_p=optional(body, "top_p", float),
        top_k=optional(body, "top_k", int),
        stop=_stops(body.get("stop")),
        seed=optional(body, "seed", int),
        presence_penalty=optional(body, "presence_penalty", float),
        frequency_penalty=optional(body, "frequency_penalty", float),
        logprobs=(optional(body, "top_logprobs", int) or 0) if optional(body, "logprobs", bool) else None,
        logit_bias=_bias(optional(body, "logit_bias", dict)),
        n=_candidates(optional(body, "n", int)),
    )


def _candidates(n: int | None) -> int | None:
    if n is not None and not 1 <= n <= 128:
        raise malformed("n", f"Invalid 'n': {n}. Expected a value between 1 and 128.")
    return n


def _bias(bias: Mapping[str, Json] | None) -> Mapping[str, float] | None:
    if bias is None:
        return None
    return {token: typed(value, float, f"logit_bias.{token}") for token, value in bias.items()}


def _stops(stop: Json) -> tuple[str, ...]:
    match stop:
        case None:
            return ()
        case str():
            return (stop,)
        case _:
            return tuple(typed(text, str, f"stop[{i}]") for i, text in enumerate(typed(stop, list, "stop")))


def decode_reasoning(body: Mapping[str, Json], extras: dict[str, Json]) -> ReasoningAsk | None:
    """How much to think: ``reasoning_effort``, OpenRouter's ``reasoning`` and Anthropic's ``thinking`` (as LiteLLM
    sends it). Raises Fault(MALFORMED)."""
    routed = optional(body, "reasoning", dict) or {}
    thinking = optional(body, "thinking", dict) or {}
    effort = optional(body, "reasoning_effort", str) or optional(routed, "effort", str, "reasoning")
    budget = optional(thinking, "budget_tokens", int, "thinking")
    if budget is None:
        budget = optional(routed, "max_tokens", int, "reasoning")
    mode = _mode(thinking, "on" if budget is not None else None)
    enabled = optional(routed, "enabled", bool, "reasoning")
    if mode is None and enabled is not None:
        mode = "adaptive" if enabled else "off"
    if effort == "none" and mode is None:
        mode = "off"
    visible = None if routed.get("exclude") is None else not optional(routed, "exclude", bool, "reasoning")
    if isinstance(display := thinking.get("display"), str):
        visible = display != "omitted"
    further = {
        "reasoning": rest(routed, ("effort", "max_tokens", "enabled", "exclude")),
        "thinking": rest(thinking, ("type", "budget_tokens", "display")),
    }
    extras.update({name: more for name, more in further.items() if more})
    if effort is None and budget is None and mode is None and visible is None:
        return None
    return ReasoningAsk(mode, effort, budget, visible)


def _mode(thinking: Mapping[str, Json], default: Any) -> Any:
    match thinking.get("type"):
        case "enabled":
            return "on"
        case "adaptive":
            return "adaptive"
        case "disabled":
            return "off"
        case _:
            return default


def decode_output(body: Mapping[str, Json], extras: dict[str, Json]) -> Output | None:
    """``response_format`` and ``verbosity``. What a format holds beside what is known stays in ``extras`` under its
    name. Raises Fault(MALFORMED)."""
    verbosity = optional(body, "verbosity", str)
    form = optional(body, "response_format", dict)
    kind = member(form, "type", str, "response_format") if form is not None else None
    if form is not None and kind in ("json_object", "text") and (more := rest(form, ("type",))):
        extras["response_format"] = more
    match kind:
        case "json_schema" if form is not None:
            return _schema(form, verbosity, extras)
        case "json_object":
            return Output("json", verbosity=verbosity)
        case "text":
            return Output("text", verbosity=verbosity)
        case None:
            return Output("text", verbosity=verbosity) if verbosity else None
        case _:
            extras["response_format"] = form
            return Output("text", verbosity=verbosity) if verbosity else None


def _schema(form: Mapping[str, Json], verbosity: str | None, extras: dict[str, Json]) -> Output:
    path = "response_format.json_schema"
    held = member(form, "json_schema", dict, "response_format")
    more = rest(form, ("type", "json_schema"))
    if inner := rest(held, ("name", "schema", "description", "strict")):
        more["json_schema"] = inner
    if more:
        extras["response_format"] = more
    return Output(
        "schema",
        schema=optional(held, "schema", dict, path),
        name=optional(held, "name", str, path),
        description=optional(held, "description", str, path),
        strict=optional(held, "strict", bool, path),
        verbosity=verbosity,
    )


# Writing


def encode_sampling(sampling: Sampling, profile: Profile, losses: list[Loss]) -> dict[str, Any]:
    """What of ``sampling`` the model takes, by wire name."""
    written: dict[str, Any] = {}
    for name, value in wire_sampling(sampling, profile).items():
        if refused(name, value, profile):
            losses.append(Loss(name, NAME, reason="the model does not take it"))
        else:
            written[name] = value
    bound = "max_completion_tokens" if profile.completion_tokens else "max_tokens"
    if profile.family == "gpt" and profile.version and written.get(bound, 0) > profile.max_output:
        # Other APIs' clients ask for their own models' maximum; Azure refuses more than the model's
        written[bound] = profile.max_output
        losses.append(Loss("max_tokens", NAME, reason=f"the model writes at most {profile.max_output} tokens"))
    if len(sampling.stop) > MOST_STOPS and "stop" in written:
        written["stop"] = list(sampling.stop[:MOST_STOPS])
        losses.append(Loss("stop", NAME, reason=f"only the first {MOST_STOPS} stop sequences"))
    return written


def wire_sampling(sampling: Sampling, profile: Profile) -> dict[str, Any]:
    bound = "max_completion_tokens" if profile.completion_tokens else "max_tokens"
    logprobs = sampling.logprobs
    members = {
        bound: sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logprobs": None if logprobs is None else True,
        "top_logprobs": logprobs or None,
        "logit_bias": sampling.logit_bias,
        "n": sampling.n,
    }
    return {name: value for name, value in members.items() if value is not None}


def refused(name: str, value: Json, profile: Profile) -> bool:
    """Whether a model's deployment answers 400 to the sampling member ``name`` (SAP AI Core wire facts 3.2: reasoning
    models refuse a temperature other than 1, ``top_p``, penalties). OpenAI has no ``top_k``."""
    if value is None or (name == "temperature" and value == 1):
        return False
    if name == "top_k" and profile.family == "gpt":
        return True
    return ("logprobs" if name == "top_logprobs" else name) in profile.refuses


def encode_effort(ask: ReasoningAsk | None, profile: Profile, tools: bool, losses: list[Loss]) -> str | None:
    """The ``reasoning_effort`` for ``ask``; None leaves the model to its default.

    An effort is taken as it is, or the nearest that the model knows (the lower of two as near); a budget by the one
    table of ``profiles``; ``off`` is ``none``, or the least there is. Where the model refuses effort and tools together
    (SAP AI Core wire facts 3.2) the tools win.
    """
    effort = _wanted(ask)
    if effort is None:
        return None
    if profile.thinking != "effort" and profile.family == "gpt":
        if effort != "none":
            losses.append(Loss("reasoning_effort", NAME, reason="the model does not reason"))
        return None
    if tools and not profile.effort_with_tools:
        why = "this model takes effort and tools together only through the Responses API"
        losses.append(Loss("reasoning_effort", NAME, reason=why))
        return None
    known = nearest_effort(effort, profile.efforts) if profile.efforts else effort
    if known != effort:
        losses.append(Loss("reasoning_effort", NAME, reason=f"'{known}' instead of '{effort[:16]}'"))
    return known


def _wanted(ask: ReasoningAsk | None) -> str | None:
    match ask:
        case None:
            return None
        case ReasoningAsk(effort=str(effort)) if ask.mode != "off":
            return effort
        case ReasoningAsk(mode="off"):
            return "none"
        case ReasoningAsk(budget=int(budget)):
            return effort_of(budget)
        case _:
            return None


def encode_output(
    output: Output | None, profile: Profile, more: Mapping[str, Json], losses: list[Loss], *, own: bool
) -> dict[str, Any]:
    """``response_format`` (with ``more`` of a same-dialect request) and ``verbosity``."""
    written: dict[str, Any] = {}
    match output:
        case Output(kind="schema"):
            if not profile.output_schema:
                losses.append(Loss("response_format", NAME, harmless=False, reason="the model takes no schema"))
            written["response_format"] = _schema_format(output, more, own=own)
        case Output(kind="json"):
            written["response_format"] = {"type": "json_object", **more}
        case Output(kind="text") if output.verbosity is None or more:
            written["response_format"] = {"type": "text", **more}
        case _ if more:
            written["response_format"] = dict(more)
    if output is not None and output.verbosity is not None:
        if profile.family == "gpt" and profile.thinking != "effort":
            losses.append(Loss("verbosity", NAME, reason="the model does not take it"))
        else:
            written["verbosity"] = output.verbosity
    return written


def _schema_format(output: Output, more: Mapping[str, Json], *, own: bool) -> dict[str, Any]:
    """A schema of another dialect is strict only where it keeps OpenAI's rules for that: else it would be a 400."""
    strict = output.strict
    if not own and strict is not False:
        strict = is_strict(output.schema)
    members = {
        "name": output.name or (None if own else "answer"),
        "description": output.description,
        "schema": output.schema,
        "strict": strict,
    }
    held = {name: value for name, value in members.items() if value is not None}
    inner = more.get("json_schema")
    held.update(inner if isinstance(inner, dict) else {})
    return {"type": "json_schema", **more, "json_schema": held}
