"""One subaccount's access token: asked for once however many wait, renewed ahead of its end while it still serves."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import logging
import random
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from aicore_proxy.clock import elapsed
from aicore_proxy.sap.certificate import load_pair, validity
from aicore_proxy.sap.credentials import ServiceKey
from aicore_proxy.tasks import Supervisor
from aicore_proxy.upstream import Timeouts, Upstream, UpstreamError, UpstreamRequest, UpstreamResponse, tls_context

log = logging.getLogger("aicore_proxy.sap.token")


class TokenTimes(Struct, frozen=True):
    """Seconds. ``ahead``: the renewal begins when this much of a token's life is left, or a quarter of it.
    ``unknown_life``: of a token that does not say. ``patience``: how long a request without a token waits once the
    last try has failed. ``on_demand``: between tries that requests ask for. ``refused``: after wrong credentials."""

    timeout: float = 15.0
    ahead: float = 600.0
    unknown_life: float = 300.0
    backoff: float = 0.5
    backoff_limit: float = 60.0
    on_demand: float = 1.0
    patience: float = 2.0
    refused: float = 60.0
    forced: float = 5.0
    retry_after_limit: float = 300.0


class TokenError(Exception):
    """No token. The words are the token service's, without any secret. ``refused``: the credentials are wrong."""

    def __init__(self, message: str, *, refused: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.refused = refused
        self.retry_after = retry_after


class Grant(Struct, frozen=True):
    """What the token service said of the token that is held, without the token itself. ``life``: seconds it was given;
    ``left``: of it, by our clock; ``scopes``: in the service's words."""

    life: float
    left: float
    scopes: tuple[str, ...] = ()


def client_tls(key: ServiceKey, environ: Mapping[str, str]) -> ssl.SSLContext | None:
    """The TLS side of a TokenProvider whose ``key`` has a certificate, None for one with a secret. Reads the CA files
    that ``environ`` names: call it before the loop runs, or in a thread. Raises ValueError."""
    if not key.by_certificate:
        return None
    context = tls_context(environ)
    try:
        load_pair(context, key.certificate, key.key.value)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"{key.name}: the certificate of the service key cannot be used: {error}") from None
    return context


class TokenProvider:
    """Owns one subaccount's token and the one request that may be in flight for it.

    ``tls``: of ``client_tls``, for a key with a certificate. ``requests`` counts token requests, ``succeeded`` and
    ``failed`` how they ended, ``failures`` those that failed in a row. Time is ``clock`` (seconds, counted from the
    receipt of a token: clocks of machines jump and differ; it goes on while the machine sleeps, as that life does).
    """

    def __init__(
        self,
        key: ServiceKey,
        upstream: Upstream,
        supervisor: Supervisor,
        *,
        times: TokenTimes | None = None,
        clock: Callable[[], float] = elapsed,
        chance: Callable[[], float] = random.random,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if key.by_certificate and tls is None:
            raise ValueError(f"{key.name}: a key with a certificate needs the TLS context of client_tls.")
        self.requests = 0
        self.failures = 0
        self.succeeded = self.failed = 0
        self._key = key
        self._upstream = upstream
        self._supervisor = supervisor
        self._times = times or TokenTimes()
        self._clock = clock
        self._chance = chance
        self._tls = tls
        self._token: str | None = None
        self._life = 0.0
        self._scopes: tuple[str, ...] = ()
        self._expires_at = self._renew_at = 0.0
        self._error: TokenError | None = None
        self._background_at = self._demand_at = 0.0  # no try before, by the loop and for a request
        self._forced_at = self._warned_at = float("-inf")
        self._flight: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to keep a token at hand, in the background."""
        self._keeping = self._supervisor.start(f"token {self._key.name}", self._keep())

    def stop(self) -> None:
        """Keeps none at hand any more: the subaccount was removed. Requests that still need one get one."""
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None

    def rotate(self, key: ServiceKey, tls: ssl.SSLContext | None) -> None:
        """New credentials for the same subaccount. The next token is asked for with them, at once, so that wrong ones
        are known while the held token still serves."""
        self._key = key
        self._tls = tls
        self._due_now()
        if self._keeping is not None:  # it may sleep through a long pause
            self.stop()
            self.start()

    def _due_now(self) -> None:
        self._renew_at = self._clock()
        self._background_at = self._demand_at = 0.0
        self._warned_at = float("-inf")

    async def token(self) -> str:
        """A token that is good by our count. Waits only where there is none. Raises TokenError."""
        now = self._clock()
        if self._token is not None and now < self._expires_at:
            if now >= self._renew_at and now >= self._demand_at:
                self._fly()
            return self._token
        if self._flight is None and self._error is not None and now < self._demand_at:
            raise self._error
        flight = self._fly()
        # asyncio.wait leaves the request in flight alone when one of its waiters is cancelled or has no more time
        await asyncio.wait({flight}, timeout=self._times.patience if self._error is not None else None)
        if self._token is not None and self._clock() < self._expires_at:
            return self._token
        raise self._error or TokenError(f"{self._key.name}: there is no token yet.")

    def refused(self, token: str) -> bool:
        """Reports a 401 for ``token``. True where another try with ``token()`` makes sense: there is another token
        already, or a new one is asked for (once in five seconds, however many report it)."""
        if token != self._token:
            return True
        now = self._clock()
        if now - self._forced_at < self._times.forced:
            return False
        self._forced_at = now
        self._token = None
        return True

    @property
    def error(self) -> str | None:
        """Why the last request failed; None when it did not."""
        return self._error.message if self._error is not None else None

    @property
    def grant(self) -> Grant | None:
        """Of the token that is held, None where none is."""
        if self._token is None:
            return None
        return Grant(self._life, max(0.0, self._expires_at - self._clock()), self._scopes)

    def __repr__(self) -> str:
        left = max(0, round(self._expires_at - self._clock())) if self._token is not None else 0
        return f"TokenProvider({self._key.name}, {left} s left, {self.failures} failures, {self.error or 'no error'})"

    async def _keep(self) -> None:
        while True:
            due = self._background_at if self._token is None else max(self._renew_at, self._background_at)
            if (wait := due - self._clock()) > 0:
                await asyncio.sleep(min(wait, 30.0))  # in steps: the machine may have slept
            else:
                await asyncio.wait({self._fly()})

    def _fly(self) -> asyncio.Task[None]:
        if self._flight is None:
            self._flight = self._supervisor.start(f"token request {self._key.name}", self._renew())
        return self._flight

    async def _renew(self) -> None:
        self.requests += 1
        key = self._key
        self._background_at = self._clock() + self._times.on_demand  # whatever becomes of this one: no hot loop
        try:
            token, life, self._scopes = await self._ask(key)
            self._accept(token, life)
        except TokenError as error:
            self._failed(error)
        finally:
            self._flight = None
            if key is not self._key:  # rotated meanwhile: what came of the old one says nothing of the new one
                self._due_now()

    def _accept(self, token: str, life: float) -> None:
        now = self._clock()
        ahead = min(self._times.ahead, life / 4) * (0.9 + 0.2 * self._chance())
        self._token = token
        self._life = life
        self._expires_at = now + life - min(5.0, life / 20)  # what is sent at the last moment arrives too late
        self._renew_at = now + max(1.0, life - ahead)  # whatever the life, no storm of requests
        self._background_at = self._demand_at = 0.0
        if self._error is not None:
            log.info("%s: the token service works again after %d failures", self._key.name, self.failures)
        self._error, self.failures = None, 0
        self.succeeded += 1

    def _failed(self, error: TokenError) -> None:
        now = self._clock()
        times = self._times
        limit = min(times.backoff_limit, times.backoff * 2 ** min(self.failures, 16))
        self.failures += 1
        self.failed += 1
        self._error = error
        pause = max(0.1 * times.backoff, limit * self._chance())
        self._background_at = now + pause
        self._demand_at = now + min(pause, times.on_demand)  # with requests waiting, nobody waits for a long backoff
        least = times.refused if error.refused else min(error.retry_after or 0.0, times.retry_after_limit)
        if least:
            self._background_at = self._demand_at = now + max(least, pause)
        if now - self._warned_at >= 60.0:
            self._warned_at = now
            held = "the held token still serves" if self._token and now < self._expires_at else "no token is held"
            log.warning("%s (%s)", error.message, held)

    async def _ask(self, key: ServiceKey) -> tuple[str, float, tuple[str, ...]]:
        """One request. Gives token, life in seconds and scopes. A key with a certificate sends no secret."""
        name, seconds = key.name, self._times.timeout
        form = {"grant_type": "client_credentials", "client_id": key.client_id}
        if not key.by_certificate:
            form["client_secret"] = key.client_secret.value
        request = UpstreamRequest(
            "POST",
            key.token_url,
            (("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json")),
            urlencode(form).encode(),
            Timeouts(connect=min(10.0, seconds), first_byte=seconds, between_bytes=seconds),
            self._tls,
        )
        try:
            async with asyncio.timeout(seconds):
                answer = await self._upstream.send(request)
                body = await answer.read(256 * 1024)
        except UpstreamError as error:
            raise TokenError(f"{name}: the token service failed: {error.message}{_expiry(key)}") from error
        except TimeoutError:
            raise TokenError(f"{name}: the token service did not answer within {seconds:g} s.") from None
        try:
            content = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            content = None
        if answer.status != 200:
            raise _refusal(key, answer, content)
        token = content.get("access_token") if isinstance(content, dict) else None
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
            raise TokenError(f"{name}: the token service answered without an access_token.")
        scopes = content.get("scope")
        said = tuple(scopes.split()[:100]) if isinstance(scopes, str) else ()
        return token, life_of(content.get("expires_in"), self._times.unknown_life), said


def _expiry(key: ServiceKey) -> str:
    """That the certificate is not valid now, where that explains a failure; SAP makes them for seven days."""
    between = validity(key.certificate) if key.by_certificate else None
    now = datetime.datetime.now(datetime.UTC)
    if between is None or between[0] <= now <= between[1]:
        return ""
    when = f"expired on {between[1]:%Y-%m-%d %H:%M} UTC" if now > between[1] else "is not valid yet"
    return f" The certificate of the service key {when}: create a new key."


def _refusal(key: ServiceKey, answer: UpstreamResponse, content: Any) -> TokenError:
    """The words of an OAuth error: ``{"error": …, "error_description": …}``."""
    fields = content if isinstance(content, dict) else {}
    said = [value for name in ("error", "error_description") if isinstance(value := fields.get(name), str) and value]
    words = ": ".join([f"status {answer.status}", *said])
    if secret := key.client_secret.value:
        words = words.replace(secret, "****")
    refused = answer.status in (400, 401, 403)
    what = "refuses the credentials" if refused else "failed"
    printable = "".join(c if c.isprintable() else " " for c in words[:300])
    message = f"{key.name}: the token service {what}: {printable}{_expiry(key)}"
    return TokenError(message, refused=refused, retry_after=retry_after(answer))


def life_of(value: Any, unknown: float) -> float:
    """``expires_in`` in seconds, leniently: a number or its text; ``unknown`` where it says nothing usable."""
    try:
        life = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except ValueError:
        life = 0.0
    return min(life, 30 * 86400.0) if life > 0 else unknown  # NaN is not > 0


def retry_after(answer: UpstreamResponse) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date."""
    value = answer.headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return seconds if 0 < seconds < float("inf") else None
