"""What only the source dialect understands: told by name, and fatal where the user said something with it."""

from __future__ import annotations

import pytest

from aicore_proxy.protocol.clearing import cleared
from aicore_proxy.protocol.neutral import Foreign, Loss, ReasoningAsk, Request, Text, Tool, ToolChoice, ToolResult, Turn

BLOCK = Foreign("anthropic_messages", {"type": "container_upload", "file_id": "file_1"})
TEXT = Text("Hello")


@pytest.mark.parametrize(
    ("turn", "harmless"),
    [
        (Turn("user", (TEXT, BLOCK)), False),
        (Turn("system", (BLOCK,)), False),
        (Turn("developer", (BLOCK,)), False),
        (Turn("assistant", (TEXT, BLOCK)), True),
        (Turn("user", (ToolResult("call_1", (TEXT, BLOCK)),)), True),
    ],
    ids=["user", "system", "developer", "assistant", "tool result"],
)
def test_a_block_of_another_dialect_is_fatal_where_the_user_speaks(turn: Turn, harmless: bool) -> None:
    losses: list[Loss] = []
    request = Request("anthropic_messages", "m", (turn,), stream=False)
    left = cleared(request, "gemini", losses)
    assert losses == [Loss("content.container_upload", "gemini", harmless, "block of another API")]
    assert not any(isinstance(part, Foreign) for part in left.turns[0].parts)


def test_where_the_client_said_it_is_told() -> None:
    losses: list[Loss] = []
    block = Foreign("a", {"type": "odd"}, "messages.3.content.1")
    cleared(Request("a", "m", (Turn("user", (block,)),), stream=False), "gemini", losses)
    assert losses == [
        Loss("messages.3.content.1", "gemini", False, "a block of type 'odd', which only another API has")
    ]


def test_its_own_dialect_keeps_it() -> None:
    losses: list[Loss] = []
    request = Request("anthropic_messages", "m", (Turn("user", (TEXT, BLOCK)),), stream=False)
    assert cleared(request, "anthropic_messages", losses) is request
    assert losses == []


def test_members_that_only_the_source_knows_are_told_with_their_place_and_taken_out() -> None:
    losses: list[Loss] = []
    odd = {"odd": 1}
    result = ToolResult("call_1", (Text("x", extras=odd),), extras=odd)
    request = Request(
        "a", "m", (Turn("user", (Text("x", extras=odd), result), extras=odd),), stream=False,
        tools=(Tool("f", extras=odd),), tool_choice=ToolChoice("auto", extras=odd),
        reasoning=ReasoningAsk(extras=odd), extras=odd,
    )  # fmt: skip

    left = cleared(request, "gemini", losses)

    places = ["messages.", "content.", "content.", "content.", "tools.", "", "tool_choice.", "reasoning."]
    assert sorted(loss.field for loss in losses) == sorted(f"{place}odd" for place in places)
    assert "odd" not in repr(left)
