"""Prints docs/protocols.md from the rosetta folders: what becomes of each feature between each pair of protocols.

    python scripts/print_protocols.py > docs/protocols.md

A cell is proved by its folder's tests (tests/rosetta/test_rosetta.py), whose losses.json says where a protocol cannot
say a thing, or says it otherwise. Each such place needs a loss that the encoder names, or a note here; what has
neither is printed as ``?``, and tests/docs/test_protocols.py fails.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

ROSETTA = Path(__file__).parent.parent / "tests" / "rosetta"
DIALECTS = {"openai_chat": "Chat", "anthropic_messages": "Messages", "gemini": "Gemini"}
CHAT, MESSAGES, GEMINI = DIALECTS
Side = Literal["request", "response", "fault"]


class Feature(NamedTuple):
    """``path``: the place in the folder's neutral form that shows the feature. ``only``: the one upstream that has
    it."""

    name: str
    folder: str
    path: str
    only: str = ""


REQUESTS = [
    Feature("Text", "plain-text", "turns.0"),
    Feature("System prompt", "system-and-turns", "turns.0"),
    Feature("Several turns", "system-and-turns", "turns.2"),
    Feature("Several parts in a turn", "multi-part", "turns.0.parts"),
    Feature("Turns of one role in a row", "multi-part", "turns.3"),
    Feature("System text in mid-conversation", "mid-conversation-system", "turns.2"),
    Feature("… for models that refuse it", "mid-conversation-system-refused", "turns.4"),
    Feature("The answer's beginning given", "prefill", "turns.1"),
    Feature("Images as data", "images-and-pdf", "turns.0.parts.1"),
    Feature("Images as URL", "images-and-pdf", "turns.0.parts.2.url"),
    Feature("PDF", "images-and-pdf", "turns.0.parts.3"),
    Feature("Plain-text documents", "images-and-pdf", "turns.0.parts.4"),
    Feature("Audio", "audio", "turns.0.parts.1"),
    Feature("Tools", "parallel-tools", "tools"),
    Feature("Parallel calls", "parallel-tools", "turns.1"),
    Feature("Results in another order", "parallel-tools", "turns.2"),
    Feature("Results in turns of their own, one missing", "results-in-turns", "turns.2"),
    Feature("Tools without parameters", "empty-arguments", "tools.0"),
    Feature("Calls without arguments", "empty-arguments", "turns.1.parts.0.arguments"),
    Feature("Results without content", "empty-result", "turns.2.parts.0.content"),
    Feature("Results with images", "tool-result-media", "turns.2.parts.0"),
    Feature("Results that are errors", "tool-result-media", "turns.2.parts.1.is_error"),
    Feature("Tool choice: the model's", "parallel-tools", "tool_choice.mode"),
    Feature("Tool choice: one tool", "forced-tool", "tool_choice"),
    Feature("Tool choice: any tool", "required-tool", "tool_choice.mode"),
    Feature("Tool choice: none", "no-tool", "tool_choice"),
    Feature("Tool choice: some of the tools", "allowed-tools", "tool_choice.allowed"),
    Feature("One call at a time", "required-tool", "tool_choice.parallel"),
    Feature("Free-text tools", "custom-tools", "tools.0"),
    Feature("Tool names of any alphabet", "tool-names", "tools.0.name"),
    Feature("Call ids of any alphabet", "call-ids", "turns.1.parts.0.id"),
    Feature("Greatest length", "sampling", "sampling.max_tokens"),
    Feature("Stop sequences", "sampling", "sampling.stop"),
    Feature("Temperature, top_p", "sampling", "sampling.temperature"),
    Feature("… for models that refuse them", "sampling-refused", "sampling.temperature"),
    Feature("top_k", "sampling", "sampling.top_k"),
    Feature("Seed", "sampling", "sampling.seed"),
    Feature("Penalties", "sampling", "sampling.presence_penalty"),
    Feature("User", "sampling", "user"),
    Feature("Several candidates", "candidates", "sampling.n"),
    Feature("Reasoning effort", "effort", "reasoning.effort"),
    Feature("Thinking budget", "thinking-tool-loop", "reasoning.budget"),
    Feature("No thinking", "no-thinking", "reasoning.mode"),
    Feature("Claude's signed thoughts in the history", "thinking-tool-loop", "turns.1.parts.0"),
    Feature("Claude's redacted thoughts in the history", "redacted-thinking", "turns.1.parts.0"),
    Feature("Gemini's signed calls in the history", "signed-calls", "turns.1.parts.0.seal"),
    Feature("Another family's thoughts in the history", "foreign-thoughts", "turns.1.parts.0"),
    Feature("Output that fits a schema", "structured-output", "output.schema"),
    Feature("… for models without it", "structured-output-by-tool", "output.schema"),
    Feature("Output in JSON", "json-mode", "output"),
    Feature("Prompt-cache marks", "cache-marks", "turns.0.parts.0.cache"),
]
RESPONSES = [
    Feature("Text", "plain-text", "candidates.0.parts"),
    Feature("Parallel calls", "parallel-tools", "candidates.0.parts"),
    Feature("Calls without arguments", "empty-arguments", "candidates.0.parts"),
    Feature("Claude's thoughts", "thinking-tool-loop", "candidates.0.parts.0.text", MESSAGES),
    Feature("… their signature", "thinking-tool-loop", "candidates.0.parts.0.seal", MESSAGES),
    Feature("Claude's redacted thoughts", "redacted-thinking", "candidates.0.parts.0", MESSAGES),
    Feature("Gemini's signed calls", "signed-calls", "candidates.0.parts.1.seal", GEMINI),
    Feature("Structured output", "structured-output", "candidates.0.parts"),
    Feature("Refusals", "refusal", "candidates.0.parts.0"),
    Feature("Finish: stopped", "plain-text", "candidates.0.finish"),
    Feature("Finish: calls", "forced-tool", "candidates.0.finish"),
    Feature("Finish: length", "length", "candidates.0.finish"),
    Feature("Finish: stop sequence", "sampling", "candidates.0.stop_sequence"),
    Feature("Finish: content filter", "content-filter", "candidates.0.finish"),
    Feature("Finish: refusal", "refusal", "candidates.0.finish"),
    Feature("Several candidates", "candidates", "candidates.1"),
    Feature("Tokens in and out", "usage", "usage.input"),
    Feature("… read from the cache", "usage", "usage.cache_read"),
    Feature("… written to the cache", "usage", "usage.cache_write"),
    Feature("… of reasoning", "usage", "usage.reasoning"),
    Feature("No token counts", "no-usage", "usage"),
]
FAULTS = [
    Feature("Malformed request", "error-malformed", "message"),
    Feature("Prompt too long", "error-too-long", "message"),
    Feature("Rate limit", "error-rate-limited", "message"),
    Feature("Overload", "error-overloaded", "message"),
    Feature("Upstream failed", "error-upstream", "message"),
]

NOTES: dict[tuple[str, str, str], str] = {
    # (folder, path, dialect): how it is said instead; "lost: …" where it is not
    ("multi-part", "turns.0.parts", MESSAGES): "",
    ("multi-part", "turns.0.parts", GEMINI): "",
    ("multi-part", "turns.3", MESSAGES): "joined into one turn",
    ("multi-part", "turns.3", GEMINI): "joined into one turn",
    ("mid-conversation-system", "turns.2", GEMINI): "as a reminder in the user's name, at its place",
    ("mid-conversation-system-refused", "turns.4", MESSAGES): "as a reminder in the user's name, at its place",
    ("mid-conversation-system-refused", "turns.4", GEMINI): "as a reminder in the user's name, at its place",
    ("images-and-pdf", "turns.0.parts.4", CHAT): "as text, its name around it",
    ("parallel-tools", "turns.2", GEMINI): "in the order of the calls",
    ("results-in-turns", "turns.2", CHAT): "the missing one is said to be missing",
    ("results-in-turns", "turns.2", MESSAGES): "in one turn, the missing one said to be missing",
    ("results-in-turns", "turns.2", GEMINI): "in one turn, the missing one said to be missing",
    ("empty-arguments", "tools.0", MESSAGES): "an object schema without properties",
    ("empty-arguments", "turns.1.parts.0.arguments", CHAT): "`{}`",
    ("empty-arguments", "turns.1.parts.0.arguments", MESSAGES): "`{}`",
    ("empty-arguments", "turns.1.parts.0.arguments", GEMINI): "`{}`",
    ("empty-result", "turns.2.parts.0.content", CHAT): "an empty text",
    ("empty-result", "turns.2.parts.0.content", GEMINI): "an empty text",
    ("tool-result-media", "turns.2.parts.0", CHAT): "the image in a user message behind the results",
    ("tool-result-media", "turns.2.parts.0", GEMINI): "the image in a turn behind the results (Gemini 3: inside)",
    ("tool-result-media", "turns.2.parts.1.is_error", CHAT): "the text begins with `Error:`",
    ("tool-result-media", "turns.2.parts.1.is_error", GEMINI): "as `response.error`",
    ("allowed-tools", "tool_choice.allowed", CHAT): "only these are offered, one must be called",
    ("allowed-tools", "tool_choice.allowed", MESSAGES): "only these are offered, one must be called",
    ("allowed-tools", "tool_choice.allowed", GEMINI): "as `allowedFunctionNames`",
    ("custom-tools", "tools.0", CHAT): "a function with one text parameter; calls are turned back",
    ("custom-tools", "tools.0", MESSAGES): "a function with one text parameter; calls are turned back",
    ("custom-tools", "tools.0", GEMINI): "a function with one text parameter; calls are turned back",
    ("tool-names", "tools.0.name", CHAT): "renamed; calls are turned back",
    ("tool-names", "tools.0.name", MESSAGES): "renamed; calls are turned back",
    ("tool-names", "tools.0.name", GEMINI): "renamed; calls are turned back",
    ("call-ids", "turns.1.parts.0.id", MESSAGES): "rewritten, the same way in call and result",
    ("call-ids", "turns.1.parts.0.id", GEMINI): "matched by order: SAP's Vertex takes no ids",
    ("effort", "reasoning.effort", GEMINI): "as a level, or as a budget before Gemini 3",
    ("thinking-tool-loop", "reasoning.budget", CHAT): "as the nearest effort",
    ("structured-output", "output.schema", MESSAGES): "its name as the schema's title",
    ("structured-output-by-tool", "output.schema", MESSAGES): "as a tool that must be called; its call is turned back",
    ("json-mode", "output", MESSAGES): "as an instruction in the system prompt",
    ("signed-calls", "turns.1.parts.0.seal", CHAT): "lost: only Gemini can read it",
    ("signed-calls", "turns.1.parts.0.seal", MESSAGES): "lost: only Gemini can read it",
    # Answers
    ("thinking-tool-loop", "candidates.0.parts.0.seal", CHAT): "kept by the proxy under the call's id",
    ("redacted-thinking", "candidates.0.parts.0", CHAT): "kept by the proxy under the id of a call, if one follows",
    ("signed-calls", "candidates.0.parts.1.seal", CHAT): "kept by the proxy under the call's id",
    ("signed-calls", "candidates.0.parts.1.seal", MESSAGES): "as a redacted thought before the call",
    ("refusal", "candidates.0.parts.0", MESSAGES): "as text, with `stop_reason: refusal`",
    ("refusal", "candidates.0.parts.0", GEMINI): "as text, with `finishReason: SAFETY`",
    ("sampling", "candidates.0.stop_sequence", CHAT): "as `stop`: the protocol does not tell which",
    ("sampling", "candidates.0.stop_sequence", GEMINI): "as `STOP`: the protocol does not tell which",
    ("content-filter", "candidates.0.finish", MESSAGES): "as `refusal`",
    ("refusal", "candidates.0.finish", GEMINI): "as `SAFETY`",
    ("candidates", "candidates.1", MESSAGES): "lost: the protocol has one; a request for more is refused",
    ("usage", "usage.cache_write", GEMINI): "lost: the protocol does not count it",
    ("no-usage", "usage", CHAT): "an estimate, marked `estimated`: some clients repeat a request without counts",
    ("no-usage", "usage", MESSAGES): "an estimate, marked `estimated`: some clients repeat a request without counts",
    ("no-usage", "usage", GEMINI): "an estimate, marked `estimated`",
}  # fmt: skip


PUT_BACK = {
    # (folder, path, dialect): what a client cannot say in its request, but what comes with it all the same
    ("thinking-tool-loop", "turns.1.parts.0", CHAT),  # kept by the proxy under the call's id: gateway/seals.py
    ("signed-calls", "turns.1.parts.0.seal", CHAT),
    ("signed-calls", "turns.1.parts.0.seal", MESSAGES),  # as a redacted thought: tests/properties/test_seals.py
}


class Spoken(NamedTuple):
    """What a dialect makes of a feature. ``how`` tells it where it is not said as it is."""

    mark: Literal["same", "otherwise", "lost", "?"]
    how: str = ""


def losses(folder: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((ROSETTA / folder / "losses.json").read_text())
    return found


def touched(path: str, differences: dict[str, Any]) -> bool:
    """Whether what was read back differs at ``path``, inside it, or as a whole that it belongs to."""
    return any(f"{name}.".startswith(f"{path}.") or f"{path}.".startswith(f"{name}.") for name in differences)


def spoken(feature: Feature, side: Side, dialect: str) -> Spoken:
    found = losses(feature.folder).get(dialect, {})
    if not touched(feature.path, found.get(side, {})):
        return Spoken("same")
    note = NOTES.get((feature.folder, feature.path, dialect))
    if note is not None:
        return Spoken("lost", note.removeprefix("lost: ")) if note.startswith("lost: ") else said(note)
    named = [line for line in found.get("losses", []) if side == "request"]
    return Spoken("lost", "; ".join(f"`{line}`" for line in relevant(named, feature))) if named else Spoken("?")


def can_say(feature: Feature, side: Side, dialect: str) -> bool:
    """Whether who speaks ``dialect``, the client of a request or the upstream of an answer, has words for it."""
    if feature.only and feature.only != dialect:
        return False
    place = (feature.folder, feature.path, dialect)
    found = losses(feature.folder).get(dialect, {})
    lost = touched(feature.path, found.get("client", found.get(side, {})) if side == "request" else found.get(side, {}))
    note = NOTES.get(place, "lost: ")
    return not lost or place in PUT_BACK or not note.startswith("lost: ")


def said(note: str) -> Spoken:
    return Spoken("otherwise", note) if note else Spoken("same")


def relevant(lines: list[str], feature: Feature) -> list[str]:
    """The losses that name the feature's last member, else all."""
    word = feature.path.rpartition(".")[2]
    return [line for line in lines if word in line] or lines


class Footnotes:
    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def of(self, dialect: str, how: str) -> int:
        return self.numbers.setdefault(f"{DIALECTS[dialect]}: {how}", len(self.numbers) + 1)


def cell(feature: Feature, side: Side, client: str, upstream: str, notes: Footnotes) -> str:
    """One pair. A request is said by the client and written for the upstream; an answer the other way round."""
    if client == upstream:
        return "="
    speaker, writer = (client, upstream) if side == "request" else (upstream, client)
    if side == "fault":
        return "✓"
    if not can_say(feature, side, speaker):
        return "–"
    match spoken(feature, side, writer):
        case Spoken("same"):
            return "✓"
        case Spoken("otherwise", how):
            return f"✓ {notes.of(writer, how)}"
        case Spoken("lost", how):
            return f"✗ {notes.of(writer, how)}"
        case _:
            return "?"


def table(features: list[Feature], side: Side, notes: Footnotes) -> Iterator[str]:
    pairs = [(client, upstream) for client in DIALECTS for upstream in DIALECTS]
    yield "| | Test | " + " | ".join(f"{DIALECTS[c]} → {DIALECTS[u]}" for c, u in pairs) + " |"
    yield "|---" * (len(pairs) + 2) + "|"
    for feature in features:
        cells = [cell(feature, side, client, upstream, notes) for client, upstream in pairs]
        yield f"| {feature.name} | `{feature.folder}` | " + " | ".join(cells) + " |"


def printed() -> str:
    notes = Footnotes()
    lines = [
        "# Protocols: what becomes of what",
        "",
        "Printed by `scripts/print_protocols.py` from the folders in `tests/rosetta/`; do not edit. A column is a",
        "client's protocol → the upstream's; a row's test is the folder of that name, whose tests cover every pair,",
        "streamed too. Chat: OpenAI Chat Completions; Messages: Anthropic's. Gemini's own endpoints are not served",
        "yet: the columns of its clients show what the codec does.",
        "",
        "`=` relayed: the same bytes. `✓` said as it is, with a number: said otherwise, nothing lost. `✗` left out, or",
        "the request is refused where the loss begins with 400; what is left out is named in the header",
        "`x-aicore-proxy-dropped`. `–` the one that speaks has no word for it.",
        "",
        "## Requests",
        "",
        *table(REQUESTS, "request", notes),
        "",
        "## Answers",
        "",
        *table(RESPONSES, "response", notes),
        "",
        "## Errors",
        "",
        *table(FAULTS, "fault", notes),
        "",
        "## Notes",
        "",
        *(f"{number}. {text}" for text, number in notes.numbers.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(printed(), end="")
