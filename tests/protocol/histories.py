"""Conversations as no vendor's own client sends them, tools, and streams in any order: ``catalogue/`` is made of them.

Each by its name in the golden files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import (
    Annotated,
    CacheMark,
    Close,
    Delta,
    Done,
    Event,
    Failure,
    Finish,
    Foreign,
    Media,
    Open,
    Part,
    Reasoning,
    ReasoningAsk,
    Refusal,
    Seal,
    Sealed,
    Start,
    Tally,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    Usage,
)

PNG = "iVBORw0KGgo="
LONG_ID = "call_" + "x" * 80
LONG_NAME = "mcp.server/" + "n" * 80
MARK = CacheMark("1h")


def said(role: Any, *parts: Part | str, **more: Any) -> Turn:
    return Turn(role, tuple(Text(part) if isinstance(part, str) else part for part in parts), **more)


def user(*parts: Part | str, **more: Any) -> Turn:
    return said("user", *parts, **more)


def assistant(*parts: Part | str, **more: Any) -> Turn:
    return said("assistant", *parts, **more)


def call(call_id: str = "c1", name: str = "f", arguments: str = '{"a":1}', **more: Any) -> ToolCall:
    return ToolCall(call_id, name, arguments, **more)


def result(call_id: str = "c1", *content: Any, **more: Any) -> ToolResult:
    parts = tuple(Text(part) if isinstance(part, str) else part for part in content)
    return ToolResult(call_id, parts, **more)


SHOWN = Media("image", "image/png", PNG)
CLAUDE, GEMINI = Seal("claude", "c2ln"), Seal("gemini", "Z2Vt")

ENDINGS = ("png", "JPG", "jpeg", "webp", "gif", "heic", "heif", "pdf", "txt", "md", "html", "mp3", "wav", "mp4", "mov",
           "webm", "odd")  # fmt: skip

HISTORIES: dict[str, Sequence[Turn]] = {
    "system only": (said("system", "a"), said("developer", "b")),
    "assistant first": (assistant("a"), user("b")),
    "assistant last": (user("a"), assistant("b \n")),
    "calls last": (user("a"), assistant("b", call())),
    "several of one role": (user("a"), user("b"), assistant("c"), assistant("d"), user("e")),
    "system in the middle": (user("a"), said("system", "s"), assistant("b"), said("developer", "d"), said("system",
        "t"),
                             user("c"), said("system", "last")),
    "two systems before the assistant": (
        user("a"), said("system", "s"), said("system", "t"), assistant("b"), said("system", "u"), said("system", "v"),
    ),
    "system before a user": (said("system", "s"), user("a"), assistant("b"), said("system", "t", extras={"x": 1}),
        user("c")),
    "a reminder that is one": (user("a"), said("system", " <system-reminder>r</system-reminder>"), user("b")),
    "blank and empty": (user(""), user(" \n"), assistant(""), assistant(), user("b"), said("system", ""), user()),
    "names": (said("system", "s", name="boss"), user("a", name="ann"), assistant("b", name="bot"), user("c",
        name="bob")),
    "results late and in another order": (
        user("a"), assistant(call("c1"), call("c2", "g")), user("wait"), user(result("c2", "r2"), "b", result("c1",
            "r1")),
    ),
    "results in turns of their own": (
        user("a"), assistant(call("c1"), call("c2")), user(result("c1", "r1")), user(result("c2", "r2")),
            assistant("b"), user("c"),
    ),
    "nobody answered": (user("a"), assistant("b", call()), user("c"), assistant(call("c2")), assistant("d"), user("e")),
    "answered twice and by nobody's call": (
        user("a"), assistant(call()), user(result("c1", "r1"), result("c1", "again", is_error=True)),
        user(result("c9", "r9", name="g"), result("", "none"), result("c8", SHOWN)), assistant(result("c1", "odd"),
        "b"), user("c"),
    ),
    "one id twice": (
        user("a"), assistant(call("c1"), call("c1", "g")), user(result("c1", "r1"), result("c1", "r2")),
        assistant(call("c1")), user(result("c1", "r3")),
    ),
    "no ids": (user("a"), assistant(call(""), call("")), user(result("", "r1"), result("", "r2"))),
    "numbered ids are taken": (user("a"), assistant(call("c1"), call("c1_2"), call("c1"), call("c1")),
                               user(*(result(i, i) for i in ("c1", "c1_2", "c1", "c1")))),
    "ids and names that do not fit": (
        user("a"), assistant(call(LONG_ID, LONG_NAME), call("ü|1", "1 ü:b")), user(result(LONG_ID, "r1"), result("ü|1",
            "r2")),
    ),
    "calls before words": (user("a"), assistant(call()), assistant("then"), user(result("c1", "r"))),
    "arguments of all kinds": (
        user("a"),
        assistant(*(call(f"c{i}", "f", text) for i, text in enumerate(("", "{}", "null", "[1]", "7", "{half",
        " {} ")))),
        user(*(result(f"c{i}", str(i)) for i in range(7))),
    ),
    "free text": (user("a"), assistant(call("c1", "free", "raw text", kind="custom")), user(result("c1", "r"))),
    "results of all kinds": (
        user("a"), assistant(*(call(f"c{i}") for i in range(9))),
        user(
            result("c0"), result("c1", "", is_error=True), result("c2", "Error: x", is_error=True),
            result("c3", "a", "b", is_error=True), result("c4", SHOWN, is_error=True), result("c5", "see", SHOWN),
            result("c6", Media("document", "text/plain", text="words", name="n")),
            result("c7", Media("document", "application/pdf", "JVBERi0=", name="p")),
            result("c8", '{"error":"e"}', cache=MARK),
        ),
    ),
    "thoughts": (
        user("a"), assistant(Reasoning("own", CLAUDE), Reasoning("", CLAUDE, redacted=True), "b"),
        user("c"), assistant(Reasoning("g", GEMINI), Reasoning("bare"), Reasoning(""), call(seal=GEMINI)),
        user(result("c1", "r")), assistant(Reasoning("t", CLAUDE), call("c2")), user(result("c2", "r")),
    ),
    "seals alone": (user("a"), assistant("b", Reasoning("", GEMINI), Reasoning("", GEMINI), call()), user(result("c1",
        "r")),
                    assistant(Reasoning("", GEMINI), call("c2"), Reasoning("", GEMINI, redacted=True)),
                        user(result("c2", "r"))),
    "refusals": (user("a"), assistant(Refusal("no"), Refusal("never")), user("b"), assistant("c", Refusal("")),
        user("d")),
    "not the role's": (user("a", call(), Reasoning("t", CLAUDE), Refusal("r")), assistant("b", SHOWN),
                       said("system", "s", SHOWN), said("system", Refusal("r"), call()), user("c")),
    "system with more than texts": (said("system", "s", SHOWN, call(), Refusal("r")), user("c")),
    "pictures": (
        user(SHOWN, Media("image", "image/jpg", "odd"), Media("image", "image/png", "/9j/AA"), Media("image",
            "image/png", "R0lGODlh"),
             Media("image", None, "UklGRg"), Media("image", None, "odd"), Media("image", "image/tiff", "odd"),
             Media("image", "image/webp", url="https://x.test/y?z.png"), Media("image",
             url="data:image/gif;base64,R0lG"),
             Media("image", None, PNG, detail="high"), Media("image", None, PNG, detail="auto", cache=MARK),
             Media("image", "image/png", file_id="f")),
    ),
    "documents": (
        user(Media("document", "application/pdf", "JVBERi0=", name="a"), Media("document", None, "JVBERi0=",
            name="b.PDF"),
             Media("document", "text/csv", "YSxi", name="c.csv"), Media("document", "application/json", "e30="),
             Media("document", "application/msword", "AAAA"), Media("document", "text/plain", "/w=="),
             Media("document", None, "AAAA"), Media("document", text="words"), Media("document", text="w", name="n"),
             Media("document", url="https://x.test/a.pdf"), Media("document", file_id="f", name="g")),
    ),
    "addresses": (user(*(Media("document", url=f"https://x.test/a.{ending}?b.c") for ending in ENDINGS)),),
    "sounds": (user(*(Media("audio", kind, "AAAA") for kind in ("audio/mpeg", "audio/x-wav", "audio/wave;rate=1",
        "audio/ogg", None)),
                    Media("audio", "audio/mp3", url="https://x.test/a.mp3"), Media("video", "video/mp4", "AAAA"),
                    Media("video", None, url="https://x.test/v.webm")),),
    "marks": (said("system", Text("s", MARK)), user(Text("a", CacheMark()), Text("b", MARK)),
              assistant(call(cache=MARK)), user(result("c1", "r", cache=CacheMark()), Text("x", MARK))),
    "blocks of others": (user("a", Foreign("elsewhere", {"type": "odd"}, "p"), Foreign("elsewhere", {"odd": 1})),
                         assistant(Foreign("elsewhere", {}), "b"), user("c")),
}  # fmt: skip

TOOLS: dict[str, dict[str, Any]] = {
    "none": {},
    "choice without tools": {"tool_choice": ToolChoice("required")},
    "named choice without tools": {"tool_choice": ToolChoice("tool", "f")},
    "auto without tools": {"tool_choice": ToolChoice("auto", parallel=False)},
}
ONE = Tool("f", "F", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
SOME = (
    ONE, Tool("bare"), Tool("free", "text", kind="custom"), Tool("odd name!", "O", {"properties": {"b": {}}},
        cache=MARK),
    Tool("strict", schema={"type": "object", "properties": {}, "additionalProperties": False}, strict=True),
    Tool("loose", schema={"type": "object", "properties": {"b": {}}}, strict=True), Tool("lax", strict=False),
    Tool("united", schema={"anyOf": [{"type": "object", "properties": {"x": {}}}, {"type": "null"}]}),
    Tool("listed", schema={"type": "array"}), Tool("f", "named twice"),
    Tool("server", kind="foreign", dialect="elsewhere", block={"type": "server"}),
)  # fmt: skip
CHOICES: tuple[ToolChoice, ...] = (
    ToolChoice(), ToolChoice("auto", parallel=True), ToolChoice("none", parallel=False), ToolChoice("required"),
    ToolChoice("tool", "f", parallel=False), ToolChoice("tool", "odd name!"), ToolChoice("tool", "server"),
    ToolChoice("tool", "gone"), ToolChoice("tool", "free"), ToolChoice("auto", allowed=("f", "free")),
    ToolChoice("required", allowed=("bare",)), ToolChoice("required", allowed=("server",)),
    ToolChoice("none", allowed=("f",)), ToolChoice(allowed=("bare",)),
)  # fmt: skip


def named(choice: ToolChoice) -> str:
    words = [str(choice.mode), choice.name, choice.allowed and f"of {'+'.join(choice.allowed)}"]
    words += [] if choice.parallel is None else [f"parallel {choice.parallel}"]
    return " ".join(filter(None, words))


TOOLS["names that are taken"] = {"tools": (Tool("final_answer"), Tool("json_output"), Tool("json_output_"))}
TOOLS |= {named(choice): {"tools": SOME, "tool_choice": choice} for choice in CHOICES}

START = Start("answer1", "a-model", created=7)
COUNTS, MORE = Usage(10, 4, 3, 5, 2, 1), Usage(11, 4, 3, 6, 2, 1)
NOTE = {"citations": [{"cited_text": "s"}]}

EVENTS: dict[str, Sequence[Event]] = {
    "all kinds, one after the other": (
        Start("chatcmpl-1", "a-model", Usage(10), extras={"system_fingerprint": "fp", "promptFeedback": {}}),
        Open(0, Reasoning("h")), Delta(0, "m"), Sealed(0, CLAUDE), Close(0), Open(1, Reasoning("", GEMINI,
        redacted=True)), Close(1),
        Open(2, Text("sa")), Delta(2, "id"), Annotated(2, "openai_chat", {"logprobs": [{"token": "x"}]}),
        Annotated(2, "anthropic_messages", NOTE), Annotated(2, "anthropic_messages", {"deltas": [{"type": "odd"}]}),
        Close(2),
        Open(3, Refusal("n")), Delta(3, "o"), Annotated(3, "openai_chat", {"logprobs": [{"token": "n"}]}), Close(3),
        Open(4, SHOWN), Close(4), Open(5, Media("audio", "audio/wav", "AAAA")), Close(5),
        Open(6, Foreign("anthropic_messages", {"type": "server_tool_use", "id": "s"})), Close(6),
        Open(7, Foreign("openai_chat", {"type": "odd"})), Close(7), Open(8, Foreign("gemini", {"executableCode": {}})),
        Close(8),
        Open(9, call("c1", "f", "", seal=GEMINI, extras={"z": 1})), Delta(9, '{"a"'), Delta(9, ":1}"), Close(9),
        Open(10, ToolCall("c2", "g", "fr", kind="custom")), Delta(10, "ee"), Close(10), Open(11, call("", "h", "")),
        Close(11),
        Tally(COUNTS), Finish("tool_calls", None, "END", extras={"odd": 1, "finishReason": "OTHER"}), Tally(MORE),
        Done(),
    ),
    "parts that take turns": (
        START, Open(0, Text("a")), Open(1, Reasoning("b")), Delta(0, "c"), Delta(1, "d"), Open(2, call("c1", "f", "")),
            Delta(2, "{"),
        Open(3, call("c2", "g", "")), Delta(3, "{"), Delta(1, "e"), Delta(2, "}"), Sealed(3, CLAUDE), Delta(3, "}"),
            Sealed(1, CLAUDE),
        Delta(0, "f"), Open(4, Text("")), Delta(4, "g"), Close(3), Close(0), Close(2), Close(1), Delta(4, "h"),
            Close(4),
        Finish("stop", COUNTS), Done(),
    ),
    "never closed": (START, Open(0, Reasoning("a", CLAUDE)), Open(1, Text("b")), Open(2, call()), Finish("length",
        COUNTS), Done()),
    "thoughts": (
        START, Open(0, Reasoning("")), Close(0), Open(1, Reasoning("")), Sealed(1, GEMINI), Close(1), Open(2, call()),
            Close(2),
        Open(3, Reasoning("")), Sealed(3, CLAUDE), Close(3), Open(4, Text("t")), Close(4), Open(5, Reasoning("x")),
            Sealed(5, GEMINI),
        Open(6, Reasoning("", CLAUDE, redacted=True)), Close(6), Close(5), Open(7, Reasoning("y")), Open(8, call("c8",
            seal=CLAUDE)),
        Close(8), Sealed(7, CLAUDE), Delta(7, "z"), Close(7), Finish("tool_calls"), Done(),
    ),
    "after a close": (
        START, Open(0, Text("a")), Close(0), Delta(0, "late"), Sealed(0, CLAUDE), Close(0), Annotated(0,
            "anthropic_messages", NOTE),
        Delta(7, "unknown"), Close(7), Sealed(7, CLAUDE), Finish("refusal"), Finish("stop", COUNTS), Delta(0, "more"),
            Done(), Done(),
        Delta(0, "x"), Tally(MORE),
    ),
    "nothing in it": (START, Open(0, Text("")), Delta(0, ""), Close(0), Finish("content_filter"), Done()),
    "only a call": (Start("", ""), Open(0, call("", "f", "{}")), Close(0), Finish("stop", COUNTS), Done()),
    "done without a finish": (START, Open(0, Text("a")), Done()),
    "done at once": (START, Done()),
    "tallied alone": (START, Tally(COUNTS), Done()),
    "without a start": (Open(0, Text("a")), Close(0), Finish("pause"), Done()),
    "blocked": (Start("r", "m", extras={"promptFeedback": {"blockReason": "SAFETY"}}), Finish("content_filter",
        COUNTS), Done()),
    "two candidates": (
        START, Open(0, Text("a"), 1), Open(0, call("c1", "f", ""), 0), Delta(0, "b", 1), Delta(0, "{}", 0), Close(0, 0),
        Open(1, call("c2", "g", ""), 0), Close(1, 0), Open(1, call("c3", "h", "{}"), 1), Close(1, 1), Close(0, 1),
        Finish("length", None, None, 1, {"z": 1}), Finish("stop", COUNTS), Done(),
    ),
    "calls of candidates in turns": (
        START, Open(0, call("c1"), 0), Close(0, 0), Open(0, call("c2"), 1), Close(0, 1), Open(1, call("c3"), 0),
            Close(1, 0),
        Finish("tool_calls"), Finish("tool_calls", candidate=1), Done(),
    ),
    "broken off": (START, Open(0, Text("a")), Open(1, call("c1", "f", "{")), Failure(Fault(Kind.TIMEOUT, "Late.")),
        Done()),
    "an open call": (START, Open(0, call()), Close(0), Open(1, call("c2", "f", "{"))),
    "only begun": (START,),
}  # fmt: skip

MANNERS: dict[str, dict[str, Any]] = {
    "usual": {},
    "hidden": {"reasoning": ReasoningAsk("on", visible=False), "stream_usage": False},
    "legacy": {"tools": (Tool("f", dialect="openai_chat"),), "model": ""},
}
