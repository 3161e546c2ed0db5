"""What a model answers: made from what was asked and from the script, before any dialect writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec
from msgspec import Struct

from aicore_proxy.simulator.fitting import fit
from aicore_proxy.simulator.scripts import Script

QUOTED = 20_000
ANY_OBJECT = {"type": "object"}
THOUGHT = "The request is simulated, so a short answer is enough."
_PIECE = re.compile(r"\s*\S+(?:\s+\S+)?\s*|\s+")


class ToolSpec(Struct, frozen=True):
    """An offered tool: name and the JSON Schema of its arguments."""

    name: str
    schema: Any


class Prompt(Struct):
    """What the answer depends on. ``choice`` is auto, none, any or the name of the tool that must be called;
    ``results``: the texts of the tool results if they are the last turn; ``schema``: what the answer's JSON must fit
    (``ANY_OBJECT``: any)."""

    model: str
    stream: bool
    last_user: str = ""
    results: list[str] = msgspec.field(default_factory=list)
    tools: list[ToolSpec] = msgspec.field(default_factory=list)
    choice: str = "auto"
    schema: Any = None
    thinking: bool = False
    max_tokens: int | None = None
    stop: list[str] = msgspec.field(default_factory=list)
    input_tokens: int = 0
    cache_read: int = 0
    cache_write: int = 0
    candidates: int = 1
    include_usage: bool = False


class Block(Struct):
    """``think``, ``text`` or ``call`` (``text``: its arguments as JSON). ``count`` > 0: that many generated pieces of
    ``piece_bytes`` bytes (0: short numbered ones) in place of ``text``."""

    kind: Literal["think", "text", "call"]
    text: str = ""
    name: str = ""
    id: str = ""
    count: int = 0
    piece_bytes: int = 0


class Answer(Struct):
    """The blocks in order; ``finish`` is stop, stop_sequence, length, calls, content_filter or refusal."""

    blocks: list[Block]
    finish: str
    stop_sequence: str | None = None
    usage: bool = True
    hidden: int = 0
    """Tokens of thoughts that are not shown."""

    @property
    def output_tokens(self) -> int:
        """All of them, reasoning included."""
        return self.hidden + sum(tokens_of(block) for block in self.blocks)

    @property
    def reasoning_tokens(self) -> int:
        return self.hidden + sum(tokens_of(block) for block in self.blocks if block.kind == "think")


def tokens(text: str) -> int:
    """A simple estimate, the same for input and output: four bytes a token."""
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4


def tokens_of(block: Block) -> int:
    """The estimate for a block."""
    if block.count:
        return block.count * (max(block.piece_bytes // 4, 1) if block.piece_bytes else 2)
    return tokens(block.text) + tokens(block.name)


@lru_cache(maxsize=64)
def _padding(size: int) -> str:
    return ("lorem ipsum " * (size // 12 + 1))[:size]


def pieces(block: Block) -> Iterator[str]:
    """A block as it is streamed, piece by piece; joined they are the whole."""
    if block.count:
        padding = _padding(block.piece_bytes) if block.piece_bytes else ""
        for number in range(block.count):
            yield padding or f"e{number} "
    elif block.kind == "call":
        step = max(len(block.text) // 3, 8)
        for start in range(0, len(block.text), step):
            yield block.text[start : start + step]
    else:
        yield from _PIECE.findall(block.text)


def whole(block: Block) -> str:
    """A block's text at once."""
    return "".join(pieces(block)) if block.count else block.text


def make(prompt: Prompt, script: Script, *, reveals_reasoning: bool = True) -> Answer:
    """The answer. ``reveals_reasoning``: whether the request wants to see thoughts; else they only count as tokens."""
    blocks: list[Block] = []
    if script.think is not None:
        blocks.append(Block("think", script.think))
    elif prompt.thinking and reveals_reasoning:
        blocks.append(Block("think", THOUGHT))
    calls = [] if prompt.results else _calls(prompt, script)
    text = _text(prompt, script, bool(calls))
    if text is not None:
        blocks.append(text)
    blocks += calls
    hidden = tokens(THOUGHT) if prompt.thinking and not reveals_reasoning and script.think is None else 0
    answer = Answer(blocks, "calls" if calls else "stop", usage=script.usage is not False, hidden=hidden)
    _stop(answer, prompt)
    if script.text is None and script.events is None:
        _limit(answer, prompt)
    if script.finish is not None and script.finish != "stop":
        answer.finish = script.finish
    return answer


def _calls(prompt: Prompt, script: Script) -> list[Block]:
    if isinstance(script.calls, list):
        return [Block("call", _arguments(call.arguments), call.name, call.id) for call in script.calls]
    if script.calls == "auto" and prompt.tools and prompt.choice == "auto":
        return [_fitting_call(prompt.tools[0])]
    if prompt.choice in ("auto", "none") or not prompt.tools:
        return []
    named = next((tool for tool in prompt.tools if tool.name == prompt.choice), prompt.tools[0])
    return [_fitting_call(named)]


def _fitting_call(tool: ToolSpec) -> Block:
    return Block("call", _arguments(fit(tool.schema)), tool.name)


def _arguments(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _text(prompt: Prompt, script: Script, calling: bool) -> Block | None:
    if script.events is not None:
        return Block("text", count=script.events, piece_bytes=script.event_bytes or 0) if script.events else None
    quote = "\n".join(prompt.results)[:QUOTED]
    if script.text is not None and not (prompt.results and script.calls is not None):
        return Block("text", script.text) if script.text else None
    if calling:
        return None
    if prompt.schema is not None and prompt.schema != ANY_OBJECT:
        return Block("text", msgspec.json.encode(fit(prompt.schema, quote)).decode())
    words = f"The tool answered: {quote}" if prompt.results else _words(prompt)
    return Block("text", words if prompt.schema is None else msgspec.json.encode({"answer": words}).decode())


def _words(prompt: Prompt) -> str:
    asked = " ".join(prompt.last_user.split())
    shown = asked if len(asked) <= 200 else asked[:200] + "…"
    return f"This is {prompt.model}, simulated. You said: {shown}" if shown else f"This is {prompt.model}, simulated."


def _stop(answer: Answer, prompt: Prompt) -> None:
    """Stop sequences, in text."""
    for number, block in enumerate(answer.blocks):
        if block.kind != "text" or block.count:
            continue
        found = [(block.text.find(stop), stop) for stop in prompt.stop if stop and stop in block.text]
        if found:
            end, answer.stop_sequence = min(found)
            block.text = block.text[:end]
            answer.finish = "stop_sequence"
            del answer.blocks[number + 1 :]
            return


def _limit(answer: Answer, prompt: Prompt) -> None:
    """The limit of tokens, for answers that no script has told; a call that does not fit is left out."""
    if prompt.max_tokens is None:
        return
    answer.hidden = min(answer.hidden, prompt.max_tokens)
    left = prompt.max_tokens - answer.hidden
    for number, block in enumerate(answer.blocks):
        used = tokens_of(block)
        if used > left:
            if block.kind != "call":
                block.text = block.text.encode()[: 4 * left].decode("utf-8", "ignore")
            del answer.blocks[number + (1 if block.kind != "call" and left > 0 else 0) :]
            answer.finish, answer.stop_sequence = "length", None
            return
        left -= used


def joined(values: Sequence[str]) -> str:
    """Texts of one turn's parts, a line each."""
    return "\n".join(value for value in values if value)
