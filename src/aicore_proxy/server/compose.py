"""Builds everything, once: rooms get plain values and each other. The whole dependency injection."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request

from aicore_proxy.backends import Backend
from aicore_proxy.backends.aws_bedrock import AwsBedrock
from aicore_proxy.backends.azure_openai import AzureOpenAI
from aicore_proxy.backends.gcp_vertexai import GcpVertexAI
from aicore_proxy.config.settings import Settings, is_loopback
from aicore_proxy.gateway.attempts import Attempts, Patience
from aicore_proxy.gateway.exchange import Timings
from aicore_proxy.gateway.gateway import Gateway, Landscape
from aicore_proxy.gateway.keys import Keys
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
from aicore_proxy.server.configuration import Configuration, changes
from aicore_proxy.server.endpoints import Endpoints
from aicore_proxy.server.forwarded import trusted_proxies
from aicore_proxy.server.peers import Alone, Peers
from aicore_proxy.server.routing import build_router, share
from aicore_proxy.server.tls import Certificate
from aicore_proxy.tasks import Supervisor
from aicore_proxy.telemetry.metrics import Metrics
from aicore_proxy.telemetry.observer import Telemetry
from aicore_proxy.upstream import AiohttpUpstream, Proxies, tls_context

log = logging.getLogger("aicore_proxy.configuration")

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
    """A whole proxy. Owns its parts' lives: ``start``, ``reload`` and ``aclose`` belong to one event loop.

    ``peers``: the other processes that serve on this port; None: there are none. Raises CertificateError.
    """

    def __init__(self, configuration: Configuration, peers: Peers | None = None) -> None:
        settings = self.settings = configuration.settings
        self.configuration = configuration
        self._peers = peers or Alone()
        self.metrics = Metrics()
        self.supervisor = Supervisor()
        # To the simulator, on this machine, the environment's HTTP proxies are not for
        proxies = Proxies() if configuration.direct else Proxies.from_environ(os.environ)
        self._upstream = AiohttpUpstream(tls=tls_context(os.environ), proxies=proxies, keepalive=settings.pool_idle)
        self._observer = Telemetry(self.metrics)
        self._seals = SealKeeper()
        self._keys = Keys(configuration.keys)
        self.certificate = certificate_of(settings)
        self._tokens = {
            key.name: TokenProvider(key, self._upstream, self.supervisor, tls=client_tls(key, os.environ))
            for key in configuration.service_keys
        }
        self.landscape = Landscape(self._look_again, self._look_soon)
        self.router, self._sticky = build_router(settings)
        share(self.router.health, self._peers)
        self._discovery = Discovery(
            self._apis(),
            self.supervisor,
            self._publish,
            times=DiscoveryTimes(interval=settings.discovery_interval),
            scopes=configuration.scopes,
            naming=configuration.naming,
            snapshot_file=configuration.snapshot_file,
        )
        endpoints = self._endpoints()
        self.endpoint = asgi.Endpoint(
            endpoints,
            timings_of(settings),
            self.metrics.in_flight.inc,
            proxies=trusted_proxies(settings.trusted_proxies),
            refuse=endpoints.refused,
        )
        self.application = build_application(
            model_api=self.endpoint,
            ready=lambda: self._peers.ready(self.ready()),
            exposition=lambda: self._peers.exposition(self.metrics),
            may_see_metrics=self._may_see_metrics,
            openapi=settings.openapi,
            cors_origins=tuple(origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()),
        )

    def ready(self) -> bool:
        """Whether a request could be served: at least one deployment is known."""
        return bool(self.landscape.catalog.by_name)

    async def start(self) -> None:
        """Starts what runs in the background; does not wait for SAP."""
        # What is loaded by now stays: a full collection that looks at all of it stalls every stream for 50 ms
        gc.collect()
        gc.freeze()
        self.supervisor.start("loop lag", self.metrics.watch_loop_lag())
        if self.certificate is not None:
            self.supervisor.start("certificate", self.certificate.watch())
        for tokens in self._tokens.values():
            tokens.start()
        self._discovery.start()

    async def first_look(self, seconds: float) -> None:
        """Waits until SAP has been looked at, at most so long."""
        await self._discovery.refresh_now(seconds)

    async def reload(self, configuration: Configuration) -> None:
        """Takes another configuration for all requests that come from now on; those that began keep what they began
        with. What stays the same goes on untouched: tokens, deployments, connections, breakers.

        Raises ValueError, and changes nothing, where a certificate of a service key cannot be used.
        """
        told, fixed = changes(self.configuration, configuration)
        contexts = await asyncio.to_thread(
            lambda: {key.name: client_tls(key, os.environ) for key in configuration.service_keys}
        )
        known = {key.name: key for key in self.configuration.service_keys}
        tokens, begun = dict[str, TokenProvider](), list[TokenProvider]()
        for key in configuration.service_keys:
            before = known.get(key.name)
            if before is not None and client_of(before) == client_of(key):
                tokens[key.name] = self._tokens[key.name]
                if before != key:
                    tokens[key.name].rotate(key, contexts[key.name])
            else:
                tokens[key.name] = TokenProvider(key, self._upstream, self.supervisor, tls=contexts[key.name])
                begun.append(tokens[key.name])
        for name, provider in self._tokens.items():
            if tokens.get(name) is not provider:
                provider.stop()
        self.configuration, self.settings, self._tokens = configuration, configuration.settings, tokens
        for provider in begun:
            provider.start()
        self._keys.replace(configuration.keys)
        self.router, self._sticky = build_router(self.settings, self.router)
        endpoints = self._endpoints()
        self.endpoint.become(endpoints, timings_of(self.settings), trusted_proxies(self.settings.trusted_proxies))
        self._discovery.reconfigure(self._apis(), configuration.scopes, configuration.naming)
        log.info("Reloaded: %s", ", ".join(told) or "nothing changed")
        if fixed:
            log.warning("These take effect with the next start only: %s", ", ".join(fixed))

    def _apis(self) -> list[AiApi]:
        return [AiApi(key, self._upstream, self._tokens[key.name]) for key in self.configuration.service_keys]

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

    def _endpoints(self) -> Endpoints:
        """The path of a request, as the settings of now want it."""
        settings = self.settings
        attempts = Attempts(
            router=self.router,
            backends=BACKENDS,
            embedders={"azure-openai": AZURE.embeddings},
            dialects=DIALECTS,
            tokens=self._tokens,
            upstream=self._upstream,
            observer=self._observer,
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
            observer=self._observer,
            seals=self._seals,
            body_limit=settings.body_limit,
            deadline=settings.deadline,
            sticky=self._sticky,
        )
        return Endpoints(gateway, DIALECTS, {"/v1/messages": thread_refused})


def timings_of(settings: Settings) -> Timings:
    """How long the edge waits."""
    return Timings(hold=settings.hold, keepalive=settings.keepalive, body_gap=settings.body_gap_timeout)


def certificate_of(settings: Settings) -> Certificate | None:
    """The proxy's own certificate, None where it speaks plain HTTP. Raises CertificateError."""
    if not settings.tls_certificate:
        return None
    return Certificate(Path(settings.tls_certificate), Path(settings.tls_key) if settings.tls_key else None)


def client_of(key: ServiceKey) -> tuple[str, str, str]:
    """Who a service key is for SAP: with the same of these, only its secret was rotated."""
    return key.client_id, key.token_url, key.api_url


def thread_refused(envelope: Envelope) -> Fault | None:
    """Anthropic's message threads: nothing is kept between requests yet, so its SDKs are told to send all of it."""
    if envelope.get("thread", dict) is None:
        return None
    return anthropic_messages.refuse_thread(envelope.decoded())
