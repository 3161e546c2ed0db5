"""The ``messages`` and ``system`` of a Claude request as SAP's Bedrock deployments take them (wire facts 4.3).

A message that needs no edit stays the client's bytes, and so do the blocks of one that only gets more of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Raw, Struct

from aicore_proxy.backends.amend import Amending, without
from aicore_proxy.backends.bedrock_shapes import BLOCKS, MARK, MESSAGE, RAWS, Outline, Read
from aicore_proxy.protocol.envelope import decoded
from aicore_proxy.protocol.neutral import Json
from aicore_proxy.protocol.seal import WRAPPED

Block = Mapping[str, Json]
Message = Mapping[str, Json]

MARKABLE = (
    "text",
    "image",
    "document",
    "search_result",
    "tool_use",
    "tool_result",
)  # compared, not hashed: a kind is what the client sent

_members = msgspec.json.Decoder(dict[str, Raw])


class Entry(Struct):
    """One message: its role, the types of its blocks, and itself, edited or as it came."""

    role: Json
    kinds: list[Json]
    body: Message | Raw

    def blocks(self) -> list[Json]:
        """Its blocks, still raw where it is."""
        if not isinstance(self.body, Raw):
            return as_blocks(self.body.get("content"))
        content = _members.decode(self.body)["content"]
        return [{"type": "text", "text": content}] if bytes(memoryview(content)[:1]) == b'"' else RAWS.decode(content)

    def filled(self, blocks: Sequence[Json], kinds: Sequence[Json]) -> None:
        """Gives it other blocks."""
        self.body = {"role": self.role, "content": list(blocks)}
        self.kinds = list(kinds)


class Conversation:
    """One ``messages`` being amended. ``mid_system``: system messages are left in the middle."""

    def __init__(self, found: Read, amending: Amending, *, mid_system: bool) -> None:
        self._amending = amending
        self._reading = Blocks(amending)
        self._takes_mid_system = mid_system
        self._edited = False
        self._held: list[Json] = []
        self.mid_system = False
        self.entries: list[Entry] = []
        entries = self._entries(found)
        for i, entry in enumerate(entries):
            if entry.role != "system":
                self._lead(entry)
                self.entries.append(entry)
            elif self._may_stay(entries[i + 1 :]):
                self.mid_system = True
                self.entries.append(entry)
            else:
                self._remind(entry)
        if self._held:
            self.entries.append(Entry("user", [], {"role": "user", "content": self._held}))

    def result(self) -> list[Json] | None:
        """The messages as Bedrock takes them; None if they are so already, or nothing is left of them."""
        return [entry.body for entry in self.entries] if self._edited and self.entries else None

    def mark_end(self, control: Mapping[str, Json]) -> None:
        """Sets the cache mark on the last block, as automatic caching does, where that takes one and has none."""
        last = self.entries[-1] if self.entries else None
        if last is None or not last.kinds or last.kinds[-1] not in MARKABLE:
            return
        *before, block = last.blocks()
        if isinstance(block, Raw):
            block = decoded(block, "messages")
        if "cache_control" not in block:
            self._edited = True
            last.filled([*before, {**block, "cache_control": control}], last.kinds)

    def _entries(self, found: Read) -> list[Entry]:
        """Each message by itself; those of which nothing is left are not among them."""
        entries: list[Entry] = []
        for message, outlined in found:
            if outlined is not None:
                role, kinds = outlined
                entries.append(Entry(role, list(kinds), message))
                continue
            value = decoded(message, "messages")
            edited = self._message(value) if isinstance(value, dict) else value
            self._edited = self._edited or edited is not value
            if edited is not None:
                entries.append(Entry(*outline_of(edited), message if edited is value else edited))
        return entries

    def _may_stay(self, after: Sequence[Entry]) -> bool:
        """System messages follow the user's and come before the assistant's or at the end."""
        before = self.entries[-1].role if self.entries else None
        if not self._takes_mid_system or before not in ("user", "system"):
            return False
        return next((entry.role for entry in after if entry.role != "system"), "assistant") == "assistant"

    def _remind(self, entry: Entry) -> None:
        """A system message as the user's words: at the end of the message before it, else in the one after it."""
        self._edited = True
        body = decoded(entry.body, "messages") if isinstance(entry.body, Raw) else entry.body
        reminders = [reminder(block) for block in as_blocks(body.get("content"))]
        last = self.entries[-1] if self.entries else None
        if last is not None and last.role == "user" and not self._held:
            last.filled([*last.blocks(), *reminders], [*last.kinds, *(["text"] * len(reminders))])
        else:
            self._held += reminders

    def _lead(self, entry: Entry) -> None:
        """Puts held reminders before the texts of a user's message, after its results; before another's as a
        message."""
        held, self._held = self._held, []
        if not held:
            return
        kinds: list[Json] = ["text"] * len(held)
        if entry.role != "user":
            self.entries.append(Entry("user", kinds, {"role": "user", "content": held}))
            return
        blocks = entry.blocks()
        results = [block for block, kind in zip(blocks, entry.kinds, strict=True) if kind == "tool_result"]
        others = [block for block, kind in zip(blocks, entry.kinds, strict=True) if kind != "tool_result"]
        rest = [kind for kind in entry.kinds if kind != "tool_result"]
        entry.filled([*results, *held, *others], [*(["tool_result"] * len(results)), *kinds, *rest])

    def _message(self, message: Message) -> Message | None:
        """``message`` itself if it can stay, an edited one, or None if nothing of it is left."""
        if not message.keys() <= MESSAGE:
            message = without(message, MESSAGE, "messages", self._amending)
        content = message.get("content")
        if isinstance(content, str):
            return message if content and not content.isspace() else None
        if not isinstance(content, list):
            return message
        edited = self._reading.amended(content, "messages.content", said=message.get("role") == "user")
        if edited is None:
            return message
        return {**message, "content": edited} if edited else None


class Blocks:
    """Cuts content blocks to what Bedrock knows. Values are never changed in place: an edited block is a new one."""

    def __init__(self, amending: Amending) -> None:
        self._amending = amending

    def amended(self, blocks: Sequence[Json], path: str, *, said: bool = False) -> list[Json] | None:
        """``blocks`` as Bedrock takes them, None if they are so already. ``said``: the user says something with them,
        so one that Bedrock does not know refuses the request."""
        out: list[Json] = []
        changed = False
        for block in blocks:
            edited = self._block(block, path, said) if isinstance(block, dict) else block
            changed = changed or edited is not block
            if edited is not None:
                out.append(edited)
        return out if changed else None

    def _block(self, block: Block, path: str, said: bool) -> Block | None:
        kind = block.get("type")
        allowed = BLOCKS.get(kind) if isinstance(kind, str) else None
        if allowed is None:
            return self._unknown(block, kind, path, said)
        match kind:
            case "text":
                text = block.get("text")
                if isinstance(text, str) and (not text or text.isspace()):
                    return None
            case "thinking" | "redacted_thinking" if _foreign(block.get("signature", block.get("data"))):
                self._amending.lost(f"{path}.thinking", "thoughts of another model")
                return None
            case "image" | "document":
                self._source(block, f"{path}.{kind}")
            case "tool_result" if isinstance(block.get("content"), list):
                inner = self.amended(block["content"], f"{path}.tool_result")
                if inner is not None:
                    block = {**block, "content": inner}
        if not block.keys() <= allowed:
            block = without(block, allowed, f"{path}.{kind}", self._amending)
        control = block.get("cache_control")
        if isinstance(control, dict) and not control.keys() <= MARK:
            block = {**block, "cache_control": without(control, MARK, "cache_control", self._amending)}
        return block

    def _unknown(self, block: Block, kind: Json, path: str, said: bool) -> Block | None:
        if kind == "tool_reference":
            self._amending.lost(f"{path}.tool_reference", "told in words")
            return {"type": "text", "text": f"The tool {block.get('tool_name')} is available now."}
        if isinstance(kind, str):
            self._amending.lost(f"{path}.{kind}", "Bedrock does not know this block", harmless=not said)
            return None
        return block

    def _source(self, block: Block, path: str) -> None:
        """There is no Files API behind Bedrock. A URL goes up: the wire page does not say that it is refused, and if it
        is, Bedrock's own words reach the client."""
        source = block.get("source")
        if isinstance(source, dict) and source.get("type") == "file":
            self._amending.lost(f"{path}.source.file", "there are no files here: send it as base64", harmless=False)


def _foreign(seal: Json) -> bool:
    """Whether another family minted a seal, or nobody: Claude refuses thoughts without its own valid signature."""
    return not isinstance(seal, str) or not seal or seal.startswith(WRAPPED)


def role_of(message: Json) -> Json:
    return message.get("role") if isinstance(message, dict) else None


def as_blocks(content: Json) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return list(content) if isinstance(content, list) else []


def reminder(block: Json) -> Json:
    """A system text as a user's, marked as what it is."""
    text = block.get("text") if isinstance(block, dict) else None
    if not isinstance(text, str) or text.lstrip().startswith("<system-reminder>"):
        return block
    return {**block, "text": f"<system-reminder>\n{text}\n</system-reminder>"}


def outline_of(message: Json) -> Outline:
    """The same of a decoded message, whatever it is."""
    blocks = as_blocks(message.get("content")) if isinstance(message, dict) else []
    return role_of(message), [block.get("type") if isinstance(block, dict) else None for block in blocks]
