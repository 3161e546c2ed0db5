"""An upstream's events as the client's request meant them.

What a request needed on its way to another dialect is turned back on the way home: tool names, a tool that stood for
structured output, free-text tools. What only the upstream's dialect understands stays behind.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from aicore_proxy.protocol.json_mode import Unfenced
from aicore_proxy.protocol.neutral import (
    NOTHING,
    Annotated,
    Close,
    Delta,
    Event,
    Finish,
    Foreign,
    Open,
    Part,
    Sealed,
    Start,
    Text,
    ToolCall,
    Undo,
)

Place = tuple[int, int]
"""A part of a stream: candidate, index."""


class Restoring:
    """Turns back one answer. Owned by its pipe. ``source`` and ``target``: names of the dialects that it came in and
    goes out in; ``fresh_id``: what calls are named by where the upstream gave them no id."""

    __slots__ = ("_bare", "_called", "_fresh_id", "_gone", "_outputs", "_same", "_target", "_texts", "_undo")

    def __init__(self, undo: Undo, source: str, target: str, fresh_id: str) -> None:
        self._undo = undo
        self._same = source == target
        self._target = target
        self._fresh_id = fresh_id
        self._gone: set[Place] = set()
        self._outputs: dict[int, Place] = {}
        self._called: set[int] = set()
        self._texts: dict[Place, list[str]] = {}
        self._bare: dict[Place, Unfenced] = {}

    def __call__(self, event: Event) -> Sequence[Event]:
        """What the client gets for ``event``: usually itself."""
        match event:
            case Delta():
                return self._delta(event) if self._gone or self._texts or self._bare else (event,)
            case Open(part=part):
                return self._open(event, part)
            case Close(index=index, candidate=candidate):
                return () if (candidate, index) in self._gone else (*self._flushed(event), self._moved(event))
            case Sealed(index=index, candidate=candidate):
                lost = (candidate, index) in self._gone or self._outputs.get(candidate) == (candidate, index)
                return () if lost else (self._moved(event),)
            case Annotated(index=index, candidate=candidate, dialect=dialect):
                lost = dialect != self._target or (candidate, index) in self._gone
                return () if lost else (self._moved(event),)
            case Finish():
                return (*self._all_flushed(event.candidate), self._finish(event))
            case Start() if event.extras and not self._same:
                return (replace(event, extras=NOTHING),)
            case _:
                return (event,)

    def _open(self, event: Open, part: Part) -> Sequence[Event]:
        place = (event.candidate, event.index)
        match part:
            case ToolCall() if self._undo.output_tool is not None and part.name == self._undo.output_tool:
                return self._output(event, part)
            case ToolCall():
                self._called.add(event.candidate)
                part = self._call(part, place)
            case Foreign(dialect=dialect) if dialect != self._target:
                self._gone.add(place)
                return ()
            case Foreign():
                pass
            case Text() if self._undo.bare_json:
                self._bare[place] = unfenced = Unfenced()
                part = Text(unfenced.feed(part.text))
            case _ if part.extras and not self._same:
                part = replace(part, extras=NOTHING)
        return (self._moved(replace(event, part=part)),)

    def _call(self, call: ToolCall, place: Place) -> ToolCall:
        """A call under the client's name for the tool, and with an id."""
        name = self._undo.tool_names.get(call.name, call.name)
        candidate, index = place
        call_id = call.id or f"call_{self._fresh_id}_{candidate}_{index}"
        extras = call.extras if self._same else NOTHING
        call = replace(call, id=call_id, name=name, extras=extras)
        if call.kind == "function" and self._undo.custom_tools & {name, call.name}:
            self._texts[place] = [call.arguments]
            call = replace(call, kind="custom", arguments="")
        return call

    def _output(self, event: Open, call: ToolCall) -> Sequence[Event]:
        """The first call of the output tool as text; another one would spoil the JSON."""
        place = (event.candidate, event.index)
        if event.candidate in self._outputs:
            self._gone.add(place)
            return ()
        self._outputs[event.candidate] = place
        return (self._moved(replace(event, part=Text(call.arguments))),)

    def _delta(self, event: Delta) -> Sequence[Event]:
        place = (event.candidate, event.index)
        if place in self._gone:
            return ()
        if place in self._texts:
            self._texts[place].append(event.text)
            return ()
        if place in self._bare:
            text = self._bare[place].feed(event.text)
            return (self._moved(replace(event, text=text)),) if text else ()
        return (self._moved(event),)

    def _flushed(self, event: Close) -> Sequence[Event]:
        """What was held back of a part: the text of a custom call, out of the arguments that held it; the end of a
        text that is to be JSON alone."""
        place = (event.candidate, event.index)
        text = ""
        if place in self._texts:
            text = free_text("".join(self._texts.pop(place)))
        elif place in self._bare:
            text = self._bare.pop(place).end()
        return (self._moved(Delta(event.index, text, event.candidate)),) if text else ()

    def _all_flushed(self, candidate: int) -> Sequence[Event]:
        """What was held back of parts that nobody closed."""
        left = [place for place in (*self._texts, *self._bare) if place[0] == candidate]
        return [event for _, index in left for event in self._flushed(Close(index, candidate))]

    def _finish(self, event: Finish) -> Finish:
        reason = event.reason
        if reason == "tool_calls" and event.candidate in self._outputs and event.candidate not in self._called:
            reason = "stop"
        if reason is event.reason and (self._same or not event.extras):
            return event
        return replace(event, reason=reason, extras=event.extras if self._same else NOTHING)

    def _moved(self, event: Open | Delta | Sealed | Annotated | Close) -> Event:
        """``event`` under the number that its part has without those left out."""
        if not self._gone:
            return event
        before = sum(1 for candidate, index in self._gone if candidate == event.candidate and index < event.index)
        return replace(event, index=event.index - before)


def free_text(arguments: str) -> str:
    """The text in the arguments of a function that stands for a free-text tool: an object of one string member."""
    try:
        held = msgspec.json.decode(arguments)
    except (msgspec.MsgspecError, RecursionError):
        return arguments
    match held:
        case dict() if len(held) == 1 and isinstance(text := next(iter(held.values())), str):
            return text
        case _:
            return arguments
