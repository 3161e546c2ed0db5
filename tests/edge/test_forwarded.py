"""X-Forwarded-For: whose word counts, and what becomes of nonsense in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.edge.raw import serving

from aicore_proxy.server.forwarded import address_of, trusted_proxies

TRUSTED = trusted_proxies(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"])


def client(peer: str, *values: str) -> str:
    return TRUSTED.client(peer, [(b"x-forwarded-for", value.encode("latin-1")) for value in values])


@pytest.mark.parametrize(
    ("peer", "values", "found"),
    [
        ("203.0.113.1", ["198.51.100.1"], "203.0.113.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1, 10.2.3.4,192.0.2.7"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1", "10.9.9.9"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("::ffff:10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("2001:db8::1", ["[2001:dead::5]:443"], "2001:dead::5"),
        ("10.0.0.1", ["2001:dead::5"], "2001:dead::5"),
        ("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, , 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2, 999.1.1.1"], "10.0.0.1"),
        ("10.0.0.1", [",,,"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.2," * 5000 + "10.0.0.3"], "10.0.0.2"),
        ("unix", ["198.51.100.1"], "unix"),
    ],
)
def test_the_rightmost_address_that_no_trusted_proxy_has(peer: str, values: list[str], found: str) -> None:
    assert client(peer, *values) == found


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=80), max_size=5))
def test_nothing_in_the_field_makes_an_error_or_anything_but_an_address(values: list[str]) -> None:
    assert address_of(client("10.0.0.1", *values)) is not None


def test_other_fields_are_not_believed() -> None:
    fields = [(b"forwarded", b"for=1.1.1.1"), (b"x-real-ip", b"1.1.1.1"), (b"x-client-ip", b"1.1.1.1")]
    assert TRUSTED.client("10.0.0.1", fields) == "10.0.0.1"


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "proxy.internal", "", "*"])
def test_what_is_no_network_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="neither an IP address nor a network"):
        trusted_proxies(["10.0.0.1", entry])


def test_on_the_wire() -> None:
    forwarded = "X-Forwarded-For: 198.51.100.9, 10.0.0.4\r\n"
    with serving() as server, server.connect() as http:
        assert http.get("/x", fields=forwarded).json["address"] == "127.0.0.1"
    with serving(proxies=["127.0.0.0/8", "10.0.0.0/8"]) as server, server.connect() as http:
        assert http.get("/x", fields=forwarded).json["address"] == "198.51.100.9"
        assert http.get("/x").json["address"] == "127.0.0.1"
        for nonsense in ("\xff\xfe", "[", "[::1", "%", "1.2.3.4%", "::1%eth0", "1" * 9000, ",", "0x7f.1"):
            answer = http.get("/x", fields=f"X-Forwarded-For: {nonsense}\r\n")
            assert (answer.status, answer.json["address"] in ("127.0.0.1", "::1")) == (200, True), nonsense


def test_guessers_behind_a_trusted_proxy_are_told_apart() -> None:
    with serving(proxies=["127.0.0.1"]) as server, server.connect() as http:
        for number in range(60):
            fields = f"x-api-key: guess-{number}\r\nX-Forwarded-For: 6.6.6.{number}, 198.51.100.1\r\n"
            status = http.get("/keyed", fields=fields).status
        assert status == 429
        other = "x-api-key: wrong\r\nX-Forwarded-For: 198.51.100.2\r\n"
        assert http.get("/keyed", fields=other).status == 401
