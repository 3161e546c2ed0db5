"""Claude on SAP's Bedrock deployments: the Messages API through ``invoke`` (SAP AI Core wire facts, section 4).

The body is Anthropic's with ``anthropic_version``, without ``model`` and ``stream``; betas stand in it, and whatever
Bedrock does not know is a 400, so only known members pass. Client's bytes that need no edit stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from aicore_proxy.backends import Ask, Prepared
from aicore_proxy.backends.amend import Amending, without
from aicore_proxy.backends.bedrock_betas import CONTEXT_MANAGEMENT, EFFORT, MID_SYSTEM, sorted_betas
from aicore_proxy.backends.bedrock_messages import Blocks, Conversation
from aicore_proxy.backends.bedrock_shapes import MARK, Read, at_once, outline, read, taken, unthought_loop
from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.envelope import Envelope, unreadable
from aicore_proxy.protocol.neutral import Encoded, Json, Loss
from aicore_proxy.protocol.profiles import SMALLEST_BUDGET, Profile, budget_of, effort_of, nearest_effort, profile_of

VERSION = "bedrock-2023-05-31"
TARGET = "aws-bedrock"
# Anything but AWS's own event-stream type: SAP then unwraps the frames to SSE (wire facts 4.2)
HEADERS = (("Accept", "application/json"),)
MEMBERS = (
    *("messages", "system", "max_tokens", "stop_sequences", "temperature", "top_p", "top_k", "tools", "tool_choice"),
    *("thinking", "output_config", "context_management", "anthropic_version", "anthropic_beta"),
)
"""What ``invoke`` takes at the top level."""
TOOL = frozenset({"name", "description", "input_schema", "type", "cache_control"})
MOST_MARKS = 4
READ = "aws-bedrock messages"
DEFAULT = (b"null", b"1", b"1.0")
"""A temperature or top_p that asks for nothing."""

_tools = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class AwsBedrock:
    """The executable ``aws-bedrock`` for Claude models."""

    dialect = "anthropic_messages"

    def read_ahead(self, envelope: Envelope) -> Iterator[None]:
        """See Backend."""
        if "messages" in envelope.members and READ not in envelope.memo:
            envelope.memo[READ] = yield from read(envelope.members["messages"])

    def relayed(self, envelope: Envelope, deployment: Deployment, ask: Ask) -> Prepared:
        """A Messages client's own bytes, amended. Raises Fault(MALFORMED) on members of a wrong type."""
        amending = Amending(envelope, TARGET)
        betas = amend(amending, profile_of(deployment.model), ask)
        path = "/invoke-with-response-stream" if ask.stream else "/invoke"
        return Prepared(path, amending.body(), HEADERS, amending.losses, betas)

    def translated(self, encoded: Encoded, deployment: Deployment, ask: Ask) -> Prepared:
        """A body of the Messages encoder, through the same amendments."""
        # The other dialects' ``user``, under the name that their clients know it by
        named = (Loss("user", TARGET, reason="Bedrock takes no metadata"),) if "metadata" in encoded.body else ()
        try:
            body = msgspec.json.encode({name: value for name, value in encoded.body.items() if name != "metadata"})
        except (UnicodeEncodeError, RecursionError, msgspec.MsgspecError) as error:
            raise unreadable(error) from None
        prepared = self.relayed(Envelope.parse(body), deployment, ask)
        return replace(prepared, losses=(*named, *prepared.losses))


def amend(amending: Amending, profile: Profile, ask: Ask) -> tuple[str, ...]:
    """All that SAP's Bedrock demands of a Messages body for a model of ``profile``. The beta flags that then stand in
    it."""
    if ask.refused:  # what needs a flag goes with it
        efforts = () if EFFORT in ask.refused else profile.efforts
        mid_system = profile.mid_system and MID_SYSTEM not in ask.refused
        profile = replace(profile, mid_system=mid_system, efforts=efforts)
    amending.put("anthropic_version", VERSION)
    amending.drop("model")
    amending.drop("stream")
    needed, unthought = _messages(amending, profile)
    _system(amending)
    _tools_and_choice(amending)
    _output_format(amending)
    _thinking(amending, profile, unthought)
    if _output_config(amending, profile):
        needed.append(EFFORT)
    _sampling(amending, profile)
    flags = _betas(amending, profile, ask, needed)
    for name in amending.names():
        if name in amending and name not in MEMBERS:
            amending.drop(name)
            if bytes(amending.raw(name)) != b"null":
                amending.lost(name)
    return flags


# The conversation


def _messages(amending: Amending, profile: Profile) -> tuple[list[str], bool]:
    """Messages. The betas that they need, and whether they stand in a tool loop that began without thinking."""
    if "messages" not in amending:
        return [], False
    raw = amending.raw("messages")
    found: Read | None = amending.envelope.memo.get(READ)
    marked = "cache_control" in amending
    if found is None and not marked and (shaped := taken(raw)) is not None:
        return [], unthought_loop(outline(message) for message in reversed(shaped))
    if found is None:
        found = at_once(raw)
    outlines = [outlined for _, outlined in found if outlined is not None]
    if len(outlines) == len(found) and not marked:
        return [], unthought_loop(reversed(outlines))
    conversation = Conversation(found, amending, mid_system=profile.mid_system)
    control = amending.value("cache_control", dict)
    amending.drop("cache_control")
    if control is not None:
        # Automatic caching, which Bedrock does not know: the mark at the end that it stands for
        raws = [bytes(amending.raw(name)) for name in ("tools", "system", "messages") if name in amending]
        if sum(raw.count(b'"cache_control"') for raw in raws) >= MOST_MARKS:
            amending.lost("cache_control", "there are four marks already")
        else:
            conversation.mark_end(without(control, MARK, "cache_control", amending))
    if (edited := conversation.result()) is not None:
        amending.put("messages", edited)
    unthought = unthought_loop((entry.role, entry.kinds) for entry in reversed(conversation.entries))
    return [MID_SYSTEM] if conversation.mid_system else [], unthought


def _system(amending: Amending) -> None:
    if "system" not in amending:
        return
    if bytes(memoryview(amending.raw("system"))[:1]) == b"[":
        blocks = amending.value("system", list) or []
        edited = Blocks(amending).amended(blocks, "system")
        if edited is not None:
            amending.put("system", edited)
        if not blocks or edited == []:
            amending.drop("system")
    elif not (amending.value("system", str) or "").strip():
        amending.drop("system")


# Tools


def _tools_and_choice(amending: Amending) -> None:
    """Only custom tools with the members that Bedrock knows; a forced tool that is gone refuses the request."""
    if "tools" not in amending:
        return
    try:
        tools = _tools.decode(amending.raw("tools"))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise unreadable(error, "tools") from None
    kept: list[Mapping[str, Json]] = []
    gone: list[str] = []
    changed = False
    for tool in tools:
        edited = _tool(tool, amending)
        changed = changed or edited is not tool
        if edited is None:
            gone.append(_said(tool.get("name")) or _said(tool.get("type")) or "unknown")
        else:
            kept.append(edited)
    choice = amending.value("tool_choice", dict) or {}
    for name in gone:
        forced = choice.get("name") == name or (choice.get("type") == "any" and not kept)
        amending.lost(f"tools.{name}", "Bedrock has no server tools", harmless=not forced)
    if changed or not kept:
        amending.put("tools", kept)
    if not kept:
        amending.drop("tools")
        amending.drop("tool_choice")


def _tool(tool: Mapping[str, msgspec.Raw], amending: Amending) -> Mapping[str, Json] | None:
    """``tool`` itself if it can stay, an edited one, or None for one of a server's or a vendor's own."""
    if "type" in tool and bytes(tool["type"]) not in (b'"custom"', b"null"):
        return None
    edited: Mapping[str, Json] = tool
    if not tool.keys() <= TOOL:
        for name in tool.keys() - TOOL:
            if bytes(tool[name]) not in (b"null", b"false"):
                amending.lost(f"tools.{name}")
        edited = {name: raw for name, raw in tool.items() if name in TOOL}
    control = tool.get("cache_control")
    if control is not None and bytes(control)[:1] == b"{" and b'"scope"' in bytes(control):
        mark = without(msgspec.json.decode(control), MARK, "cache_control", amending)
        edited = {**edited, "cache_control": mark}
    schema = _schema(tool.get("input_schema"))
    return edited if schema is None else {**edited, "input_schema": schema}


def _schema(raw: msgspec.Raw | None) -> Mapping[str, Json] | None:
    """An ``input_schema`` with the ``type`` that is demanded; None if it has it, or is no object."""
    if raw is None:
        return {"type": "object", "properties": {}}
    if bytes(raw)[:1] != b"{":
        return None
    schema: dict[str, Any] = dict(_members.decode(raw))
    return None if bytes(schema.get("type", b"")) == b'"object"' else {**schema, "type": "object"}


def _said(raw: msgspec.Raw | None) -> str:
    value = None if raw is None else msgspec.json.decode(raw)
    return value if isinstance(value, str) else ""


# How to answer


def _output_format(amending: Amending) -> None:
    """``output_format`` is the older place of ``output_config.format``."""
    form = amending.value("output_format", dict)
    amending.drop("output_format")
    if form is not None:
        config = amending.value("output_config", dict) or {}
        amending.put("output_config", {"format": form, **config})


def _thinking(amending: Amending, profile: Profile, unthought: bool) -> None:
    thinking = amending.value("thinking", dict)
    if thinking is None:
        return
    edited: dict[str, Json] | None = dict(thinking)
    kind = thinking.get("type")
    if profile.thinking is None:
        edited = None
        if kind != "disabled":
            amending.lost("thinking", "the model does not think")
    elif kind == "enabled" and profile.thinking == "adaptive":
        edited = {"type": "adaptive"}
        amending.lost("thinking.budget_tokens", "the model thinks adaptively")
        _imply_effort(amending, thinking.get("budget_tokens"), profile)
    elif kind == "adaptive" and profile.thinking == "budget" and _no_room(amending):
        edited = {"type": "disabled"}
        amending.lost("thinking", "max_tokens leaves no room for the smallest budget")
    elif kind == "adaptive" and profile.thinking == "budget":
        edited = {"type": "enabled", "budget_tokens": _budget(amending)}
        amending.lost("thinking.type", "the model thinks within a budget")
    elif kind not in ("enabled", "adaptive", "disabled"):
        edited = None
        amending.lost(f"thinking.{kind}")
    if unthought and edited is not None and edited.get("type") == "enabled":
        edited = {"type": "adaptive" if profile.thinking == "either" else "disabled"}
        amending.lost("thinking", "the running tool loop began without thinking")
    # "thinking.adaptive.…: Extra inputs are not permitted": display, and opencode's block_binding
    for name in (name for name in thinking if name not in ("type", "budget_tokens")):
        amending.lost(f"thinking.{name}")
        if edited is not None:
            edited.pop(name, None)
    if edited is None:
        amending.drop("thinking")
    elif edited != thinking:
        amending.put("thinking", edited)


def _imply_effort(amending: Amending, budget: Json, profile: Profile) -> None:
    config = amending.value("output_config", dict) or {}
    if "effort" not in config and isinstance(budget, int) and profile.efforts:
        amending.put("output_config", {**config, "effort": nearest_effort(effort_of(budget), profile.efforts)})


def _no_room(amending: Amending) -> bool:
    """Whether no thinking budget fits below ``max_tokens``, as in the probes of coding tools."""
    bound = amending.value("max_tokens", int)
    return bound is not None and bound <= SMALLEST_BUDGET


def _budget(amending: Amending) -> int:
    config = amending.value("output_config", dict) or {}
    effort = config.get("effort")
    return budget_of(effort if isinstance(effort, str) else "medium", amending.value("max_tokens", int))


def _output_config(amending: Amending, profile: Profile) -> bool:
    """Effort and format where the model takes them. Whether the effort's beta is needed."""
    config = amending.value("output_config", dict)
    if config is None:
        return False
    edited: dict[str, Json] = {}
    for name, value in config.items():
        if name == "effort" and isinstance(value, str):
            if (effort := nearest_effort(value, profile.efforts)) is not None:
                edited["effort"] = effort
            if effort != value:
                amending.lost("output_config.effort", f"the model takes {effort}" if effort else "")
        elif name == "format" and value is not None:
            if profile.output_schema:
                edited["format"] = value
            else:
                amending.lost("output_config.format", "the model has no structured output", harmless=False)
        elif value is not None:
            amending.lost(f"output_config.{name}")
    if not edited:
        amending.drop("output_config")
    elif edited != config:
        amending.put("output_config", edited)
    return "effort" in edited


def _sampling(amending: Amending, profile: Profile) -> None:
    for name in ("temperature", "top_p", "top_k"):
        if name in amending and name in profile.refuses:
            if bytes(amending.raw(name)) not in DEFAULT or name == "top_k":
                amending.lost(name, "the model refuses it")
            amending.drop(name)
    if profile.one_of_sampling and "temperature" in amending and "top_p" in amending:
        # 1 is what each is anyway
        default = next((name for name in ("temperature", "top_p") if bytes(amending.raw(name)) in DEFAULT), None)
        amending.drop(default or "top_p")
        if default is None:
            amending.lost("top_p", "not together with temperature")


def _betas(amending: Amending, profile: Profile, ask: Ask, needed: list[str]) -> tuple[str, ...]:
    """The flags of header and body, as far as they are known as accepted, and the members that depend on them. What
    then stands in the body."""
    body = amending.value("anthropic_beta", list) or []
    flags = [*ask.betas, *(flag for flag in body if isinstance(flag, str)), *needed]
    accepted, refused = sorted_betas(flags, profile, ask.refused)
    for flag in refused:
        amending.lost(f"anthropic-beta.{flag}")
    if "context_management" in amending and CONTEXT_MANAGEMENT not in accepted:
        amending.drop("context_management")
        amending.lost("context_management")
    if accepted != body:
        amending.put("anthropic_beta", accepted)
    if not accepted:
        amending.drop("anthropic_beta")
    return tuple(accepted)
