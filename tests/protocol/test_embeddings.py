"""Embeddings: requests checked, vectors in the encoding that was asked for."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.protocol.dialects.embeddings import (
    EmbeddingRequest,
    answer,
    as_asked,
    decode_request,
    packed,
    unpacked,
    usage_of,
)
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import Usage

CAPTURES = Path(__file__).parents[1] / "captures"
FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=8)


def captured() -> list[Any]:
    named = {f"{path.parent.name}/{path.stem}": json.loads(path.read_bytes()) for path in CAPTURES.glob("*/*.json")}
    asked = {name: capture["body"] for name, capture in named.items() if capture["path"].endswith("/embeddings")}
    return [pytest.param(body, id=name) for name, body in sorted(asked.items())]


@pytest.mark.parametrize("body", captured())
def test_every_captured_request_is_read(body: dict[str, Any]) -> None:
    request = decode_request(body)
    told = body["input"]
    assert list(request.texts) == ([told] if isinstance(told, str) else told)
    assert request.single is isinstance(told, str)
    assert request.encoding == body.get("encoding_format", "float")
    assert request.dimensions == body.get("dimensions")


def test_tokens_are_read_as_one_input_or_several() -> None:
    assert decode_request({"model": "m", "input": [0, 2]}) == EmbeddingRequest("m", tokens=((0, 2),), single=True)
    assert decode_request({"model": "m", "input": [[1], [2, 3]]}) == EmbeddingRequest("m", tokens=((1,), (2, 3)))


def test_the_rest_is_read() -> None:
    body = {"model": "m", "input": ["a", "b"], "dimensions": 256, "encoding_format": "base64", "user": "u", "more": 1}
    assert decode_request(body) == EmbeddingRequest(
        "m", texts=("a", "b"), dimensions=256, encoding="base64", user="u", extras={"more": 1}
    )


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": True}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [True]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 5]}, "input[1]"),
        ({"input": [1, "a"]}, "input[1]"),
        ({"input": [1, -1]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [[1], "a"]}, "input[1]"),
        ({"input": [[1], ["a"]]}, "input[1][0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "many"}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"user": 5}, "user"),
    ],
)
def test_a_malformed_request_is_a_fault_that_names_the_place(members: dict[str, Any], param: str) -> None:
    with pytest.raises(Fault) as raised:
        decode_request({"model": "m", "input": "a", **members})
    assert (raised.value.kind, raised.value.param) == (Kind.MALFORMED, param)
    assert param in raised.value.message


def test_vectors_are_little_endian_float32() -> None:
    assert packed([1.0, -2.5]) == base64.b64encode(struct.pack("<ff", 1.0, -2.5)).decode() == "AACAPwAAIMA="
    assert unpacked("AACAPwAAIMA=") == [1.0, -2.5]


@given(st.lists(FLOATS, min_size=1, max_size=3))
def test_what_was_asked_for_is_what_comes(vectors: list[list[float]]) -> None:
    plain = answer(vectors, EmbeddingRequest("m"), 3)
    coded = answer(vectors, EmbeddingRequest("m", encoding="base64"), 3)
    assert [entry["index"] for entry in plain["data"]] == list(range(len(vectors)))
    assert {name: value for name, value in plain.items() if name != "data"} == {
        "object": "list", "model": "m", "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }  # fmt: skip
    assert as_asked(plain, "base64") == coded
    assert as_asked(coded, "float") == plain
    assert as_asked(plain, "float") is plain
    assert as_asked(coded, "base64") is coded
    assert usage_of(plain) == Usage(input=3)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [5],
        [{}],
        [{"embedding": 5}],
        [{"embedding": "?"}],
        [{"embedding": "AAA="}],
        [{"embedding": base64.b64encode(struct.pack("<f", float("nan"))).decode()}],
    ],
)
def test_what_is_no_answer_is_a_fault(data: Any) -> None:
    with pytest.raises(Fault) as raised:
        as_asked({"data": data}, "float")
    assert raised.value.kind is Kind.UPSTREAM_FAILED


@pytest.mark.parametrize("vector", [["a"], [1e39], [None]])
def test_what_is_no_vector_is_a_fault(vector: list[Any]) -> None:
    with pytest.raises(Fault) as raised:
        as_asked({"data": [{"embedding": vector}]}, "base64")
    assert raised.value.kind is Kind.UPSTREAM_FAILED


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "total_tokens": 5}, Usage(input=3)),
        ({"prompt_tokens": -3}, Usage()),
        ({"total_tokens": 4}, Usage(input=4)),
        ({"prompt_tokens": True}, None),
        ({}, None),
        (None, None),
    ],
)
def test_usage(usage: Any, expected: Usage | None) -> None:
    assert usage_of({"usage": usage}) == expected
