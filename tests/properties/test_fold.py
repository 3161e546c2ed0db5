from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.properties.values import any_responses, responses, tellings

from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.fold import fold, unfold
from aicore_proxy.protocol.neutral import (
    Annotated,
    Close,
    Delta,
    Done,
    Event,
    Failure,
    Finish,
    Foreign,
    Open,
    Reasoning,
    Response,
    Seal,
    Sealed,
    Start,
    Tally,
    Text,
    ToolCall,
    Undo,
    Usage,
)
from aicore_proxy.protocol.undo import Restoring


@given(any_responses)
def test_fold_undoes_unfold(response: Response) -> None:
    assert fold(unfold(response)) == response


@given(st.data())
def test_the_order_of_events_does_not_matter_to_fold(data: st.DataObject) -> None:
    response = data.draw(responses())
    assert fold(data.draw(tellings(response))) == response


def test_an_answer_that_did_not_finish_is_no_answer() -> None:
    with pytest.raises(Fault) as caught:
        fold([Start("1", "m"), Open(0, Text("")), Delta(0, "a")])
    assert caught.value.kind is Kind.UPSTREAM_FAILED


def test_a_failure_is_raised() -> None:
    fault = Fault(Kind.OVERLOADED, "busy")
    with pytest.raises(Fault) as caught:
        fold([Start("1", "m"), Failure(fault)])
    assert caught.value is fault


def test_notes_of_a_part_are_joined_and_late_usage_counts() -> None:
    events: list[Event] = [
        Start("1", "m", Usage(5)),
        Open(0, Text("a", extras={"citations": [1]})),
        Annotated(0, "d", {"citations": [2]}),
        Annotated(0, "d", {"other": 3}),
        Finish("stop"),
        Tally(Usage(5, output=2)),
    ]
    response = fold(events)
    assert response.candidates[0].parts == (Text("a", extras={"citations": [1, 2], "other": 3}),)
    assert response.usage == Usage(5, output=2)


# What a request needed, turned back


def restored(events: list[Event], undo: Undo | None = None, source: str = "a", target: str = "b") -> list[Event]:
    restore = Restoring(undo or Undo(), source, target, "f1")
    return [out for event in events for out in restore(event)]


def test_tool_names_return_and_calls_without_id_get_one() -> None:
    events: list[Event] = [Open(0, ToolCall("", "a_b")), Delta(0, "{}"), Close(0), Finish("tool_calls")]
    back = restored(events, Undo(tool_names={"a_b": "a.b"}))
    assert back == [Open(0, ToolCall("call_f1_0_0", "a.b")), *events[1:]]


def test_a_call_of_the_output_tool_is_the_text_and_the_answer_has_stopped() -> None:
    events: list[Event] = [
        Open(0, ToolCall("1", "out")), Delta(0, '{"a"'), Delta(0, ":1}"), Close(0),
        Open(1, ToolCall("2", "out")), Delta(1, "{}"), Close(1),
        Open(2, Text("")), Delta(2, "x"), Close(2),
        Finish("tool_calls"),
    ]  # fmt: skip
    assert restored(events, Undo(output_tool="out")) == [
        Open(0, Text("")), Delta(0, '{"a"'), Delta(0, ":1}"), Close(0),
        Open(1, Text("")), Delta(1, "x"), Close(1),
        Finish("stop"),
    ]  # fmt: skip


def test_beside_another_call_the_finish_stays() -> None:
    events: list[Event] = [Open(0, ToolCall("1", "out")), Open(1, ToolCall("2", "real")), Finish("tool_calls")]
    assert restored(events, Undo(output_tool="out"))[-1] == Finish("tool_calls")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input":"a\\nb"}', "a\nb"),
        ('{"a":"1","b":"2"}', '{"a":"1","b":"2"}'),
        ("{not", "{not"),
        ('{"a":1}', '{"a":1}'),
    ],
)
@pytest.mark.parametrize("closed", [True, False])
def test_a_free_text_tool_gets_its_text(arguments: str, text: str, closed: bool) -> None:
    half = len(arguments) // 2
    events: list[Event] = [Open(0, ToolCall("1", "patch")), Delta(0, arguments[:half]), Delta(0, arguments[half:])]
    events += [Close(0)] if closed else []
    back = restored([*events, Finish("tool_calls")], Undo(custom_tools=frozenset({"patch"})))
    expected: list[Event] = [Open(0, ToolCall("1", "patch", kind="custom")), Delta(0, text)]
    assert back == [*expected, *([Close(0)] if closed else []), Finish("tool_calls")]


@pytest.mark.parametrize("closed", [True, False])
def test_a_text_that_is_to_be_json_comes_without_its_fence(closed: bool) -> None:
    events: list[Event] = [Open(0, Text("")), *(Delta(0, piece) for piece in ("``", '`json\n{"a"', ":1}\n", "```"))]
    events += [Close(0)] if closed else []
    back = restored([*events, Open(1, Text("``")), Finish("stop")], Undo(bare_json=True))
    assert back == [
        Open(0, Text("")), Delta(0, '{"a"'), Delta(0, ":1}"), *([Close(0)] if closed else []),
        Open(1, Text("")), Delta(1, "``"), Finish("stop"),
    ]  # fmt: skip


def test_what_only_the_upstream_understands_stays_behind() -> None:
    events: list[Event] = [
        Start("1", "m", extras={"x": 1}),
        Open(0, Foreign("a", {"type": "search"})),
        Close(0),
        Open(1, Text("", extras={"y": 1})),
        Delta(1, "t"),
        Annotated(1, "a", {"citations": []}),
        Close(1),
        Open(2, Reasoning("")),
        Sealed(2, Seal("gpt", "s")),
        Finish("stop", extras={"z": 1}),
        Done(),
    ]
    assert restored(events) == [
        Start("1", "m"),
        Open(0, Text("")),
        Delta(0, "t"),
        Close(0),
        Open(1, Reasoning("")),
        Sealed(1, Seal("gpt", "s")),
        Finish("stop"),
        Done(),
    ]
    assert restored(events, source="a", target="a") == events
