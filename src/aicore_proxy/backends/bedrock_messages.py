"""The ``messages`` and ``system`` of a Claude request as SAP's Bedrock deployments take them (wire facts 4.3).

Values are never changed in place: an edited message is a new one, and None means that nothing had to be edited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aicore_proxy.backends.amend import Amending, without
from aicore_proxy.backends.bedrock_shapes import BLOCKS, MARK, MESSAGE, Outline
from aicore_proxy.protocol.neutral import Json
from aicore_proxy.protocol.seal import WRAPPED

Block = Mapping[str, Json]
Message = Mapping[str, Json]

MARKABLE = frozenset({"text", "image", "document", "search_result", "tool_use", "tool_result"})


class MessagesAmended:
    """One ``messages`` being read. ``mid_system``: system messages are left in the middle."""

    def __init__(self, amending: Amending, *, mid_system: bool) -> None:
        self._amending = amending
        self._takes_mid_system = mid_system
        self.mid_system = False

    def messages(self, messages: Sequence[Json]) -> list[Json] | None:
        """``messages`` as Bedrock takes them, None if they are so already."""
        out: list[Json] = []
        changed = False
        held: list[Json] = []
        for i, message in enumerate(messages):
            if not isinstance(message, dict):
                out.append(message)
                continue
            edited = self._message(message)
            changed = changed or edited is not message
            if edited is None:
                continue
            if edited.get("role") != "system":
                if held:
                    edited, held = _led(edited, held, out), []
                out.append(edited)
            elif self._may_stay(out, messages[i + 1 :]):
                self.mid_system = True
                out.append(edited)
            else:
                changed = True
                self._remind(edited, out, held)
        if held:
            out.append({"role": "user", "content": held})
        return out if changed and out else None

    def _may_stay(self, before: Sequence[Json], after: Sequence[Json]) -> bool:
        """System messages follow the user's and come before the assistant's or at the end."""
        if not self._takes_mid_system or not before or role_of(before[-1]) not in ("user", "system"):
            return False
        return next((role for message in after if (role := role_of(message)) != "system"), "assistant") == "assistant"

    def _remind(self, message: Message, out: list[Json], held: list[Json]) -> None:
        """A system message as the user's words: at the end of the message before it, else in the one after it."""
        reminders = [reminder(block) for block in as_blocks(message.get("content"))]
        if not held and out and role_of(out[-1]) == "user":
            out[-1] = {**out[-1], "content": [*as_blocks(out[-1].get("content")), *reminders]}
        else:
            held += reminders

    def _message(self, message: Message) -> Message | None:
        """``message`` itself if it can stay, an edited one, or None if nothing of it is left."""
        if not message.keys() <= MESSAGE:
            message = without(message, MESSAGE, "messages", self._amending)
        content = message.get("content")
        if isinstance(content, str):
            return message if content and not content.isspace() else None
        if not isinstance(content, list):
            return message
        edited = self.blocks(content, "messages.content")
        if edited is None:
            return message
        return {**message, "content": edited} if edited else None

    def blocks(self, blocks: Sequence[Json], path: str) -> list[Json] | None:
        """``blocks`` as Bedrock takes them, None if they are so already."""
        out: list[Json] = []
        changed = False
        for block in blocks:
            edited = self._block(block, path) if isinstance(block, dict) else block
            changed = changed or edited is not block
            if edited is not None:
                out.append(edited)
        return out if changed else None

    def _block(self, block: Block, path: str) -> Block | None:
        kind = block.get("type")
        allowed = BLOCKS.get(kind) if isinstance(kind, str) else None
        if allowed is None:
            return self._unknown(block, kind, path)
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
                inner = self.blocks(block["content"], f"{path}.tool_result")
                if inner is not None:
                    block = {**block, "content": inner}
        if not block.keys() <= allowed:
            block = without(block, allowed, f"{path}.{kind}", self._amending)
        control = block.get("cache_control")
        if isinstance(control, dict) and not control.keys() <= MARK:
            block = {**block, "cache_control": without(control, MARK, "cache_control", self._amending)}
        return block

    def _unknown(self, block: Block, kind: Json, path: str) -> Block | None:
        if kind == "tool_reference":
            self._amending.lost(f"{path}.tool_reference", "told in words")
            return {"type": "text", "text": f"The tool {block.get('tool_name')} is available now."}
        if isinstance(kind, str):
            self._amending.lost(f"{path}.{kind}", "Bedrock does not know this block")
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


def _led(message: Message, held: Sequence[Json], out: list[Json]) -> Message:
    """``message`` with ``held`` before its texts, after its results; another role gets them as a message before."""
    if message.get("role") != "user":
        out.append({"role": "user", "content": list(held)})
        return message
    blocks = as_blocks(message.get("content"))
    results = [block for block in blocks if isinstance(block, dict) and block.get("type") == "tool_result"]
    others = [block for block in blocks if block not in results]
    return {**message, "content": [*results, *held, *others]}


def marked_end(messages: Sequence[Json], control: Mapping[str, Json]) -> list[Json] | None:
    """``messages`` with the cache mark on the last block of the last one, as automatic caching does it; None where
    that takes none or has one."""
    last = messages[-1] if messages else None
    blocks = as_blocks(last.get("content")) if isinstance(last, dict) else []
    if not blocks or not isinstance(last, dict) or not isinstance(blocks[-1], dict):
        return None
    if blocks[-1].get("type") not in MARKABLE or "cache_control" in blocks[-1]:
        return None
    blocks[-1] = {**blocks[-1], "cache_control": control}
    return [*messages[:-1], {**last, "content": blocks}]


def outline_of(message: Json) -> Outline:
    blocks = as_blocks(message.get("content")) if isinstance(message, dict) else []
    return role_of(message), [block.get("type") for block in blocks if isinstance(block, dict)]
