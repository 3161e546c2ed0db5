"""Builds everything, once: rooms get plain values and each other. The whole dependency injection."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from starlette.requests import Request
from starlette.types import ASGIApp

from aicore_proxy.backends import Backend
from aicore_proxy.backends.aws_bedrock import AwsBedrock
from aicore_proxy.backends.azure_openai import AzureOpenAI
from aicore_proxy.backends.gcp_vertexai import GcpVertexAI
from aicore_proxy.config.settings import Settings
from aicore_proxy.gateway.attempts import Attempts, Patience
from aicore_proxy.gateway.exchange import Timings
from aicore_proxy.gateway.gateway import Gateway, Landscape
from aicore_proxy.gateway.keys import Keys, client_key
from aicore_proxy.gateway.seals import SealKeeper
from aicore_proxy.landscape import Catalog, Deployment
from aicore_proxy.protocol.dialects import Dialect, anthropic_messages, gemini, openai_chat
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.fault import Fault
from aicore_proxy.sap.ai_api import AiApi
from aicore_proxy.sap.credentials import ServiceKey
from aicore_proxy.sap.discovery import Discovery, DiscoveryTimes
from aicore_proxy.sap.token import TokenProvider, client_tls
from aicore_proxy.server import asgi
from aicore_proxy.server.application import build_application
from aicore_proxy.server.endpoints import Endpoints
from aicore_proxy.server.peers import Alone, Peers
from aicore_proxy.server.routing import build_router, share
from aicore_proxy.tasks import Supervisor
from aicore_proxy.telemetry.metrics import Metrics
from aicore_proxy.telemetry.observer import Telemetry
from aicore_proxy.upstream import AiohttpUpstream, Proxies, tls_context

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect for dialect in (openai_chat.DIALECT, anthropic_messages.DIALECT, gemini.DIALECT)
}
AZURE = AzureOpenAI()
BACKENDS: Mapping[str, Backend] = {
    "azure-openai": AZURE,
    "aws-bedrock": AwsBedrock(),
    "gcp-vertexai": GcpVertexAI(),
}


class Proxy:
    """A whole proxy. Owns its parts' lives: ``start`` and ``aclose`` belong to one event loop.

    ``direct``: the upstream is on this machine (the simulator), so the environment's HTTP proxies are not for it.
    ``peers``: the other processes that serve on this port; None: there are none.
    """

    def __init__(
        self,
        settings: Settings,
        api_key: str,
        service_keys: Sequence[ServiceKey],
        *,
        direct: bool = False,
        peers: Peers | None = None,
    ) -> None:
        self.settings = settings
        self._peers = peers or Alone()
        self.metrics = Metrics()
        self.supervisor = Supervisor()
        proxies = Proxies() if direct else Proxies.from_environ(os.environ)
        self._upstream = AiohttpUpstream(tls=tls_context(os.environ), proxies=proxies, keepalive=settings.pool_idle)
        self._keys = Keys([client_key("default", api_key)])
        self._tokens = {
            key.name: TokenProvider(key, self._upstream, self.supervisor, tls=client_tls(key, os.environ))
            for key in service_keys
        }
        apis = [AiApi(key, self._upstream, self._tokens[key.name]) for key in service_keys]
        self.landscape = Landscape(self._look_again, self._look_soon)
        times = DiscoveryTimes(interval=settings.discovery_interval)
        self.router, self._sticky = build_router(settings)
        share(self.router.health, self._peers)
        self._discovery = Discovery(apis, self.supervisor, self._publish, times=times)
        self.endpoint, self.application = self._application()

    def ready(self) -> bool:
        """Whether a request could be served: at least one deployment is known."""
        return bool(self.landscape.catalog.by_name)

    async def start(self) -> None:
        """Starts what runs in the background; does not wait for SAP."""
        # What is loaded by now stays: a full collection that looks at all of it stalls every stream for 50 ms
        gc.collect()
        gc.freeze()
        self.supervisor.start("loop lag", self.metrics.watch_loop_lag())
        for tokens in self._tokens.values():
            tokens.start()
        self._discovery.start()

    async def first_look(self, seconds: float) -> None:
        """Waits until SAP has been looked at, at most so long."""
        await self._discovery.refresh_now(seconds)

    def _publish(self, catalog: Catalog) -> None:
        self.landscape.publish(catalog)
        self.router.health.know(catalog.deployments(), time.monotonic())

    async def _look_again(self, seconds: float) -> object:
        return await self._discovery.refresh_now(seconds)

    def _look_soon(self, deployment: Deployment) -> None:
        self._discovery.refresh_soon(deployment.subaccount)

    def _may_see_metrics(self, request: Request) -> bool:
        """On loopback everybody here; else whoever has a client key."""
        if is_loopback(self.settings.host):
            return True
        key = request.headers.get("authorization", "").partition(" ")[2] or request.headers.get("x-api-key", "")
        return self._keys.knows(key.strip())

    async def aclose(self) -> None:
        """Ends everything."""
        await self.supervisor.aclose()
        await self._upstream.close()

    def _application(self) -> tuple[asgi.Endpoint, ASGIApp]:
        settings = self.settings
        observer = Telemetry(self.metrics)
        attempts = Attempts(
            router=self.router,
            backends=BACKENDS,
            embedders={"azure-openai": AZURE.embeddings},
            dialects=DIALECTS,
            tokens=self._tokens,
            upstream=self._upstream,
            observer=observer,
            patience=Patience(
                settings.connect_timeout,
                settings.first_byte_timeout,
                settings.stream_head_timeout,
                settings.between_bytes_timeout,
                settings.recovery_wait,
            ),
            gone_missing=self._look_soon,
        )
        gateway = Gateway(
            keys=self._keys,
            landscape=self.landscape,
            attempts=attempts,
            observer=observer,
            seals=SealKeeper(),
            body_limit=settings.body_limit,
            deadline=settings.deadline,
            sticky=self._sticky,
        )
        endpoints = Endpoints(gateway, DIALECTS, {"/v1/messages": thread_refused})
        timings = Timings(
            hold=settings.hold,
            keepalive=settings.keepalive,
            body_gap=settings.body_gap_timeout,
        )
        endpoint = asgi.Endpoint(endpoints, timings, self.metrics.in_flight.inc, refuse=endpoints.refused)
        return endpoint, build_application(
            model_api=endpoint,
            ready=lambda: self._peers.ready(self.ready()),
            exposition=lambda: self._peers.exposition(self.metrics),
            may_see_metrics=self._may_see_metrics,
            openapi=settings.openapi,
            cors_origins=tuple(origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()),
        )


def thread_refused(envelope: Envelope) -> Fault | None:
    """Anthropic's message threads: nothing is kept between requests yet, so its SDKs are told to send all of it."""
    if envelope.get("thread", dict) is None:
        return None
    return anthropic_messages.refuse_thread(envelope.decoded())


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
