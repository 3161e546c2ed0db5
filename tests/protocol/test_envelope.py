"""What a client's body may look like and still be read, and what is said of one that cannot be."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.test_pipe import CHAT, GEMINI, MESSAGES, relay, translation

from aicore_proxy.protocol import surrogates
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.fault import Fault, Kind


def read(body: bytes) -> dict[str, object]:
    return Envelope.parse(body).decoded()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', 1),
        (b'\n\t {"a": 1}\r\n', 1),
        (b'{"a": 0, "a": 1}', 1),
        (rb'{"a": "half \ud83d of it"}', "half \ufffd of it"),
        (rb'{"a": "\ud83d"}', "\ufffd"),
        (rb'{"a": "\uDE00"}', "\ufffd"),
        (rb'{"a": "\ud83d\u0041"}', "\ufffdA"),
        (rb'{"a": "\ude00\ud83d"}', "\ufffd\ufffd"),
        (rb'{"a": "\ud83d\ud83d\ude00"}', "\ufffd\U0001f600"),
        (rb'{"a": "\\ud83d \\\ud83d \\\\ud83d"}', "\\ud83d \\\ufffd \\\\ud83d"),
    ],
)
def test_odd_but_readable(body: bytes, value: object) -> None:
    assert read(body) == {"a": value}


@given(st.lists(st.sampled_from([r"\ud83d", r"\ude00", r"\\", r"\n", "x", r"\u0041", "ud83d", "\u00e9"]), max_size=12))
def test_any_mixture_of_halves_is_read_as_other_readers_do(pieces: list[str]) -> None:
    body = ('{"a": "' + "".join(pieces) + '"}').encode()
    text = json.loads(body)["a"]
    assert read(body) == {"a": text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")}
    if surrogates.mended(body) is None:
        assert read(body) == {"a": text}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"[]", "must be a JSON object"),
        (b'{"a": NaN}', "JSON has no NaN"),
        (b'{"a": [-Infinity]}', "JSON has no Infinity"),
        (b'{"a": 1,}', "byte 8"),
        (rb'{"a": "\ud83d', "not valid JSON"),
        ('{"a": "caf\u00e9"}'.encode("latin-1"), "UTF-8"),
        ("{}".encode("utf-16"), "UTF-8"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_cannot_be_read_is_said_in_words_that_help(body: bytes, words: str) -> None:
    with pytest.raises(Fault, match=words) as caught:
        Envelope.parse(body)
    assert (caught.value.kind, caught.value.status) == (Kind.MALFORMED, 400)


HALVES = {
    CHAT: rb'{"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    rb'"choices":[{"index":0,"delta":{"role":"assistant","content":"\ud83d"},"finish_reason":"stop"}]}',
    GEMINI: rb'{"candidates":[{"content":{"role":"model","parts":[{"text":"\ud83d"}]},"finishReason":"STOP"}]}',
    MESSAGES: rb'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\ud83d"}}',
}


def test_half_a_character_of_an_upstream_ends_no_stream() -> None:
    for source, payload in HALVES.items():
        wire = b"data: " + payload + b"\n\n"
        for target in HALVES:
            stream = relay(target) if source is target else translation(source, target)
            out = stream.feed(wire)
            assert stream.fault is None
            assert stream.started
            assert rb"\ud83d" in out if source is target else "\ufffd" in out.decode()


MEMBERS: dict[type, tuple[str, object]] = {
    str: ('"x"', "x"), bool: ("false", False), int: ("7", 7), list: ("[1]", [1]), dict: ('{"b":1}', {"b": 1}),
}  # fmt: skip
WANTED = {str: "a string", bool: "true or false", int: "an integer", list: "an array", dict: "an object"}


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_member_is_of_the_kind_that_is_asked_for_or_named(kind: type) -> None:
    for other, (text, value) in MEMBERS.items():
        envelope = Envelope.parse(f'{{"a": {text}, "n": null}}'.encode())
        assert envelope.get("n", kind) is envelope.get("absent", kind) is None
        if other is kind:
            assert envelope.get("a", kind) == value
            assert envelope.get("a", kind) is envelope.get("a", kind)
            continue
        with pytest.raises(Fault) as caught:
            envelope.get("a", kind)
        assert (caught.value.kind, caught.value.param) == (Kind.MALFORMED, "a")
        assert caught.value.message == f"'a' must be {WANTED[kind]}."


@pytest.mark.parametrize("inner", [b"9" * 5000, b"[" + b"9" * 5000 + b"]"])
def test_what_only_shows_inside_a_member_is_named_by_it(inner: bytes) -> None:
    envelope = Envelope.parse(b'{"fine": 1, "a": ' + inner + b"}")
    assert envelope.get("fine", int) == 1
    for read_it in (envelope.decoded, lambda: envelope.get("a", int)):
        with pytest.raises(Fault) as caught:
            read_it()
        assert (caught.value.kind, caught.value.param) == (Kind.MALFORMED, "a")
        assert "in 'a'" in caught.value.message


BODY = rb'{ "a" : 1.50,"b":[ 1 ], "a": "\u00e9" }'


@pytest.mark.parametrize(
    ("drop", "put", "expected"),
    [
        ((), None, b'{"a":"\\u00e9","b":[ 1 ]}'),
        (("a",), None, b'{"b":[ 1 ]}'),
        (("a", "b", "z"), None, b"{}"),
        (("a", "b"), {"c": b"2"}, b'{"c":2}'),
        ((), {"b": b"{ }", "c": b"2", 'd"': b"3"}, b'{"a":"\\u00e9","b":{ },"c":2,"d\\"":3}'),
        (("a",), {"a": b"0"}, b'{"b":[ 1 ]}'),
    ],
)
def test_members_are_taken_out_and_put_in_and_the_others_stay_byte_for_byte(
    drop: tuple[str, ...], put: dict[str, bytes] | None, expected: bytes
) -> None:
    envelope = Envelope.parse(BODY)
    assert envelope.spliced(drop, put) == expected


def test_what_an_envelope_knows_of_its_bytes() -> None:
    envelope = Envelope.parse(b"\xef\xbb\xbf" + BODY)
    assert (envelope.size, envelope.memo) == (len(BODY), {})
    assert envelope.holds("b", b"[ 1")
    assert not envelope.holds("b", b"[1")
    assert not envelope.holds("c", b"")
    assert envelope.decoded() is envelope.decoded()
    assert envelope.decoded() == {"a": "\u00e9", "b": [1]}
