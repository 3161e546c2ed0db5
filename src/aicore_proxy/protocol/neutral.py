"""The neutral form: the one place where dialects meet.

Every dialect's codec reads its wire form into these values and writes them out again; no codec knows another.
All values are immutable. Members that a codec does not know go to ``extras`` of the node they stood on (wire names,
wire values), blocks that it does not know to ``Foreign``: encoders of the same dialect write them back, and
``clearing.cleared`` removes them, with a ``Loss`` each, before another dialect writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field

Json = Any
"""A decoded JSON value. The only ``Any`` in the protocol room."""
Extras = Mapping[str, Json]
NOTHING: Extras = {}

Family = str
"""Who trained the model: ``claude``, ``gpt``, ``gemini``, or the vendor's name by rule."""


class Seal(Struct, frozen=True):
    """An opaque token that only the model family that minted it can read: a thinking signature, encrypted reasoning,
    a thought signature. ``value`` is exactly what the family's own wire carries."""

    family: Family
    value: str


class CacheMark(Struct, frozen=True):
    """A prompt-cache breakpoint after the node that bears it. ``ttl`` as Anthropic writes it (``5m``, ``1h``)."""

    ttl: str | None = None


# Parts of a turn


class Text(Struct, frozen=True, tag=True):
    text: str
    cache: CacheMark | None = None
    extras: Extras = NOTHING


class Media(Struct, frozen=True, tag=True):
    """An image, document (PDF, plain text), audio or video. Exactly one of ``data`` (base64, standard alphabet),
    ``text`` (a plain-text document), ``url`` and ``file_id`` is set."""

    kind: Literal["image", "document", "audio", "video"]
    media_type: str | None = None
    data: str | None = None
    text: str | None = None
    url: str | None = None
    file_id: str | None = None
    name: str | None = None
    detail: str | None = None
    cache: CacheMark | None = None
    extras: Extras = NOTHING


class Reasoning(Struct, frozen=True, tag=True):
    """What the model thought. ``text`` may be empty where only the seal came (redacted thinking: ``redacted``)."""

    text: str = ""
    seal: Seal | None = None
    redacted: bool = False
    extras: Extras = NOTHING


class ToolCall(Struct, frozen=True, tag=True):
    """The model asks for a tool. ``arguments`` is JSON text as received, ``""`` where there was none (meaning ``{}``).
    ``kind``: ``function``, or ``custom`` for tools whose ``arguments`` are free text."""

    id: str
    name: str
    arguments: str = ""
    kind: Literal["function", "custom"] = "function"
    seal: Seal | None = None
    cache: CacheMark | None = None
    extras: Extras = NOTHING


class ToolResult(Struct, frozen=True, tag=True):
    """What a tool answered. ``name`` is the called tool's, where the dialect says it (Gemini)."""

    call_id: str
    content: tuple[Text | Media | Foreign, ...] = ()
    is_error: bool = False
    name: str | None = None
    cache: CacheMark | None = None
    extras: Extras = NOTHING


class Refusal(Struct, frozen=True, tag=True):
    text: str
    extras: Extras = NOTHING


class Foreign(Struct, frozen=True, tag=True):
    """A block that only its own dialect understands, kept whole. ``path``: where it stood in a client's request."""

    dialect: str
    block: Mapping[str, Json]
    path: str = ""


Part = Text | Media | Reasoning | ToolCall | ToolResult | Refusal | Foreign


class Turn(Struct, frozen=True):
    """One message. Tool results stand in turns of role ``user``. System texts are turns, wherever they stand."""

    role: Literal["system", "developer", "user", "assistant"]
    parts: tuple[Part, ...]
    name: str | None = None
    extras: Extras = NOTHING


# What is asked for


class Tool(Struct, frozen=True):
    """A tool the model may call. ``schema`` is its parameters' JSON Schema (``None``: takes nothing).
    ``kind`` ``foreign``: a server-side or vendor-defined tool that only ``dialect`` understands, kept in ``block``. A
    function with a ``dialect`` was declared in that dialect's deprecated form, in which its calls are answered."""

    name: str
    description: str | None = None
    schema: Mapping[str, Json] | None = None
    kind: Literal["function", "custom", "foreign"] = "function"
    strict: bool | None = None
    cache: CacheMark | None = None
    dialect: str | None = None
    block: Mapping[str, Json] = NOTHING
    extras: Extras = NOTHING


class ToolChoice(Struct, frozen=True):
    """``tool``: ``name`` must be called; ``required``: any of ``allowed`` (empty: of all) must.
    ``parallel`` ``False``: at most one call per answer."""

    mode: Literal["auto", "none", "required", "tool"] | None = None
    name: str | None = None
    allowed: tuple[str, ...] = ()
    parallel: bool | None = None
    extras: Extras = NOTHING


class Sampling(Struct, frozen=True):
    """Numbers that steer the choice of tokens, and bounds. ``None``: not asked for. ``n``: candidates wanted."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: int | None = None
    logit_bias: Mapping[str, float] | None = None
    n: int | None = None


class ReasoningAsk(Struct, frozen=True):
    """How much to think. ``mode`` ``off``: not at all; ``on``: within ``budget`` tokens; ``adaptive``: as the model
    sees fit. ``effort``: ``none``, ``minimal``, ``low``, ``medium``, ``high``, ``xhigh``, ``max``.
    ``visible``: whether the thoughts (or their summary) shall be shown."""

    mode: Literal["off", "on", "adaptive"] | None = None
    effort: str | None = None
    budget: int | None = None
    visible: bool | None = None
    extras: Extras = NOTHING


class Output(Struct, frozen=True):
    """What form the answer takes: ``text``, ``json`` (any object) or ``schema`` (JSON that fits ``schema``)."""

    kind: Literal["text", "json", "schema"]
    schema: Mapping[str, Json] | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    verbosity: str | None = None


class Request(Struct, frozen=True):
    """A conversation and what is wanted next. ``model`` as the client named it. ``stream_usage``: a streaming Chat
    client asked for the closing usage chunk."""

    source: str
    model: str
    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    sampling: Sampling = Sampling()
    reasoning: ReasoningAsk | None = None
    output: Output | None = None
    stream: bool = False
    stream_usage: bool = False
    user: str | None = None
    cache: CacheMark | None = None
    extras: Extras = NOTHING


# What comes back


class Usage(Struct, frozen=True):
    """Tokens. ``input`` and ``output`` are everything; the others are subsets of them. ``estimated``: not the
    upstream's own count."""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    cache_write_1h: int = 0
    estimated: bool = False


FinishReason = Literal["stop", "length", "tool_calls", "stop_sequence", "content_filter", "refusal", "pause", "context"]
"""Why an answer ended. ``pause``: the model wants to go on (Anthropic ``pause_turn``). ``context``: window full."""


class Candidate(Struct, frozen=True):
    parts: tuple[Part, ...]
    finish: FinishReason = "stop"
    stop_sequence: str | None = None
    extras: Extras = NOTHING


class Response(Struct, frozen=True):
    """One answer; several ``candidates`` only where ``n`` asked for them. ``created`` in Unix seconds (0: unknown)."""

    id: str
    model: str
    candidates: tuple[Candidate, ...]
    usage: Usage | None = None
    created: int = 0
    extras: Extras = NOTHING


# Events of a stream. ``index`` counts a candidate's parts from 0, in the order of their Open.


class Start(Struct, frozen=True):
    """First of all. ``usage``: what the upstream knows at the start (Anthropic's input tokens)."""

    id: str
    model: str
    usage: Usage | None = None
    created: int = 0
    extras: Extras = NOTHING


class Open(Struct, frozen=True):
    """A part begins. Its text or arguments follow as Deltas; a Media, Refusal or Foreign part comes whole."""

    index: int
    part: Part
    candidate: int = 0


class Delta(Struct, frozen=True):
    """More text (Text, Reasoning, Refusal) or argument JSON (ToolCall) of an open part."""

    index: int
    text: str
    candidate: int = 0


class Sealed(Struct, frozen=True):
    """The seal of an open part."""

    index: int
    seal: Seal
    candidate: int = 0


class Annotated(Struct, frozen=True):
    """A wire fragment about an open part that only its own dialect understands (a citation, log probabilities)."""

    index: int
    dialect: str
    block: Mapping[str, Json]
    candidate: int = 0


class Close(Struct, frozen=True):
    index: int
    candidate: int = 0


class Finish(Struct, frozen=True):
    """A candidate ended. The last Finish, or a later Tally, carries the usage."""

    reason: FinishReason
    usage: Usage | None = None
    stop_sequence: str | None = None
    candidate: int = 0
    extras: Extras = NOTHING


class Tally(Struct, frozen=True):
    """Usage that came apart from any Finish: OpenAI's closing usage chunk, Gemini's counts on the way."""

    usage: Usage


class Done(Struct, frozen=True):
    """The upstream said that the stream is complete (``[DONE]``, ``message_stop``, an orderly end after a finish)."""


class Failure(Struct, frozen=True):
    """The stream failed. ``fault`` is an :class:`aicore_proxy.protocol.fault.Fault`."""

    fault: Any


Event = Start | Open | Delta | Sealed | Annotated | Close | Finish | Tally | Done | Failure


# What a target cannot take


class Loss(Struct, frozen=True):
    """``field`` (dotted wire path or neutral name) could not be taken by ``dialect``. A harmless one is dropped and
    named in a header; any other makes a 400 that names the field."""

    field: str
    dialect: str
    harmless: bool = True
    reason: str = ""


class Undo(Struct, frozen=True):
    """What an answer must have turned back: tool names that the target's alphabet could not hold (target -> client),
    a tool that stands for structured output (its calls become text), tools whose calls are ``custom``, and a text that
    is to be JSON alone (``bare_json``)."""

    tool_names: Mapping[str, str] = field(default_factory=dict)
    output_tool: str | None = None
    custom_tools: frozenset[str] = frozenset()
    bare_json: bool = False


class Encoded(Struct, frozen=True):
    """An upstream request body as a JSON object, what was lost on the way, and what the answer must turn back."""

    body: dict[str, Json]
    losses: tuple[Loss, ...] = ()
    undo: Undo = Undo()


def called_names(turns: Sequence[Turn]) -> dict[str, str]:
    """Call id -> tool name, over all calls in ``turns``: for dialects whose results do not repeat the name."""
    return {part.id: part.name for turn in turns for part in turn.parts if isinstance(part, ToolCall)}
