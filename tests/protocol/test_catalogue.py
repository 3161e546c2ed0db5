"""All that the wires may say, and exactly what becomes of it, in golden files: ``catalogue/``.

Rosetta's folders begin with the neutral form, so they hold only what all dialects can say. Here it is the other way
round: ``requests.json``, ``answers.json``, ``streams.json`` and ``errors.json`` are written by hand and hold every
member and spelling that a codec knows. All that a property test leaves open (which member, which loss, which code) is
pinned: a changed file is to be reviewed, not only rewritten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec.structs import replace
from tests.protocol.histories import CLAUDE, EVENTS, HISTORIES, MANNERS, ONE, TOOLS, assistant, call, result, user
from tests.protocol.test_anthropic_messages import changed, places
from tests.rosetta.folders import DIALECTS, GENEROUS, MODELS, NOW, differences, loss_line, read_back
from tests.rosetta.test_rosetta import each_dialect, golden

from aicore_proxy.protocol.dialects import Answering, Decoding, Dialect, Target
from aicore_proxy.protocol.dialects.anthropic_messages.output_schema import closed, fits
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.fold import unfold
from aicore_proxy.protocol.framing import SseDecoder
from aicore_proxy.protocol.neutral import (
    CacheMark,
    Candidate,
    Encoded,
    Failure,
    FinishReason,
    Output,
    Reasoning,
    ReasoningAsk,
    Refusal,
    Request,
    Response,
    Sampling,
    Text,
    ToolChoice,
    Undo,
    Usage,
)
from aicore_proxy.protocol.pipe import Relay, Translation, translate_response
from aicore_proxy.protocol.profiles import EFFORTS, profile_of
from aicore_proxy.protocol.schema import for_gemini, for_openapi, from_openapi, inlined, is_strict, object_schema
from aicore_proxy.protocol.seal import carried, native

CATALOGUE = Path(__file__).parent / "catalogue"
WIDTH = 118


def catalogue(name: str) -> dict[str, dict[str, Any]]:
    """Dialect -> name of the case -> what stands on its wire."""
    return dict(json.loads((CATALOGUE / f"{name}.json").read_text()))


def laid_out(value: Any, indent: str = "") -> str:
    """JSON text: on one line what fits there."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= WIDTH or not isinstance(value, dict | list) or not value:
        return line
    inner = indent + " "
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(name)}: {laid_out(item, inner)}" for name, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + laid_out(item, inner) for item in value) + f"\n{indent}]"


def plain(value: Any) -> Any:
    """A neutral value without the members that have their defaults."""
    if isinstance(value, msgspec.Struct):
        told = {} if isinstance(value, Request | Usage) else {"is": type(value).__name__}
        for field in msgspec.structs.fields(value):
            default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
            if (held := getattr(value, field.name)) != default:
                told[field.name] = plain(held)
        return told
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def decoded(dialect: Dialect, body: Any) -> Request:
    return dialect.decode_request(body, Decoding())


def encoded(dialect: Dialect, request: Request, model: str | None = None) -> Encoded:
    """For a model; without one, for one that refuses nothing."""
    profile = GENEROUS[dialect.name] if model is None else profile_of(model)
    return dialect.encode_request(request, Target(model or "a-model", profile, native(profile.family)))


def taken(made: Encoded) -> dict[str, Any]:
    """An encoded request as a golden file shows it."""
    undo = {} if made.undo == Undo() else {"undo": plain(made.undo)}
    return {"body": made.body, "losses": [loss_line(loss) for loss in made.losses]} | undo


REQUESTS = catalogue("requests")


@each_dialect
def test_every_member_of_a_request_and_what_becomes_of_it(dialect: Dialect, update_golden: bool) -> None:
    told: dict[str, Any] = {}
    for name, body in REQUESTS[dialect.name].items():
        request = decoded(dialect, body)
        targets = {target.name: taken(encoded(target, request, MODELS[target.name])) for target in DIALECTS.values()}
        told[name] = {"neutral": plain(request), "generous": taken(encoded(dialect, request)), **targets}
    golden(CATALOGUE / f"requests.{dialect.name}.golden.json", laid_out(told) + "\n", update=update_golden)


WRONG: dict[str, Any] = {
    "null": None, "text": "x", "number": 7, "negative": -1, "fraction": 0.5, "flag": True, "list": [], "object": {},
    "empty": "",
}  # fmt: skip


def dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path)) or "(body)"


def refusal(dialect: Dialect, body: Any) -> str:
    """The path that a body is refused for, and the words that were possible there."""
    try:
        decoded(dialect, body)
    except Fault as fault:
        helps = fault.kind is Kind.MALFORMED and fault.param and fault.param in fault.message
        possible = [word for word in re.findall("'([^']*)'", fault.message) if word not in (fault.param, "x", "")]
        return " ".join([str(fault.param), *possible]) if helps else f"NO HELP: {fault!r}"
    return "taken"


@each_dialect
def test_whatever_stands_in_the_place_of_a_member_is_taken_or_refused_by_its_path(
    dialect: Dialect, update_golden: bool
) -> None:
    lines = []
    for name, body in REQUESTS[dialect.name].items():
        lines.append(f"# {name}")
        for path in places(body):
            if not path:
                continue
            outcomes: dict[str, list[str]] = {}
            for kind, wrong in WRONG.items():
                outcomes.setdefault(refusal(dialect, changed(body, path, wrong)), []).append(kind)
            said = "; ".join(f"{outcome}: {' '.join(kinds)}" for outcome, kinds in outcomes.items())
            lines.append(f"{dotted(path)} | {said}")
    golden(CATALOGUE / f"refused.{dialect.name}.golden.txt", "\n".join(lines) + "\n", update=update_golden)


def objects(body: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Every object in ``body`` with its path."""
    for path in places(body):
        node = body
        for step in path:
            node = node[step]
        if isinstance(node, dict):
            yield path, node


UNKNOWN = "xUnknown"


@each_dialect
def test_an_unknown_member_stays_in_its_dialect_and_is_a_loss_in_others(dialect: Dialect, update_golden: bool) -> None:
    lines = []
    others = [other for other in DIALECTS.values() if other is not dialect]
    for name, body in REQUESTS[dialect.name].items():
        lines.append(f"# {name}")
        without = {other.name: encoded(other, decoded(dialect, body)).losses for other in others}
        for path, node in objects(body):
            more = changed(body, path, {**node, UNKNOWN: "v"})
            if (refused := refusal(dialect, more)) != "taken":
                lines.append(f"{dotted(path)} | refused: {refused}")
                continue
            request = decoded(dialect, more)
            kept = [dotted(at) for at, node in objects(encoded(dialect, request).body) if UNKNOWN in node]
            lost = {}
            for other in others:
                made = encoded(other, request)
                lost[other.name] = [loss_line(loss) for loss in made.losses if loss not in without[other.name]]
                if UNKNOWN in json.dumps(made.body):
                    lost[other.name].append("KEPT")
            lines.append(f"{dotted(path)} | {', '.join(kept) or 'GONE'} | {json.dumps(lost)}")
    golden(CATALOGUE / f"unknown.{dialect.name}.golden.txt", "\n".join(lines) + "\n", update=update_golden)


# Answers, whole and streamed, and errors


def answering(dialect: Dialect) -> Answering:
    request = Request(dialect.name, "a-model", (), stream_usage=True)
    return Answering(request, carried(dialect.home), fresh_id="fresh0id", now=NOW, request_id="req_1")


ANSWERS = catalogue("answers")
STREAMS = catalogue("streams")
ERRORS = catalogue("errors")


def fault_told(fault: Fault) -> dict[str, Any]:
    members = ("status", "code", "param", "retry_after", "details", "message")
    return {"kind": fault.kind.value} | {m: v for m in members if (v := getattr(fault, m)) is not None}


def read_answer(dialect: Dialect, body: Any) -> Any:
    try:
        return plain(dialect.decode_response(body))
    except Fault as fault:
        return fault_told(fault)


@each_dialect
def test_every_member_of_an_answer_and_what_clients_get_of_it(dialect: Dialect, update_golden: bool) -> None:
    told: dict[str, Any] = {}
    for name, body in ANSWERS[dialect.name].items():
        read = read_answer(dialect, body)
        told[name] = {"neutral": read, "usage": plain(dialect.decode_usage(body))}
        if "candidates" in read:
            for target in DIALECTS.values():
                told[name][target.name] = translate_response(dialect, target, body, answering(target))
    golden(CATALOGUE / f"answers.{dialect.name}.golden.json", laid_out(told) + "\n", update=update_golden)


@each_dialect
def test_whatever_stands_in_an_answer_is_read_or_the_upstreams_fault(dialect: Dialect) -> None:
    for body in ANSWERS[dialect.name].values():
        for path in places(body):
            for wrong in WRONG.values() if path else ():
                damaged = changed(body, path, wrong)
                dialect.decode_usage(damaged)
                try:
                    response = dialect.decode_response(damaged)
                except Fault:
                    continue
                for target in DIALECTS.values():
                    msgspec.json.encode(target.encode_response(response, answering(target)))


def payloads(events: list[Any]) -> list[bytes]:
    return [event.encode() if isinstance(event, str) else json.dumps(event).encode() for event in events]


def read_stream(dialect: Dialect, events: list[Any]) -> list[str]:
    """What a decoder makes of a stream: its events, a line each; what each payload gives begins with ``-``. Nothing
    comes after its end."""
    decoder = dialect.stream_decoder()
    lines: list[str] = []
    for given in [*(decoder.feed(payload) for payload in payloads(events)), decoder.end()]:
        for at, event in enumerate(given):
            said = fault_told(event.fault) if isinstance(event, Failure) else plain(event)
            lines.append(f"{' ' if at else '-'} {type(event).__name__} {json.dumps(said, ensure_ascii=False)}")
    return lines


@each_dialect
def test_every_event_of_a_stream_and_what_clients_get_of_it(dialect: Dialect, update_golden: bool) -> None:
    lines: list[str] = []
    for name, events in STREAMS[dialect.name].items():
        lines += [f"# {name}", *read_stream(dialect, events)]
        for target in DIALECTS.values():
            pipe = Translation(dialect, target, SseDecoder(), answering(target))
            out = b"".join(pipe.feed(b"data: " + payload + b"\n\n") for payload in payloads(events)) + pipe.end()
            lines.append(f"## {target.name}: {plain(pipe.usage)} {fault_told(pipe.fault) if pipe.fault else 'whole'}")
            lines += [line for line in out.decode().splitlines() if line and not line.startswith("event:")]
    golden(CATALOGUE / f"streams.{dialect.name}.golden.txt", "\n".join(lines) + "\n", update=update_golden)


@each_dialect
def test_a_decoder_that_is_over_says_nothing_more(dialect: Dialect) -> None:
    """After its end, or after an error; Gemini's stream has no terminal event, so there it is the second end."""
    for events in STREAMS[dialect.name].values():
        decoder = dialect.stream_decoder()
        told = [event for payload in payloads(events) for event in decoder.feed(payload)] + decoder.end()
        if any(isinstance(event, Failure) for event in told[:-1]) or dialect.name == "gemini":
            continue
        assert decoder.end() == []
        assert [event for payload in payloads(events) for event in decoder.feed(payload)] == []


@each_dialect
def test_whatever_stands_in_a_stream_is_read_or_a_failure(dialect: Dialect) -> None:
    for events in STREAMS[dialect.name].values():
        for number, event in enumerate(events):
            for path in places(event) if isinstance(event, dict) else ():
                for wrong in WRONG.values() if path else ():
                    damaged = [*events[:number], changed(event, path, wrong), *events[number + 1 :]]
                    target = DIALECTS["anthropic_messages" if dialect.name != "anthropic_messages" else "gemini"]
                    pipe = Translation(dialect, target, SseDecoder(), answering(target))
                    for payload in payloads(damaged):
                        pipe.feed(b"data: " + payload + b"\n\n")
                    pipe.end()
                    assert pipe.finished or pipe.fault is not None


@each_dialect
def test_every_error_and_what_clients_are_told(dialect: Dialect, update_golden: bool) -> None:
    """Of an error answer with its status, and of the same as a payload of a stream, where it says ``0``."""
    lines: list[str] = []
    for told in ERRORS[dialect.name]["errors"]:
        status, body = told
        if status:
            fault = dialect.decode_fault(status, body)
        else:
            events = dialect.stream_decoder().feed(json.dumps(body).encode())
            fault = next((event.fault for event in events if isinstance(event, Failure)), None)
        lines.append(f"{status or 'in a stream'} {json.dumps(body, ensure_ascii=False)}")
        lines.append(f"  {json.dumps(fault_told(fault), ensure_ascii=False) if fault else 'none of its own'}")
        for target in DIALECTS.values() if fault else ():
            assert fault
            lines.append(f"    {target.name} {json.dumps(target.encode_fault(fault, 'r'), ensure_ascii=False)}")
    golden(CATALOGUE / f"errors.{dialect.name}.golden.txt", "\n".join(lines) + "\n", update=update_golden)


def test_every_kind_of_fault_as_each_dialect_tells_it(update_golden: bool) -> None:
    told: dict[str, Any] = {}
    for kind in Kind:
        faults = {
            "plain": Fault(kind, "Words."),
            "full": Fault(kind, "Words.", status=529, code="a_code", param="a.b", retry_after=1.5),
            "list": Fault(kind, "Words.", details=[{"@type": "x"}], retry_after=60),
            "object": Fault(kind, "Words.", details={"error_code": "x"}),
        }
        told[kind.value] = {
            name: {dialect.name: dialect.encode_fault(fault, "req_1") for dialect in DIALECTS.values()}
            for name, fault in faults.items()
        }
    golden(CATALOGUE / "kinds.golden.json", laid_out(told) + "\n", update=update_golden)


# Requests of nobody's dialect, and of each one's own: what a history, tools and wishes become


QUESTION = (user("q"),)


def asked(dialect: Dialect, *, own: bool, turns: Any = QUESTION, **more: Any) -> Request:
    return Request(dialect.name if own else "elsewhere", "a-model", tuple(turns), **more)


WRITERS = [(dialect, own) for dialect in DIALECTS.values() for own in (False, True)]
each_writer = pytest.mark.parametrize(
    ("dialect", "own"), WRITERS, ids=[f"{dialect.name}{'.own' if own else ''}" for dialect, own in WRITERS]
)
TURNS = {
    "openai_chat": ("messages",), "anthropic_messages": ("system", "messages"), "gemini": ("systemInstruction",
        "contents"),
}  # fmt: skip
OFFERED = ("tools", "functions", "tool_choice", "parallel_tool_calls", "toolConfig", "response_format", "output_config")
NEWER = {
    "openai_chat": "mistralai--mistral-large",
    "anthropic_messages": "anthropic--claude-4.8-opus",
    "gemini": "gemini-3-pro",
}


def part_of(made: Encoded, members: Any) -> dict[str, Any]:
    told = taken(made)
    return {**told, "body": {name: value for name, value in made.body.items() if name in members}}


@each_writer
def test_a_history_of_any_kind_as_each_dialect_writes_it(dialect: Dialect, own: bool, update_golden: bool) -> None:
    told: dict[str, Any] = {}
    for name, turns in HISTORIES.items():
        request = asked(dialect, own=own, turns=turns, tools=(ONE,))
        told[name] = usual = part_of(encoded(dialect, request, MODELS[dialect.name]), TURNS[dialect.name])
        newer = part_of(encoded(dialect, request, NEWER[dialect.name]), TURNS[dialect.name])
        if newer != usual:
            told[f"{name} ({NEWER[dialect.name]})"] = newer
    name = f"histories.{dialect.name}{'.own' if own else ''}.golden.json"
    golden(CATALOGUE / name, laid_out(told) + "\n", update=update_golden)


SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"], "additionalProperties": False}
OUTPUTS = {
    "": None,
    " + schema": Output("schema", SCHEMA, "out", "O", strict=True),
    " + open schema": Output("schema", {"type": "object"}),
    " + listed schema": Output("schema", {"type": "array", "items": {}}),
    " + JSON": Output("json"),
}
WITH_OUTPUT = ("none", "names that are taken", "None", "none parallel False", "required", "tool f parallel False")


@each_writer
def test_tools_and_the_choice_among_them_as_each_dialect_offers_them(
    dialect: Dialect, own: bool, update_golden: bool
) -> None:
    newer = NEWER[dialect.name]
    told: dict[str, Any] = {}
    for name, tools in TOOLS.items():
        for form, output in OUTPUTS.items() if name in WITH_OUTPUT else [("", None)]:
            request = asked(dialect, own=own, output=output, **tools)
            made = [part_of(encoded(dialect, request, model), OFFERED) for model in (MODELS[dialect.name], newer)]
            for model, which in zip(
                (MODELS[dialect.name], newer), made[: 1 if made[0] == made[1] else 2], strict=False
            ):
                if name != "None" or form:
                    # Each tool in full once; the last may be one that the form of the answer needs
                    which["body"] |= {"tools": tools_told(which["body"]["tools"])} if "tools" in which["body"] else {}
                told[f"{name}{form} | {model}"] = which
    name = f"offers.{dialect.name}{'.own' if own else ''}.golden.json"
    golden(CATALOGUE / name, laid_out(told) + "\n", update=update_golden)


def tools_told(tools: Any) -> list[Any]:
    """The names of tools, the last one whole."""
    *before, last = [
        node for path, node in objects(tools) if isinstance(node.get("name"), str) and "properties" not in path
    ]
    return [*(node["name"] for node in before), last]


ASKS: dict[str, dict[str, Any]] = {
    "nothing": {},
    **{f"effort {effort}": {"reasoning": ReasoningAsk(effort=effort)} for effort in (*EFFORTS, "odd")},
    "off": {"reasoning": ReasoningAsk("off")},
    "off, effort": {"reasoning": ReasoningAsk("off", "high")},
    "on": {"reasoning": ReasoningAsk("on")},
    "adaptive": {"reasoning": ReasoningAsk("adaptive")},
    "adaptive, budget": {"reasoning": ReasoningAsk("adaptive", budget=3000, visible=True)},
    "on, effort none": {"reasoning": ReasoningAsk("on", "none")},
    "shown": {"reasoning": ReasoningAsk(visible=True)},
    "hidden, on": {"reasoning": ReasoningAsk("on", budget=5000, visible=False)},
    **{f"budget {b}": {"reasoning": ReasoningAsk("on", budget=b)} for b in (0, 1, 600, 1024, 20_000, 50_000)},
    "budget and bound": {"reasoning": ReasoningAsk("on", budget=5000), "sampling": Sampling(max_tokens=5000)},
    "effort and bound": {"reasoning": ReasoningAsk("adaptive", "high"), "sampling": Sampling(max_tokens=2000)},
    "effort and small bound": {"reasoning": ReasoningAsk("on", "high"), "sampling": Sampling(max_tokens=1024)},
    "off and small bound": {"reasoning": ReasoningAsk("off"), "sampling": Sampling(max_tokens=100)},
    "off and bound": {"reasoning": ReasoningAsk("off"), "sampling": Sampling(max_tokens=9000)},
    "bare mode kept": {"reasoning": ReasoningAsk(extras={"type": "odd"})},
    "with a forced tool": {
        "reasoning": ReasoningAsk("on", "low"), "tools": (ONE,), "tool_choice": ToolChoice("required"),
    },
    "with a tool": {"reasoning": ReasoningAsk("on", "low"), "tools": (ONE,)},
    "with a prefill": {"reasoning": ReasoningAsk("on", "low"), "turns": (user("q"), assistant("{"))},
    "in a loop without thoughts": {
        "reasoning": ReasoningAsk("on", budget=2000), "turns": (user("q"), assistant(call()), user(result())),
    },
    "in a loop with thoughts": {
        "reasoning": ReasoningAsk("on", budget=2000),
        "turns": (user("q"), assistant(Reasoning("t", CLAUDE), call()), user(result()), assistant(call("c2")),
            user(result("c2"))),
    },
    "all of sampling": {
        "sampling": Sampling(300, 0.5, 0.9, 40, ("a", " ", "b", "c", "d", "e"), 7, 0.1, 0.2, 3, {"5": 1.0}, 2),
        "user": "u", "cache": CacheMark("5m"),
    },
    "sampling as it is anyway": {
        "sampling": Sampling(None, 1, 1, None, (), None, 0, 0, None, {}, 1), "cache": CacheMark(),
    },
    "sampling at its bounds": {"sampling": Sampling(10**6, 2, 0.95, 100, (), 2**31, logprobs=0)},
    "more sampling": {"sampling": Sampling(0, 1.5, 1, 0, ("a", "b", "c", "d"), -(2**31))},
    "sampling while thinking": {
        "reasoning": ReasoningAsk("on", budget=2000), "sampling": Sampling(9000, 1, 0.95, 5),
    },
    "little sampling while thinking": {
        "reasoning": ReasoningAsk("adaptive"), "sampling": Sampling(9000, 0.9, 0.94),
    },
    "verbose": {"output": Output("text", verbosity="low"), "stream": True},
    "text": {"output": Output("text")},
    "JSON that is spoken of": {"output": Output("json", verbosity="high"), "turns": (user("As JSON."),)},
    "JSON": {"output": Output("json"), "stream": True, "stream_usage": True},
    "JSON beside a tool": {"output": Output("json"), "tools": (ONE,)},
    "schema": {"output": Output("schema", SCHEMA, "out", "O", strict=False)},
    "loose schema": {"output": Output("schema", {"type": "object", "properties": {"a": {"minimum": 1}}})},
    "no schema": {"output": Output("schema")},
}  # fmt: skip
ASKED = (
    "anthropic--claude-3.5-sonnet", "anthropic--claude-3.7-sonnet", "anthropic--claude-4.5-sonnet",
    "anthropic--claude-4.5-opus", "anthropic--claude-4.6-opus", "anthropic--claude-4.8-opus",
    "gpt-4.1", "gpt-5", "gpt-5.2", "o3", "mistralai--mistral-large",
    "gemini-2.0-flash", "gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-3-pro", "gemini-3-flash",
)  # fmt: skip
HOMES = {"claude": "anthropic_messages", "gemini": "gemini"}


@pytest.mark.parametrize("own", [False, True], ids=["foreign", "own"])
@pytest.mark.parametrize("model", ASKED)
def test_wishes_as_each_model_is_told_them(model: str, own: bool, update_golden: bool) -> None:
    dialect = DIALECTS[HOMES.get(profile_of(model).family, "openai_chat")]
    lines: list[str] = []
    for name, ask in ASKS.items():
        made = encoded(dialect, asked(dialect, own=own, **ask), model)
        body = {member: value for member, value in made.body.items() if member not in ("model", "tools")}
        if "turns" not in ask and made.body[TURNS[dialect.name][-1]][-1:] == plain_end(dialect):
            del body[TURNS[dialect.name][-1]]
        lines.append(f"{name} | {json.dumps(body)}")
        lines += [f"  {loss_line(loss)}" for loss in made.losses]
    name = f"{model}{'.own' if own else ''}.golden.txt"
    golden(CATALOGUE / "wishes" / name, "\n".join(lines) + "\n", update=update_golden)


def plain_end(dialect: Dialect) -> list[Any]:
    """The usual only turn, on the wire."""
    return list(encoded(dialect, asked(dialect, own=False)).body[TURNS[dialect.name][-1]])


# Schemas, and why answers end

FINISHES = get_args(FinishReason)


def test_why_an_answer_ended_as_each_dialect_tells_it(update_golden: bool) -> None:
    """Each reason, of an answer with a text, a call, a refusal, or nothing; the same at the end of its stream."""
    parts = {"text": (Text("x"),), "call": (call(),), "refusal": (Refusal("no"),), "nothing": ()}
    lines: list[str] = []
    for reason in FINISHES:
        for name, held in parts.items():
            response = Response("answer1", "a-model", (Candidate(held, reason, "END"),), Usage(9, 2, 3, 5, 1, 1))
            words = []
            for dialect in DIALECTS.values():
                answer = dialect.encode_response(response, answering(dialect))
                encoder = dialect.stream_encoder(answering(dialect))
                wire = b"".join(encoder.feed(event) for event in unfold(response))
                assert differences(dialect.decode_response(answer), read_back(dialect, wire)) == {}
                words += [str(node[member]) for _, node in objects(answer) for member in ENDED if member in node]
            lines.append(f"{reason}, {name} | {' '.join(words)}")
    golden(CATALOGUE / "finishes.golden.txt", "\n".join(lines) + "\n", update=update_golden)


ENDED = ("finish_reason", "stop_reason", "stop_sequence", "finishReason")


# Streams told in any order, and relayed


@each_dialect
@pytest.mark.parametrize("manner", MANNERS)
def test_events_in_any_order_as_each_dialect_writes_them(dialect: Dialect, manner: str, update_golden: bool) -> None:
    """What each event adds, a line each."""
    request = replace(answering(dialect).request, **MANNERS[manner])
    asked_so = replace(answering(dialect), request=replace(request, source=dialect.name))
    lines: list[str] = []
    for name, events in EVENTS.items():
        lines.append(f"# {name}")
        encoder = dialect.stream_encoder(asked_so)
        for event in events:
            wrote = b" ".join(frame.data for frame in SseDecoder().feed(encoder.feed(event))).decode()
            lines.append(f"{type(event).__name__} {getattr(event, 'index', '')} | {wrote}")
        wrote = encoder.fail(Fault(Kind.OVERLOADED, "Busy."), "req_1").decode()
        lines.append(f"fault | {' '.join(wrote.split())}")
    golden(CATALOGUE / "told" / f"{dialect.name}.{manner}.golden.txt", "\n".join(lines) + "\n", update=update_golden)


@each_dialect
def test_every_stream_as_it_is_relayed(dialect: Dialect, update_golden: bool) -> None:
    """What is known of it, and what a client gets where that is something else than what came."""
    lines: list[str] = []
    for name, events in STREAMS[dialect.name].items():
        pipe = Relay(dialect, SseDecoder(), answering(dialect))
        came = [as_sap_writes(payload) for payload in payloads(events)]
        out = [pipe.feed(b"data: " + payload + b"\n\n") for payload in came]
        told = fault_told(pipe.fault) if pipe.fault else "no fault"
        last = pipe.end()
        ended = fault_told(pipe.fault) if pipe.fault else "whole"
        lines += [f"# {name}", f"{plain(pipe.usage)} {dict(pipe.finishes)} {told}, {ended}"]
        first = next((number for number, written in enumerate(out) if written), None)
        lines.append(f"begins with {first}, ends with {last.decode()!r}")
        given = [frame.data for frame in SseDecoder().feed(b"".join(out))]
        lines += [f"- {payload.decode()}" for payload in came if payload not in given]
        lines += [f"+ {payload.decode()}" for payload in given if payload not in came]
    golden(CATALOGUE / f"relayed.{dialect.name}.golden.txt", "\n".join(lines) + "\n", update=update_golden)


def as_sap_writes(payload: bytes) -> bytes:
    """Without spaces, which tell a relay to read every payload."""
    try:
        return json.dumps(json.loads(payload), separators=(",", ":"), ensure_ascii=False).encode()
    except ValueError:
        return payload


SCHEMAS: dict[str, Any] = json.loads((CATALOGUE / "schemas.json").read_text())


def test_every_keyword_of_a_schema_and_what_each_model_is_told_of_it(update_golden: bool) -> None:
    """Alone, and in a property of an object that would be strict without it."""
    told: dict[str, Any] = {}
    for name, value in SCHEMAS["keywords"].items():
        schema = {name: value}
        inside = {**SCHEMA, "properties": {"q": {"type": "string", **schema}}}
        told[f"{name}: {json.dumps(value)}"] = narrowed(schema) | {
            "strict": [is_strict({**SCHEMA, **schema}), is_strict(inside)],
            "fits": [fits({**SCHEMA, **schema}), fits(inside)],
        }
    for name, schema in SCHEMAS["schemas"].items():
        told[name] = narrowed(schema) | {"strict": is_strict(schema), "fits": isinstance(schema, dict) and fits(schema)}
    golden(CATALOGUE / "schemas.golden.json", laid_out(told) + "\n", update=update_golden)


def narrowed(schema: Any) -> dict[str, Any]:
    """What becomes of a schema, where it changes."""
    ways = {
        "inlined": inlined, "for_gemini": for_gemini, "for_openapi": for_openapi, "object_schema": object_schema,
    }  # fmt: skip
    made = {name: way(schema) for name, way in ways.items()}
    told = {name: [found.schema, *found.lost] for name, found in made.items()}
    told |= {"from_openapi": [from_openapi(schema)], "closed": [closed(schema)]}
    return {name: found for name, found in told.items() if found != [schema]}
