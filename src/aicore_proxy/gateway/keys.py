"""Client keys: where a request carries them, whether one is right, and how guessers are slowed."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import sha256
from ipaddress import IPv6Address
from urllib.parse import parse_qsl

from msgspec import Struct

from aicore_proxy.gateway.exchange import ClientRequest
from aicore_proxy.protocol.fault import Fault, Kind

HEADERS = ("x-api-key", "api-key", "x-goog-api-key")
LONGEST_KEY = 1024
"""Characters. A longer one is wrong without a look at it."""


class Caller(Struct, frozen=True):
    """Who asks: the key's name, and an id that stands for the key in stores (never the key, nor all of its hash)."""

    name: str
    key_id: str


class Throttle(Struct, frozen=True):
    """How failures are slowed: after ``failures`` within ``window`` seconds the next ones get a 429 for a second, then
    for two, doubling to ``longest``. ``tracked``: sources remembered at most; the longest unseen is forgotten."""

    failures: int = 20
    window: float = 60.0
    longest: float = 60.0
    tracked: int = 10_000


class Strikes(Struct):
    """Failures of one source. ``times``: the last ones, monotonic; ``until``: answered with a 429 up to then."""

    times: list[float]
    until: float = 0.0
    penalty: float = 0.0


class Keys:
    """The client keys, as hashes. Owns the memory of failures; lives in one event loop.

    ``keys``: pairs of a name and a key. An address is slowed for what it fails, and so is a wrong key that comes from
    many addresses; a right key is served from anywhere, at any time.
    """

    def __init__(
        self,
        keys: Iterable[tuple[str, str]],
        throttle: Throttle | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = tuple((digest, Caller(name, digest.hex()[:16])) for name, key in keys for digest in [_digest(key)])
        self._throttle = throttle or Throttle()
        self._clock = clock
        self._strikes: OrderedDict[str, Strikes] = OrderedDict()

    def authenticate(self, request: ClientRequest) -> Caller:
        """The caller whose key the request carries. Raises Fault UNAUTHENTICATED or, for guessers, RATE_LIMITED."""
        given = presented(request)
        if len(given) == 1:
            digest = _digest(given[0])
            caller = self._known(digest)
            if caller is not None:
                return caller
            self._strike(_source(request.address), digest.hex())
            raise Fault(Kind.UNAUTHENTICATED, "The API key is not valid.", code="invalid_api_key")
        self._strike(_source(request.address))
        if given:
            raise Fault(
                Kind.UNAUTHENTICATED, "The request carries different API keys: send one.", code="invalid_api_key"
            )
        words = "An API key is needed: send it as 'Authorization: Bearer <key>' or 'x-api-key: <key>'."
        raise Fault(Kind.UNAUTHENTICATED, words, code="invalid_api_key", headers=(("www-authenticate", "Bearer"),))

    def knows(self, key: str) -> bool:
        """Whether a key is one of them; a wrong one is not counted as a failure."""
        return self._known(_digest(key)) is not None

    def _known(self, digest: bytes) -> Caller | None:
        """Compares with every key, to the end, each in constant time: the time tells nothing."""
        found = None
        for known, caller in self._keys:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def _strike(self, *sources: str) -> None:
        """Notes a failure. Raises Fault RATE_LIMITED while one of its sources is slowed."""
        now = self._clock()
        wait = max(self._wait(source, now) for source in sources)
        if wait > 0:
            words = "Too many requests with a wrong API key. A right one is served at once."
            raise Fault(Kind.RATE_LIMITED, words, code="too_many_failures", retry_after=wait)

    def _wait(self, source: str, now: float) -> float:
        """Notes a failure of a source; says for how many seconds it is still slowed. Failures while it is count too."""
        strikes = self._strikes.pop(source, None) or Strikes([])
        self._strikes[source] = strikes
        if len(self._strikes) > self._throttle.tracked:
            self._strikes.popitem(last=False)
        recent = [at for at in strikes.times if now - at < self._throttle.window]
        strikes.times = [*recent[-self._throttle.failures + 1 :], now]
        if now < strikes.until:
            return strikes.until - now
        if len(strikes.times) >= self._throttle.failures:
            strikes.penalty = min(strikes.penalty * 2 or 1.0, self._throttle.longest)
            strikes.until = now + strikes.penalty
        elif now - strikes.until >= self._throttle.window:
            strikes.penalty = 0.0
        return 0.0


def presented(request: ClientRequest) -> list[str]:
    """Every different key that a request carries, in whichever of the usual places: one, none, or several."""
    found: dict[str, None] = {}
    for value in request.all("authorization"):
        scheme, _, key = value.strip().partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            found[key.strip()] = None
    for name in HEADERS:
        for value in request.all(name):
            if value.strip():
                found[value.strip()] = None
    if b"key=" in request.query:
        for name, value in parse_qsl(request.query.decode("latin-1"), max_num_fields=None):
            if name == "key" and value:
                found[value] = None
    return list(found)


def _digest(key: str) -> bytes:
    if len(key) > LONGEST_KEY:
        key = key[:LONGEST_KEY] + "…"
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def _source(address: str) -> str:
    """An address as what one party holds: an IPv6 one stands for its /64."""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return parsed.exploded[:19] + "::/64"
