"""The fence that models put around JSON comes off, however the text is cut; no other text is touched."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.protocol.json_mode import Unfenced

JSON = '{"a": "```\\n", "b": [1]}'


def passed(pieces: list[str]) -> str:
    unfenced = Unfenced()
    return "".join([*map(unfenced.feed, pieces), unfenced.end()])


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (JSON, JSON),
        (f"```json\n{JSON}\n```", JSON),
        (f"\n```JSON\r\n{JSON}\r\n```\n", JSON),
        (f"```\n{JSON}```", JSON),
        (f"``` json\n\n{JSON}\n```\nI hope that this helps: ```\n", f"\n{JSON}"),
        (f"```json {JSON}", JSON),
        (f"  {JSON} ", f"  {JSON} "),
        ("```json\n[1,\n2]\n  ```", "[1,\n2]"),
        ("I cannot answer that.", "I cannot answer that."),
        ("```python\nprint({})\n```", "```python\nprint({})\n```"),
        ("``", "``"),
        ("```json\n", "```json\n"),
        ("", ""),
        (" ", " "),
        ("`x` is {", "`x` is {"),
    ],
)
def test_only_the_fence_comes_off_whatever_the_cuts(text: str, kept: str) -> None:
    for cut in range(len(text) + 1):
        assert passed([text[:cut], text[cut:]]) == kept
    assert passed(list(text)) == kept


@given(st.text(alphabet='{}[]" `jsn\n\ta1'), st.lists(st.integers(0, 30)))
def test_pieces_make_the_same_as_the_whole(text: str, cuts: list[int]) -> None:
    marks = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    whole = passed([text])
    assert passed([text[a:b] for a, b in pairwise(marks)]) == whole
    assert whole == text or text.lstrip().startswith("```")


def test_json_is_not_held_back() -> None:
    unfenced = Unfenced()
    assert [unfenced.feed(piece) for piece in ("```js", "on\n{", '"a":', " 1", "}\n", "```")] == [
        "", "{", '"a":', " 1", "}", "",
    ]  # fmt: skip
