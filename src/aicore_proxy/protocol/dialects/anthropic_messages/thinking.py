"""How much a Claude model is told to think, and what that rules out.

Facts of the Messages API and of SAP AI Core (wire facts 4.3): models up to 4.5 take ``enabled`` with a budget of at
least 1,024 and below ``max_tokens``, 4.6 either, from 4.7 only ``adaptive`` with an effort; no forced tool and no
prefill while thinking; with ``enabled`` a tool loop must have begun with a thinking block.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from aicore_proxy.protocol.dialects.anthropic_messages.blocks import Drafting
from aicore_proxy.protocol.dialects.anthropic_messages.conversation import Message, in_unthought_loop
from aicore_proxy.protocol.neutral import Json, ReasoningAsk, Request
from aicore_proxy.protocol.profiles import SMALLEST_BUDGET, Profile, budget_of, effort_of, nearest_effort


class Thinking(Struct):
    """``config``: the member ``thinking``. ``effort``: of ``output_config``. ``max_tokens`` may have grown."""

    max_tokens: int
    config: dict[str, Json] | None = None
    effort: str | None = None

    @property
    def on(self) -> bool:
        return self.config is not None and self.config.get("type") in ("enabled", "adaptive", "between_tools")


def thinking_for(
    request: Request,
    profile: Profile,
    messages: Sequence[Message],
    draft: Drafting,
    max_tokens: int,
    *,
    forced: bool,
    prefill: bool,
) -> Thinking:
    """What ``request`` asks for, as the model takes it in this conversation."""
    ask = request.reasoning
    if ask is None:
        return Thinking(max_tokens)
    asked = _asked(ask, profile, draft, max_tokens)
    if asked.on and forced:
        _off(asked, draft, "not together with a forced tool")
    if asked.on and prefill:
        _off(asked, draft, "not together with a prefill")
    if _enabled(asked) and (draft.cut_thoughts or not draft.own) and in_unthought_loop(messages):
        _loosen(asked, profile, draft)
    _fit_budget(asked, draft)
    if asked.on:
        _show(asked, ask, profile, draft)
    return asked


def _asked(ask: ReasoningAsk, profile: Profile, draft: Drafting, max_tokens: int) -> Thinking:
    """Mode, budget and effort in the model's own terms, before what the conversation rules out."""
    out = Thinking(max_tokens)
    mode, effort = ask.mode, ask.effort
    if effort == "none":
        mode, effort = "off", None
    elif mode is None and effort and not draft.own:
        # For Anthropic an effort alone is no wish to think; for all others it is nothing else
        mode = "adaptive"
    if mode is None and "type" in ask.extras:
        out.config = {}
    elif mode == "off":
        out.config = {"type": "disabled"} if profile.thinking else None
    elif mode is not None and profile.thinking is None:
        draft.lost("thinking", "the model does not think")
        effort = effort if draft.own else None
    elif mode is not None and (profile.thinking == "adaptive" or (profile.thinking == "either" and mode == "adaptive")):
        out.config = {"type": "adaptive"}
        if effort is None and ask.budget is not None:
            effort = effort_of(ask.budget)
    elif mode is not None:
        out.config = {"type": "enabled", "budget_tokens": ask.budget or budget_of(effort or "medium", max_tokens)}
        if not draft.own or (ask.budget is None and not profile.efforts):
            effort = None
    out.effort = _offered(effort, profile, draft)
    return out


def _offered(effort: str | None, profile: Profile, draft: Drafting) -> str | None:
    """The nearest effort that the model takes."""
    if effort is None:
        return None
    nearest = nearest_effort(effort, profile.efforts)
    if nearest != effort:
        draft.lost("output_config.effort", f"the model takes {nearest}" if nearest else "the model takes no effort")
    return nearest


def _enabled(asked: Thinking) -> bool:
    return asked.config is not None and asked.config.get("type") == "enabled"


def _loosen(asked: Thinking, profile: Profile, draft: Drafting) -> None:
    """A tool loop that began without Claude's thinking bears only ``adaptive``, or none."""
    assert asked.config is not None
    reason = "the running tool loop began without thinking"
    if profile.thinking != "either":
        _off(asked, draft, reason)
        return
    draft.lost("thinking.budget_tokens", reason)
    asked.effort = asked.effort or nearest_effort(effort_of(asked.config["budget_tokens"]), profile.efforts)
    asked.config = {"type": "adaptive"}


def _off(asked: Thinking, draft: Drafting, reason: str) -> None:
    draft.lost("thinking", reason)
    asked.config = {"type": "disabled"}


def _fit_budget(asked: Thinking, draft: Drafting) -> None:
    """1,024 <= budget < max_tokens; where the answer may not even be that long, it may be longer by the budget."""
    if asked.config is None or not _enabled(asked):
        return
    budget = max(SMALLEST_BUDGET, asked.config["budget_tokens"])
    if asked.max_tokens <= SMALLEST_BUDGET:
        budget = SMALLEST_BUDGET
        asked.max_tokens += budget
        draft.lost("max_tokens", f"raised by the smallest thinking budget of {budget}")
    elif budget >= asked.max_tokens:
        budget = asked.max_tokens - 1
        draft.lost("thinking.budget_tokens", "below max_tokens")
    asked.config["budget_tokens"] = budget


def _show(asked: Thinking, ask: ReasoningAsk, profile: Profile, draft: Drafting) -> None:
    """``display``: models that think adaptively show nothing by default; older ones always show a summary."""
    assert asked.config is not None
    if ask.visible is not None and (draft.own or profile.thinking == "adaptive"):
        asked.config["display"] = "summarized" if ask.visible else "omitted"
    asked.config |= ask.extras
