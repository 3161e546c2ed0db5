"""Events of a stream and a whole answer, each made from the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import (
    NOTHING,
    Annotated,
    Candidate,
    Close,
    Delta,
    Done,
    Event,
    Extras,
    Failure,
    Finish,
    Foreign,
    Json,
    Open,
    Part,
    Reasoning,
    Refusal,
    Response,
    Seal,
    Sealed,
    Start,
    Tally,
    Text,
    ToolCall,
)


class _Growing(Struct):
    """A part while its events come."""

    part: Part
    texts: list[str]
    seal: Seal | None = None
    extras: Extras = NOTHING

    def whole(self) -> Part:
        part = self.part
        added = "".join(self.texts)
        match part:
            case Text() | Refusal():
                part = replace(part, text=part.text + added)
            case Reasoning():
                part = replace(part, text=part.text + added, seal=self.seal or part.seal)
            case ToolCall():
                part = replace(part, arguments=part.arguments + added, seal=self.seal or part.seal)
            case _:
                pass
        if self.extras and not isinstance(part, Foreign):
            part = replace(part, extras=merged(part.extras, self.extras))
        return part


def fold(events: Iterable[Event]) -> Response:
    """The answer that a stream tells. Raises the Fault of a Failure, and Fault(UPSTREAM_FAILED) if a candidate that
    began did not finish. An Annotated's block goes to the extras of its part, lists joined."""
    start = Start("", "")
    usage = None
    parts: dict[int, dict[int, _Growing]] = {}
    finishes: dict[int, Finish] = {}
    for event in events:
        match event:
            case Start():
                start = event
                usage = event.usage or usage
            case Open(index=index, part=part, candidate=candidate):
                parts.setdefault(candidate, {})[index] = _Growing(part, [])
            case Delta(index=index, text=text, candidate=candidate):
                parts[candidate][index].texts.append(text)
            case Sealed(index=index, seal=seal, candidate=candidate):
                parts[candidate][index].seal = seal
            case Annotated(index=index, block=block, candidate=candidate):
                growing = parts[candidate][index]
                growing.extras = merged(growing.extras, block)
            case Finish(candidate=candidate):
                finishes[candidate] = event
                usage = event.usage or usage
            case Tally():
                usage = event.usage
            case Failure(fault=fault):
                raise fault
            case _:
                pass
    if parts.keys() - finishes.keys():
        raise Fault(Kind.UPSTREAM_FAILED, "The answer broke off before its end.")
    candidates = tuple(
        Candidate(
            parts=tuple(growing.whole() for growing in parts.get(number, {}).values()),
            finish=finish.reason,
            stop_sequence=finish.stop_sequence,
            extras=finish.extras,
        )
        for number, finish in sorted(finishes.items())
    )
    return Response(start.id, start.model, candidates, usage, start.created, start.extras)


def unfold(response: Response) -> list[Event]:
    """The events of a stream that tells ``response``: ``fold(unfold(response)) == response``."""
    usage = response.usage
    known = replace(usage, output=0, reasoning=0) if usage else None
    events: list[Event] = [Start(response.id, response.model, known, response.created, response.extras)]
    last = len(response.candidates) - 1
    for number, candidate in enumerate(response.candidates):
        for index, part in enumerate(candidate.parts):
            events += _told(part, index, number)
        counted = usage if number == last else None
        stop = candidate.stop_sequence
        events.append(Finish(candidate.finish, counted, stop, number, candidate.extras))
    if usage and not response.candidates:
        events.append(Tally(usage))
    return [*events, Done()]


def _told(part: Part, index: int, candidate: int) -> list[Event]:
    """One part's events. A redacted thought and a call come with their seal: there is nothing to wait for."""
    opened: Part = part
    text = ""
    seal: Seal | None = None
    match part:
        case Text():
            opened, text = replace(part, text=""), part.text
        case Reasoning(redacted=False):
            opened, text, seal = replace(part, text="", seal=None), part.text, part.seal
        case ToolCall():
            opened, text = replace(part, arguments=""), part.arguments
        case _:
            pass
    events: list[Event] = [Open(index, opened, candidate)]
    if text:
        events.append(Delta(index, text, candidate))
    if seal is not None:
        events.append(Sealed(index, seal, candidate))
    events.append(Close(index, candidate))
    return events


def merged(old: Extras, new: Mapping[str, Json]) -> Extras:
    """Both, ``new`` winning, but lists of the same name joined."""
    result = dict(old)
    for name, value in new.items():
        before = result.get(name)
        result[name] = [*before, *value] if isinstance(before, list) and isinstance(value, list) else value
    return result
