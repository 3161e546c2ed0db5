"""Client keys: where a request carries them, whether one is right, what it may use, and how guessers are slowed."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import blake2b, sha256
from ipaddress import IPv6Address
from urllib.parse import parse_qsl

from msgspec import Struct

from aicore_proxy.gateway.exchange import ClientRequest
from aicore_proxy.protocol.fault import Fault, Kind

HEADERS = ("x-api-key", "api-key", "x-goog-api-key")
LONGEST_KEY = 1024
"""Characters. A longer one is wrong without a look at it."""


HASH = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE)


class ClientKey(Struct, frozen=True):
    """One key that clients may use. ``digest``: the key's SHA-256, so that the key itself is kept nowhere. ``models``:
    patterns of the models it may use (``gateway/permits.py``), none: all. ``owner``: for the operator's eyes."""

    name: str
    digest: bytes
    models: tuple[str, ...] = ()
    owner: str = ""


def client_key(name: str, given: str, *, models: Iterable[str] = (), owner: str = "") -> ClientKey:
    """A ClientKey of what a configuration gives: the key, or its hash as ``sha256:`` and 64 hexadecimal digits.

    Raises ValueError, without the key, where there is none or a hash is not one.
    """
    given = given.strip()
    if not given:
        raise ValueError("the key is empty")
    if (hashed := HASH.fullmatch(given)) is not None:
        return ClientKey(name, bytes.fromhex(hashed[1]), tuple(models), owner)
    if given.lower().startswith("sha256:"):
        raise ValueError("a hash is written as sha256: and 64 hexadecimal digits")
    return ClientKey(name, _digest(given), tuple(models), owner)


def clashes(keys: Iterable[ClientKey]) -> list[str]:
    """What is wrong with these keys together, a sentence each: two of one name, or the same key twice."""
    names: set[str] = set()
    digests: dict[bytes, str] = {}
    found = []
    for key in keys:
        if key.name in names:
            found.append(f"Two keys have the name '{key.name}'.")
        elif key.digest in digests:
            found.append(f"The keys '{digests[key.digest]}' and '{key.name}' are the same key.")
        names.add(key.name)
        digests.setdefault(key.digest, key.name)
    return found


class Caller(Struct, frozen=True):
    """Who asks: the key's name, and an id that stands for the key in stores (never the key, nor all of its hash).
    ``models``, ``owner``: as in ClientKey."""

    name: str
    key_id: str
    models: tuple[str, ...] = ()
    owner: str = ""


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

    An address is slowed for what it fails, and so is a wrong key that comes from many addresses; a right key is served
    from anywhere, at any time.

    A key is looked up by a keyed hash of its digest, under a secret of this process: what a table compares on the way
    depends on the key only through that hash, which nobody outside can compute or steer, so that its time tells
    nothing; and it is the same for one key and for thousands. What was found is then compared in constant time.
    """

    def __init__(
        self,
        keys: Iterable[ClientKey],
        throttle: Throttle | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ValueError where ``keys`` clash."""
        self._secret = secrets.token_bytes(32)
        self._keys: dict[bytes, tuple[bytes, Caller]] = {}
        self._throttle = throttle or Throttle()
        self._clock = clock
        self._strikes: OrderedDict[str, Strikes] = OrderedDict()
        self.replace(keys)

    def replace(self, keys: Iterable[ClientKey]) -> None:
        """Takes these keys instead, from the next request on; who is slowed stays so. Raises ValueError where they
        clash, and keeps what it had."""
        keys = list(keys)
        if problems := clashes(keys):
            raise ValueError(" ".join(problems))
        self._keys = {
            self._blinded(key.digest): (key.digest, Caller(key.name, key.digest.hex()[:16], key.models, key.owner))
            for key in keys
        }

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
        if given:
            self._strike(_source(request.address))
            raise Fault(
                Kind.UNAUTHENTICATED, "The request carries different API keys: send one.", code="invalid_api_key"
            )
        # No guess: a client that is not configured yet, or a probe
        words = "An API key is needed: send it as 'Authorization: Bearer <key>' or 'x-api-key: <key>'."
        raise Fault(Kind.UNAUTHENTICATED, words, code="invalid_api_key", headers=(("www-authenticate", "Bearer"),))

    def named(self, key: str) -> str | None:
        """The name of a key, None where it is none of them; that is not counted as a failure."""
        known = self._known(_digest(key))
        return known.name if known is not None else None

    def _known(self, digest: bytes) -> Caller | None:
        found = self._keys.get(self._blinded(digest))
        return found[1] if found is not None and hmac.compare_digest(found[0], digest) else None

    def _blinded(self, digest: bytes) -> bytes:
        return blake2b(digest, digest_size=32, key=self._secret).digest()

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
    if not found:  # the older proxies took a bare one
        bare = [value.strip() for value in request.all("authorization")]
        found |= dict.fromkeys(value for value in bare if value and " " not in value and value.lower() != "bearer")
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
