"""Seals of calls, for clients whose protocol has no slot for them.

Chat Completions carries no thinking signature: a Claude that thought before it called a tool, and a Gemini 3 that
signed its call, want the seal back with the next turn. It is kept here, by client key and call id, and put back into
the history. In memory and bounded: a lost seal costs the thoughts of one turn, not the request (the encoders then
leave thinking out, or mark the call as unsigned).
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct
from msgspec.structs import replace

from aicore_proxy.protocol.neutral import Delta, Event, Open, Part, Reasoning, Request, Seal, Sealed, ToolCall, Turn

MAX_CHARACTERS = 32 * 1024 * 1024
MAX_ENTRY = 1024 * 1024


class Kept(Struct, frozen=True):
    """What went with a call: the thoughts before it (only with a turn's first call) and its own seal."""

    thoughts: tuple[Reasoning, ...] = ()
    seal: Seal | None = None

    def size(self) -> int:
        sealed = sum(len(t.text) + (len(t.seal.value) if t.seal else 0) for t in self.thoughts)
        return 200 + sealed + (len(self.seal.value) if self.seal else 0)


class SealKeeper:
    """Keeps seals by (client key, call id), the least recently used dropped first. Owned by the event loop: no method
    awaits."""

    def __init__(self, max_characters: int = MAX_CHARACTERS) -> None:
        self._kept: OrderedDict[tuple[str, str], Kept] = OrderedDict()
        self._characters = 0
        self._max = max_characters

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: str, call_id: str, kept: Kept) -> None:
        if kept.size() > MAX_ENTRY:
            return
        self._drop((key, call_id))
        self._kept[key, call_id] = kept
        self._characters += kept.size()
        while self._characters > self._max:
            self._drop(next(iter(self._kept)))

    def _drop(self, entry: tuple[str, str]) -> None:
        if (old := self._kept.pop(entry, None)) is not None:
            self._characters -= old.size()

    def recalled(self, request: Request, key: str) -> Request:
        """``request`` with the seals put back that its history's calls had."""
        if not self._kept or not any(isinstance(p, ToolCall) for turn in request.turns for p in turn.parts):
            return request
        return replace(request, turns=tuple(self._restored(turn, key) for turn in request.turns))

    def _restored(self, turn: Turn, key: str) -> Turn:
        parts: list[Part] = []
        thoughts: list[Part] = []
        for part in turn.parts:
            if isinstance(part, ToolCall) and part.seal is None:
                kept = self._kept.get((key, part.id))
                if kept is not None:
                    self._kept.move_to_end((key, part.id))
                    thoughts += kept.thoughts
                    part = replace(part, seal=kept.seal) if kept.seal else part  # noqa: PLW2901
            parts.append(part)
        if not thoughts:
            return turn if parts == list(turn.parts) else replace(turn, parts=tuple(parts))
        # What the client replays of the thoughts has no seal: the sealed ones stand in its place
        return replace(turn, parts=(*thoughts, *(p for p in parts if not isinstance(p, Reasoning))))

    def watcher(self, key: str) -> SealWatcher:
        """An observer of one answer's events that keeps what it finds."""
        return SealWatcher(self, key)


class SealWatcher:
    """Collects one answer's thoughts and calls. One per answer."""

    def __init__(self, keeper: SealKeeper, key: str) -> None:
        self._keeper = keeper
        self._key = key
        self._thoughts: dict[int, Reasoning] = {}
        self._texts: dict[int, list[str]] = {}
        self._calls: dict[int, ToolCall] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case Open(index=index, part=Reasoning() as part):
                self._thoughts[index] = part
                self._texts[index] = [part.text]
            case Open(index=index, part=ToolCall() as call):
                self._calls[index] = call
                self._store(call, first=len(self._calls) == 1)
            case Delta(index=index, text=text) if index in self._texts:
                self._texts[index].append(text)
            case Sealed(index=index, seal=seal):
                if index in self._thoughts:
                    self._thoughts[index] = replace(self._thoughts[index], seal=seal)
                elif index in self._calls:
                    self._calls[index] = replace(self._calls[index], seal=seal)
                    self._store(self._calls[index], first=index == min(self._calls))
            case _:
                pass

    def _store(self, call: ToolCall, *, first: bool) -> None:
        sealed = [replace(t, text="".join(self._texts[i])) for i, t in sorted(self._thoughts.items()) if t.seal]
        kept = Kept(tuple(sealed) if first else (), call.seal)
        if kept.thoughts or kept.seal:
            self._keeper.keep(self._key, call.id, kept)
