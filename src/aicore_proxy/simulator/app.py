"""The simulator as one application: routes of the token service, the management plane, inference and control."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from random import Random

from aicore_proxy.simulator import control, faults
from aicore_proxy.simulator.ai_api import AiApi
from aicore_proxy.simulator.control import Control
from aicore_proxy.simulator.fast import FastPath
from aicore_proxy.simulator.faults import JSON, Refusal
from aicore_proxy.simulator.inference import PREFIX, Inference
from aicore_proxy.simulator.landscape import Landscape, LandscapeError, Subaccount, build
from aicore_proxy.simulator.operation import encode
from aicore_proxy.simulator.scripts import Place, Script, ScriptBook
from aicore_proxy.simulator.server import Disconnected, Reply, Request, Server
from aicore_proxy.simulator.tokens import Refused, Tokens

_log = logging.getLogger("aicore_proxy.simulator")


class Simulator:
    """A SAP AI Core with everything in it. One per event loop; see ``running`` for a handy way to run one."""

    def __init__(self, landscape: Landscape, *, seed: int = 0, fast: bool = False) -> None:
        self._switches = landscape.switches
        self._subaccounts: dict[str, Subaccount] = {}
        for spec in landscape.subaccounts:
            if spec.name in self._subaccounts:
                raise LandscapeError(f"Subaccount {spec.name} occurs twice.")
            self._subaccounts[spec.name] = build(spec)
        self._book = ScriptBook(Random(seed + 2))
        self._tokens = Tokens(self._subaccounts)
        self._inference = Inference(landscape, self._subaccounts, self._tokens, self._book, seed=seed, fast=fast)
        self._ai_api = AiApi(self._switches, self._base_url)
        self._control = Control(self._subaccounts, self._inference, self._book, lambda: self._certificate_url)
        self._fast = FastPath(self._inference, self._tokens, self._book) if fast else None
        self._server = Server(self)
        self._scheme = "http"
        self._netloc = ""
        self._certificate_url = ""

    async def start(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> str:
        """Listens; returns the URL. Raises OSError."""
        self._scheme = "https" if tls is not None else "http"
        taken = await self._server.start(host, port, tls)
        shown = f"[{host}]" if ":" in host else host
        self._netloc = f"{shown}:{taken}"
        return f"{self._scheme}://{self._netloc}"

    async def start_certified(self, host: str, port: int, tls: ssl.SSLContext) -> str:
        """Listens for token requests over mutual TLS too, as the host of a service key's ``certurl``; ``tls`` must ask
        for a certificate. Returns the URL. Raises OSError."""
        taken = await self._server.start(host, port, tls)
        self._certificate_url = f"https://[{host}]:{taken}" if ":" in host else f"https://{host}:{taken}"
        return self._certificate_url

    async def stop(self) -> None:
        """Closes every connection."""
        await self._server.stop()

    def _base_url(self, request: Request) -> str:
        """Where the client reached us, so that the URLs we name lead back here."""
        host = request.headers.get("host", self._netloc)
        return f"{self._scheme}://{host if ':' in host else self._netloc}"

    # --- what the server calls

    def early(self, request: Request) -> Callable[[Reply], Awaitable[None]] | None:
        """An answer before the body, where a script wants one."""
        return self._inference.early(request)

    async def __call__(self, request: Request, reply: Reply) -> None:
        """Answers one request."""
        try:
            if request.path.startswith(PREFIX) and request.certificate is None:
                if self._fast is None or not await self._fast.answer(request, reply):
                    await self._inference.answer(request, reply)
            else:
                await self._other(request, reply)
        except Refusal as refusal:
            await reply.send(refusal.status, refusal.headers, refusal.body)
        except Disconnected:
            raise
        except Exception:  # noqa: BLE001 - a bug here must not look like a fault of SAP's
            _log.exception("%s %s failed", request.method, request.path)
            if not reply.started:
                await reply.send(
                    500, {"content-type": JSON}, b'{"error":"Simulator","message":"A bug in the simulator."}'
                )

    async def _other(self, request: Request, reply: Reply) -> None:
        reply.dated = formatdate(time.time() + self._switches.clock, usegmt=True)
        if request.path == "/oauth/token":
            await self._token(request, reply)
        elif request.certificate is not None:
            await reply.send(404, {"content-type": faults.PLAIN}, b"")
        elif request.path.startswith("/v2/"):
            await self._managed(request, reply)
        elif request.path.startswith(control.PREFIX):
            status, body, kind = self._control.answer(request, self._base_url(request))
            await reply.send(status, {"content-type": kind}, body)
        else:
            await reply.send(404, {"content-type": faults.PLAIN}, b"")

    async def _token(self, request: Request, reply: Reply) -> None:
        if request.method != "POST":
            raise Refusal(405, encode({"error": "method_not_allowed"}))
        try:
            subaccount = self._tokens.credentials(request.headers, request.query, request.body, request.certificate)
        except Refused as refused:
            wrong = str(refused)
            status, kind = (401, "unauthorized") if wrong == "Bad credentials" else (400, "invalid_request")
            raise Refusal(status, encode({"error": kind, "error_description": wrong})) from None
        subaccount.token_requests += 1
        if await self._scripted(reply, self._book.decide(Place((subaccount.name,)), "", "token"), token=True):
            return
        value = self._tokens.mint(subaccount, self._switches.expires_in, self._base_url(request))
        await reply.send(200, {"content-type": JSON, "cache-control": "no-store"}, encode(value))

    async def _managed(self, request: Request, reply: Reply) -> None:
        try:
            subaccount = self._tokens.check(request.headers.get("authorization"))
        except Refused as refused:
            raise faults.edge(401, str(refused)) from None
        subaccount.ai_api_requests += 1
        group = request.headers.get("ai-resource-group", "")
        place = Place((subaccount.name, group, request.path, request.target))
        if await self._scripted(reply, self._book.decide(place, "", "ai_api"), token=False):
            return
        status, body, kind = self._ai_api.answer(request, subaccount)
        await reply.send(status, {"content-type": kind}, body)

    async def _scripted(self, reply: Reply, script: Script, *, token: bool) -> bool:
        """Breaks a token or management request as told; whether it has been answered."""
        if script.hang:
            await asyncio.Event().wait()
        if script.delay:
            await asyncio.sleep(script.delay)
        if script.reset:
            reply.cut(reset=True)
            return True
        headers = {name.lower(): value for name, value in (script.headers or {}).items() if value is not None}
        status = script.status or 200
        if script.garbage:
            html = script.garbage == "html"
            body = b"<html><body>Bad Gateway</body></html>" if html else b'{"access_token": "abc'
            kind = "text/html" if html else JSON
        elif script.body is not None:
            body = script.body.encode() if isinstance(script.body, str) else encode(script.body)
            kind = faults.PLAIN if isinstance(script.body, str) else JSON
        elif script.empty:
            body, kind = b"", JSON
        elif script.status is not None and not 200 <= script.status < 300:
            body, kind = _fault(script, token)
        else:
            return False
        headers = {
            "content-type": script.content_type or kind,
            **headers,
            **faults.retry_headers(script, status, self._switches),
        }
        if script.rate and len(body) > 1:
            await _trickle(reply, status, headers, body, script.rate)
        else:
            await reply.send(status, headers, body)
        return True


def _fault(script: Script, token: bool) -> tuple[bytes, str]:
    assert script.status is not None
    if token:
        kind = script.code or {401: "unauthorized", 429: "too_many_requests"}.get(script.status, "server_error")
        text = script.message or {401: "Bad credentials"}.get(script.status, "The token service failed.")
        return encode({"error": kind, "error_description": text}), JSON
    if script.layer == "edge" or (script.layer is None and script.status in (401, 503, 504)):
        return (script.message or faults.EDGE_TEXTS.get(script.status, "upstream error")).encode(), faults.PLAIN
    refusal = faults.ai_api(
        script.status, script.code or "01010000", script.message or "The request failed.", "/api/v2"
    )
    return refusal.body, JSON


async def _trickle(reply: Reply, status: int, headers: dict[str, str], body: bytes, rate: float) -> None:
    """A body at ``rate`` pieces a second, a hundred pieces in all."""
    reply.head(status, headers, len(body))
    step = max(len(body) // 100, 1)
    for start in range(0, len(body), step):
        await reply.write(body[start : start + step])
        await asyncio.sleep(1 / rate)
    reply.end()
