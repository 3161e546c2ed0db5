"""Client keys: where they are looked for, how guessers are slowed, how a key is made and kept."""

from __future__ import annotations

import asyncio
import multiprocessing
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from tests.edge.raw import Server, serving

from aicore_proxy.gateway.exchange import ClientRequest
from aicore_proxy.gateway.keys import Keys, Throttle, client_key, presented
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.server.keyfile import ClientKey, KeyFileError, obtain_key


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def request(*fields: tuple[str, str], query: str = "", address: str = "192.0.2.1") -> ClientRequest:
    async def nothing(_: int) -> bytes:
        return b""

    return ClientRequest(
        method="POST",
        path="/",
        query=query.encode(),
        fields=[(name.encode(), value.encode("latin-1")) for name, value in fields],
        address=address,
        request_id="",
        received=0.0,
        gone=asyncio.Event(),
        read=nothing,
    )


@pytest.mark.parametrize(
    "asked",
    [
        request(("authorization", "Bearer right")),
        request(("authorization", "bearer right")),
        request(("authorization", "BEARER   right ")),
        request(("x-api-key", "right")),
        request(("api-key", "right")),
        request(("x-goog-api-key", "right")),
        request(query="alt=sse&key=right"),
        request(query="key=%72ight"),
        request(("x-api-key", "right"), ("authorization", "Bearer right"), query="key=right"),
        request(("authorization", "Basic dTpw"), ("x-api-key", "right")),
        request(("authorization", "right")),
        request(("authorization", "none"), ("x-api-key", "right")),
        request(("authorization", "Bearer "), ("x-api-key", "right")),
    ],
)
def test_a_right_key_is_found_in_every_usual_place(asked: ClientRequest) -> None:
    keys = Keys([client_key("other", "left"), client_key("mine", "right")])
    caller = keys.authenticate(asked)
    assert caller.name == "mine"
    assert caller.key_id != keys.authenticate(request(("x-api-key", "left"))).key_id
    assert "right" not in caller.key_id


@pytest.mark.parametrize(
    "asked",
    [
        request(),
        request(("x-api-key", "wrong")),
        request(("x-api-key", "righ")),
        request(("x-api-key", "rightt")),
        request(("x-api-key", "RIGHT")),
        request(("x-api-key", "right, right")),
        request(("x-api-key", "right" + "t" * 7000)),
        request(("x-api-key", "ré")),
        request(("x-api-key", "right"), ("api-key", "wrong")),
        request(("x-api-key", "right"), ("x-api-key", "wrong")),
        request(("x-api-key", "right"), query="key=wrong"),
        request(("authorization", "Basic right")),
        request(("authorization", "Bearer")),
        request(("proxy-authorization", "Bearer right")),
        request(("cookie", "key=right; x-api-key=right")),
        request(("user-agent", "right")),
        request(("x-forwarded-for", "127.0.0.1")),
        request(query="api_key=right&monkey=right"),
    ],
)
def test_i05_everything_else_is_refused(asked: ClientRequest) -> None:
    with pytest.raises(Fault) as refused:
        Keys([client_key("mine", "right")]).authenticate(asked)
    assert refused.value.kind is Kind.UNAUTHENTICATED
    assert not any(part in refused.value.message for part in presented(asked))


def test_a_key_can_be_looked_up() -> None:
    keys = Keys([client_key("mine", "right")], Throttle(failures=1), clock=Clock())
    assert keys.named("right") is not None
    assert not any(keys.named(key) for key in ("", "wrong", "righ"))
    assert fails(keys)[0] is Kind.UNAUTHENTICATED


def test_no_key_is_right_where_there_are_none() -> None:
    for asked in (request(), request(("x-api-key", "")), request(("x-api-key", "any"))):
        with pytest.raises(Fault):
            Keys([]).authenticate(asked)


def fails(keys: Keys, key: str = "wrong", address: str = "192.0.2.1") -> tuple[Kind, float | None]:
    with pytest.raises(Fault) as refused:
        keys.authenticate(request(("x-api-key", key), address=address))
    return refused.value.kind, refused.value.retry_after


def test_i06_failures_of_an_address_are_slowed_and_a_right_key_is_served() -> None:
    clock = Clock()
    keys = Keys([client_key("mine", "right")], clock=clock)
    for number in range(20):
        assert fails(keys, f"wrong-{number}") == (Kind.UNAUTHENTICATED, None)
    penalties = []
    for number in range(9):
        kind, wait = fails(keys, f"guess-{number}")
        assert kind is Kind.RATE_LIMITED
        assert wait is not None
        penalties.append(wait)
        clock.now += wait - 1
        for guess in range(20):
            assert fails(keys, f"more-{number}-{guess}")[0] is Kind.RATE_LIMITED
        assert keys.authenticate(request(("x-api-key", "right"))).name == "mine"
        assert fails(keys, "wrong", address="192.0.2.2")[0] is Kind.UNAUTHENTICATED
        clock.now += 1
        assert fails(keys, f"again-{number}")[0] is Kind.UNAUTHENTICATED  # one more, and the next pause is longer
    assert penalties == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    clock.now += 200
    assert fails(keys) == (Kind.UNAUTHENTICATED, None)
    for number in range(19):
        fails(keys, f"later-{number}")
    assert fails(keys, "at-last")[1] == 1  # after a quiet time it begins anew


def test_slow_failures_are_never_slowed_further() -> None:
    clock = Clock()
    keys = Keys([client_key("mine", "right")], clock=clock)
    for number in range(200):
        clock.now += 3.2
        assert fails(keys, f"wrong-{number}") == (Kind.UNAUTHENTICATED, None)


def test_a_request_without_a_key_is_no_guess() -> None:
    keys = Keys([client_key("mine", "right")], clock=Clock())
    for _ in range(50):
        assert fails(keys, "") == (Kind.UNAUTHENTICATED, None)
    assert fails(keys, "wrong") == (Kind.UNAUTHENTICATED, None)


def test_one_wrong_key_from_many_addresses_is_slowed() -> None:
    keys = Keys([client_key("mine", "right")], clock=Clock())
    kinds = [fails(keys, "stale", address=f"192.0.2.{number}")[0] for number in range(21)]
    assert kinds == [Kind.UNAUTHENTICATED] * 20 + [Kind.RATE_LIMITED]
    assert fails(keys, "another", address="192.0.2.1")[0] is Kind.UNAUTHENTICATED


def test_an_ipv6_network_is_one_source_and_a_mapped_address_is_ipv4() -> None:
    keys = Keys([client_key("mine", "right")], clock=Clock())
    for number in range(20):
        fails(keys, f"wrong-{number}", address=f"2001:db8::{number:x}")
        fails(keys, f"bad-{number}", address="::ffff:192.0.2.9")
    assert fails(keys, "x", address="2001:db8::ffff:1")[0] is Kind.RATE_LIMITED
    assert fails(keys, "x", address="2001:db8:0:1::1")[0] is Kind.UNAUTHENTICATED
    assert fails(keys, "y", address="192.0.2.9")[0] is Kind.RATE_LIMITED


def test_the_memory_of_failures_is_bounded() -> None:
    keys = Keys([client_key("mine", "right")], Throttle(tracked=50), clock=Clock())
    for number in range(500):
        fails(keys, f"wrong-{number}", address=f"10.0.{number // 250}.{number % 250}")
    assert len(keys._strikes) == 50


def test_i06_guessers_on_the_wire(edge: Server) -> None:
    with serving() as server, server.connect() as client:
        statuses = []
        for number in range(150):
            fields = f"x-api-key: guess-{number}\r\nX-Forwarded-For: 198.51.100.{number}\r\n"
            statuses.append(client.get("/keyed", fields=fields).status)
        assert statuses[:20] == [401] * 20
        assert set(statuses[20:]) <= {401, 429}
        assert statuses.count(429) > 100
        assert client.get("/keyed", fields="x-api-key: sk-right\r\n").json == {"caller": "test"}


def test_a_given_key_is_taken_as_it_is(tmp_path: Path) -> None:
    assert obtain_key("sk-given", tmp_path / "state") == ClientKey("sk-given", None, made_now=False)
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_made_once_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "aicore-proxy"
    made = obtain_key("", folder)
    assert made.made_now
    assert made.key.startswith("sk-aicp-")
    assert len(made.key) == len("sk-aicp-") + 43
    assert made.path == folder / "api-key"
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    made.path.chmod(0o644)
    assert obtain_key("", folder) == ClientKey(made.key, made.path, made_now=False)
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert [entry.name for entry in folder.iterdir()] == ["api-key"]


def obtain(folder: Path) -> str:
    return obtain_key("", folder).key


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        keys = list(pool.map(obtain, [tmp_path / str(number // 8) for number in range(64)]))
    assert [len(set(keys[start : start + 8])) for start in range(0, 64, 8)] == [1] * 8


def test_a_place_that_cannot_keep_a_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="AICORE_PROXY_API_KEY"):
        obtain_key("", tmp_path / "file" / "aicore-proxy")
    (tmp_path / "api-key").write_text("\n")
    with pytest.raises(KeyFileError, match="empty"):
        obtain_key("", tmp_path)
