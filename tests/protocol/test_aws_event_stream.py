from __future__ import annotations

import base64
import json
import struct
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.framing import AwsEventStreamDecoder
from aicore_proxy.protocol.framing.frame import LIMIT

HEADERS = {
    0: b"",
    1: b"",
    2: b"\x07",
    3: bytes(2),
    4: bytes(4),
    5: bytes(8),
    6: b"\x00\x03abc",
    8: bytes(8),
    9: bytes(16),
}
"""A value of each type of header that is no string, as botocore writes it."""


def message(payload: bytes, **headers: str) -> bytes:
    """A message as botocore reads it: strings that matter, before them a header of each other type to be skipped."""
    block = b"".join(b"\x03pad" + bytes([kind]) + value for kind, value in HEADERS.items())
    for name, value in headers.items():
        key = b":" + name.replace("_", "-").encode()
        block += bytes([len(key)]) + key + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + block + payload
    return body + struct.pack(">I", zlib.crc32(body))


def chunk(event: dict[str, object]) -> bytes:
    inner = base64.b64encode(json.dumps(event).encode()).decode()
    return message(json.dumps({"bytes": inner, "p": "abc"}).encode(), event_type="chunk", message_type="event")


WIRE = (
    message(b"{}", event_type="initial-response", message_type="event")
    + chunk({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Grüße"}})
    + message(b'{"stopReason":"end_turn"}', event_type="messageStop", message_type="event")
    + message(b'{"message":"slow down"}', message_type="exception", exception_type="throttlingException")
    + message(b"", message_type="error", error_code="InternalFailure", error_message="broke")
)
PAYLOADS = [
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Grüße"}},
    {"messageStop": {"stopReason": "end_turn"}},
    {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}},
    {"type": "error", "error": {"type": "api_error", "message": "broke"}},
]


@given(st.lists(st.integers(0, len(WIRE))))
def test_any_split_gives_the_payloads(cuts: list[int]) -> None:
    places = sorted({0, *cuts, len(WIRE)})
    decoder = AwsEventStreamDecoder()
    pieces = [WIRE[start:end] for start, end in pairwise(places)]
    assert [json.loads(frame.data) for piece in pieces for frame in decoder.feed(piece)] == PAYLOADS
    assert decoder.end() == []


@pytest.mark.parametrize("place", range(len(chunk({"a": 1}))))
def test_every_flipped_byte_is_noticed_after_the_good_frames(place: int) -> None:
    good = chunk({"good": True})
    bad = bytearray(chunk({"a": 1}))
    bad[place] ^= 0x41
    decoder = AwsEventStreamDecoder()
    frames = decoder.feed(good + bytes(bad))
    assert [json.loads(frame.data) for frame in frames] == [{"good": True}]
    with pytest.raises(Fault) as caught:
        decoder.feed(b"\x00" * 64)
        decoder.end()
    assert caught.value.kind is Kind.UPSTREAM_FAILED


@pytest.mark.parametrize(
    "bad",
    [
        message(b"not json", event_type="chunk", message_type="event"),
        message(b'{"bytes":"%%%"}', event_type="chunk", message_type="event"),
        message(b'{"bytes":7}', event_type="chunk", message_type="event"),
        message('{"bytes":"é"}'.encode(), event_type="chunk", message_type="event"),
    ],
)
def test_a_chunk_that_holds_no_event_is_a_fault(bad: bytes) -> None:
    with pytest.raises(Fault):
        AwsEventStreamDecoder().feed(bad)


def test_an_exception_without_json_keeps_its_words() -> None:
    wire = message(b"no json", message_type="exception", exception_type="modelStreamErrorException")
    assert json.loads(AwsEventStreamDecoder().feed(wire)[0].data)["error"] == {
        "type": "api_error",
        "message": "no json",
    }


@pytest.mark.parametrize(
    ("headers", "kind", "words"),
    [
        ({"message_type": "exception", "exception_type": "serviceUnavailableException"}, "overloaded_error", "serv"),
        ({"message_type": "exception"}, "api_error", ""),
        ({"message_type": "error", "error_code": "throttlingException"}, "rate_limit_error", "throttlingException"),
        ({"message_type": "error"}, "api_error", ""),
    ],
)
def test_an_error_without_words_has_its_name(headers: dict[str, str], kind: str, words: str) -> None:
    [frame] = AwsEventStreamDecoder().feed(message(b"", **headers))
    error = json.loads(frame.data)["error"]
    assert error["type"] == kind
    assert error["message"].startswith(words)
    assert bool(error["message"]) is bool(words)


@pytest.mark.parametrize(
    "header", [b"\x03odd\x0a", b"\x03odd", b"\x09odd", b"\x02\xff\xfe\x00", b"\x01a\x07\x00\x01\xff"]
)
def test_headers_that_cannot_be_read_are_a_fault(header: bytes) -> None:
    """A type that is none, an end too early, names and values that are no UTF-8."""
    prelude = struct.pack(">II", 16 + len(header) + 2, len(header))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + header + b"{}"
    decoder = AwsEventStreamDecoder()
    with pytest.raises(Fault, match="headers") as caught:
        decoder.feed(body + struct.pack(">I", zlib.crc32(body)))
    assert caught.value.kind is Kind.UPSTREAM_FAILED
    with pytest.raises(Fault):
        decoder.end()


@pytest.mark.parametrize(("total", "headers"), [(15, 0), (17, 2), (LIMIT + 1, 0)])
def test_lengths_that_cannot_be_are_a_fault(total: int, headers: int) -> None:
    prelude = struct.pack(">II", total, headers)
    with pytest.raises(Fault, match="length"):
        AwsEventStreamDecoder().feed(prelude + struct.pack(">I", zlib.crc32(prelude)))


@pytest.mark.parametrize(("total", "headers"), [(16, 0), (18, 2), (LIMIT, 0)])
def test_lengths_that_may_be_wait_for_the_rest(total: int, headers: int) -> None:
    prelude = struct.pack(">II", total, headers)
    decoder = AwsEventStreamDecoder()
    assert decoder.feed(prelude + struct.pack(">I", zlib.crc32(prelude))) == []
    assert decoder.end() == []


THROWN = {
    "ThrottlingException": "rate_limit_error", "serviceQuotaExceededException": "rate_limit_error",
    "ServiceUnavailableException": "overloaded_error", "modelNotReadyException": "overloaded_error",
    "ModelTimeoutException": "timeout_error", "validationException": "invalid_request_error",
    "accessDeniedException": "permission_error", "resourceNotFoundException": "not_found_error",
    "modelStreamErrorException": "api_error", "internalServerException": "api_error",
}  # fmt: skip


@pytest.mark.parametrize("member", ["message", "Message", "originalMessage", None])
def test_each_exception_and_where_its_words_stand(member: str | None) -> None:
    payload = json.dumps({member: "words", "odd": 1} if member else {"odd": 1}).encode()
    for name, kind in THROWN.items():
        [frame] = AwsEventStreamDecoder().feed(message(payload, message_type="exception", exception_type=name))
        words = "words" if member else payload.decode()
        assert json.loads(frame.data) == {"type": "error", "error": {"type": kind, "message": words}}
