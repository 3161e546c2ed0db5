"""Builds everything, once: rooms get plain values and each other. The whole dependency injection."""

from __future__ import annotations

import asyncio
import gc
import hmac
import os
import time
from collections.abc import Mapping
from ssl import SSLContext
from typing import Any

from msgspec import Struct
from starlette.requests import Request

from aicore_proxy.backends.lessons import Lessons
from aicore_proxy.config.settings import Settings, is_loopback, moment
from aicore_proxy.gateway.asking import Asking
from aicore_proxy.gateway.attempts import Attempts, Patience
from aicore_proxy.gateway.exchange import ClientRequest, Reply, Timings
from aicore_proxy.gateway.gateway import Fallbacks, Gateway, Landscape
from aicore_proxy.gateway.keys import Keys, clashes
from aicore_proxy.gateway.queues import QueueLimits, Queues
from aicore_proxy.gateway.seals import SealKeeper
from aicore_proxy.landscape import Catalog, Deployment
from aicore_proxy.protocol.dialects import anthropic_messages
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.fault import Fault
from aicore_proxy.routing.breaker import State as BreakerState
from aicore_proxy.routing.router import Router
from aicore_proxy.sap.ai_api import AiApi
from aicore_proxy.sap.credentials import ServiceKey
from aicore_proxy.sap.discovery import Discovery, DiscoveryTimes
from aicore_proxy.sap.scope import Scope
from aicore_proxy.sap.token import TokenProvider, client_tls
from aicore_proxy.server import asgi, listen
from aicore_proxy.server.application import build_application
from aicore_proxy.server.configuration import Configuration
from aicore_proxy.server.endpoints import Endpoints
from aicore_proxy.server.families import BACKENDS, DIALECTS, EMBEDDERS
from aicore_proxy.server.forwarded import trusted_proxies
from aicore_proxy.server.peers import Alone, Peers
from aicore_proxy.server.routing import build_router, first_byte_of, share
from aicore_proxy.server.tls import certificate_of
from aicore_proxy.server.why import Why
from aicore_proxy.tasks import Supervisor
from aicore_proxy.telemetry import logs
from aicore_proxy.telemetry.metrics import Metrics
from aicore_proxy.telemetry.observer import Telemetry
from aicore_proxy.telemetry.recording import Recorder, Rules, folder_of
from aicore_proxy.telemetry.state import Owners, State
from aicore_proxy.telemetry.surveys import Surveys
from aicore_proxy.upstream import PooledUpstream, Proxies, tls_context

FORWARDED = ("x-forwarded-for", "forwarded", "x-real-ip", "via")
"""Fields by which a proxy tells that it asks for somebody else."""


class Generation(Struct, frozen=True):
    """What the requests that begin now are served with. A reload makes another one beside it and swaps the reference;
    requests that began keep theirs."""

    configuration: Configuration
    tokens: Mapping[str, TokenProvider]
    landscape: Landscape
    router: Router
    endpoints: Endpoints


class Proxy:
    """A whole proxy. Owns its parts' lives: ``start``, ``reload`` and ``aclose`` belong to one event loop.

    ``peers``: the other processes that serve on this port; None: there are none. Raises CertificateError, or ValueError
    where the certificate of a service key cannot be used.
    """

    def __init__(self, configuration: Configuration, peers: Peers | None = None) -> None:
        settings = configuration.settings
        self._peers = peers or Alone()
        self.metrics = Metrics()
        self.supervisor = Supervisor()
        # To the simulator, on this machine, the environment's HTTP proxies are not for
        proxies = Proxies() if configuration.direct else Proxies.from_environ(os.environ)
        self._upstream = PooledUpstream(tls=tls_context(os.environ), proxies=proxies, keepalive=settings.pool_idle)
        self._why = Why(self._peers)
        self._recorder = Recorder(recording_of(configuration), self.supervisor, self.metrics.recordings_lost.inc)
        self._observer = Telemetry(self.metrics, self._why.remember, self._recorder.finished)
        self._seals = SealKeeper()
        self._lessons = Lessons()
        self._queues = Queues(queue_limits_of(settings))
        self._keys = Keys(configuration.keys)
        self.certificate = certificate_of(settings)
        contexts = contexts_of(configuration)
        tokens = {key.name: self._token_provider(key, contexts) for key in configuration.service_keys}
        self._now = self._generation(configuration, tokens, None)
        share(self.router.health, self._lessons, self._peers)
        self._discovery = Discovery(
            self._apis(),
            self.supervisor,
            self._publish,
            times=DiscoveryTimes(interval=settings.discovery_interval),
            scopes=configuration.scopes,
            naming=configuration.naming,
            snapshot_file=configuration.snapshot_file,
        )
        self._surveys = Surveys()
        self.metrics.registry.register(State(self._owners()))
        self.endpoint = asgi.Endpoint(
            self._recorder.handler(self._now.endpoints),
            timings_of(settings),
            self.metrics.in_flight.inc,
            proxies=trusted_proxies(settings.trusted_proxies),
            refuse=self._refused,
            room=room_of(settings),
        )
        self.application = build_application(
            model_api=self.endpoint,
            ready=lambda: self._peers.ready(self.ready()),
            exposition=lambda: self._peers.exposition(self.metrics),
            may_see_metrics=self._may_see_metrics,
            explain=self._explain,
            openapi=settings.openapi,
            cors_origins=tuple(origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()),
        )

    @property
    def configuration(self) -> Configuration:
        """The one in force."""
        return self._now.configuration

    @property
    def settings(self) -> Settings:
        return self._now.configuration.settings

    @property
    def landscape(self) -> Landscape:
        return self._now.landscape

    @property
    def router(self) -> Router:
        return self._now.router

    def ready(self) -> bool:
        """Whether a request could be served: at least one deployment is known."""
        return bool(self.landscape.catalog.by_name)

    async def start(self) -> None:
        """Starts what runs in the background; does not wait for SAP."""
        # What is loaded by now stays: a full collection that looks at all of it stalls every stream for 50 ms
        gc.collect()
        gc.freeze()
        # Requests leave no cycles: looking for some after every 700 objects cost a tenth to a fifth of a request
        gc.set_threshold(20_000, 20, 20)
        logs.set_level(self.settings.log_level)
        self.supervisor.start("loop lag", self.metrics.watch_loop_lag())
        if self.certificate is not None:
            self.supervisor.start("certificate", self.certificate.watch())
        for tokens in self._now.tokens.values():
            tokens.start()
        self._discovery.start()
        self.supervisor.start("probes", self._probe())
        self.supervisor.start("recordings", self._recorder.watch())
        self.supervisor.start("surveys", self._surveys.watch(self._surveyed, lambda: self.settings.survey_interval))

    async def first_look(self, seconds: float) -> None:
        """Waits until SAP has been looked at, at most so long."""
        await self._discovery.refresh_now(seconds)

    async def reload(self, configuration: Configuration) -> None:
        """Takes another configuration for all requests that come from now on. What stays the same goes on untouched:
        tokens, deployments, connections, breakers. Settings in ``configuration.FIXED`` take no effect.

        Raises ValueError, and changes nothing, where it cannot be used.
        """
        contexts = await asyncio.to_thread(contexts_of, configuration)
        settings = configuration.settings
        proxies = trusted_proxies(settings.trusted_proxies)
        if problems := clashes(configuration.keys):
            raise ValueError(" ".join(problems))
        # From here on nothing waits and nothing fails: requests see all of it or nothing
        before = self._now
        known = {key.name: key for key in before.configuration.service_keys}
        tokens: dict[str, TokenProvider] = {}
        for key in configuration.service_keys:
            if (was := known.get(key.name)) is None or not was.same_subaccount(key):
                tokens[key.name] = self._token_provider(key, contexts)
                tokens[key.name].start()
                continue
            tokens[key.name] = before.tokens[key.name]
            if was != key:
                tokens[key.name].rotate(key, contexts[key.name])
        for name, provider in before.tokens.items():
            if tokens.get(name) is not provider:
                provider.stop()
        self._now = self._generation(configuration, tokens, before)
        self._keys.replace(configuration.keys)
        self._queues.become(queue_limits_of(settings))
        logs.set_level(settings.log_level)
        self._recorder.rules = recording_of(configuration)
        handler = self._recorder.handler(self._now.endpoints)
        self.endpoint.become(handler, timings_of(settings), proxies, room_of(settings))
        times = DiscoveryTimes(interval=settings.discovery_interval)
        self._discovery.reconfigure(self._apis(), configuration.scopes, configuration.naming, times)
        self.metrics.reloaded(True)

    async def aclose(self) -> None:
        """Ends everything."""
        await self.supervisor.aclose()
        await self._upstream.close()

    def _token_provider(self, key: ServiceKey, contexts: Mapping[str, SSLContext | None]) -> TokenProvider:
        return TokenProvider(key, self._upstream, self.supervisor, tls=contexts[key.name])

    def _apis(self) -> list[AiApi]:
        return [AiApi(key, self._upstream, self._now.tokens[key.name]) for key in self.configuration.service_keys]

    def _publish(self, catalog: Catalog) -> None:
        self.landscape.publish(catalog)
        self.router.health.know(catalog.deployments(), time.monotonic())

    async def _look_again(self, seconds: float) -> object:
        return await self._discovery.refresh_now(seconds)

    def _look_soon(self, deployment: Deployment) -> None:
        self._discovery.refresh_soon(deployment.subaccount)

    async def _probe(self) -> None:
        """Looks at SAP, free of charge, for what fails: it may have been stopped, moved or deleted."""
        while True:
            await asyncio.sleep(self.settings.probe_interval)
            states = self._now.router.health.states(time.monotonic())
            failing = {identity for identity, state in states.items() if state is not BreakerState.CLOSED}
            for deployment in self.landscape.catalog.deployments() if failing else ():
                if deployment.id in failing:
                    self._look_soon(deployment)

    def _surveyed(self) -> list[tuple[AiApi, TokenProvider, Scope]]:
        scopes, tokens = self.configuration.scopes, self._now.tokens
        return [(api, tokens[api.key.name], scopes.get(api.key.name, Scope())) for api in self._apis()]

    def _owners(self) -> Owners:
        """Whom the metrics ask."""
        return Owners(
            health=lambda: self.router.health,
            catalog=lambda: self.landscape.catalog,
            waiting=self._queues.waiting,
            tokens=lambda: self._now.tokens,
            service_keys=lambda: self.configuration.service_keys,
            subaccounts=self._discovery.states,
            surveys=lambda: self._surveys.seen,
        )

    def _refused(self, request: ClientRequest, fault: Fault) -> Reply:
        return self._now.endpoints.refused(request, fault)

    def _may_see_metrics(self, request: Request) -> bool:
        """Whoever has the key for it. Where there is none, whoever has a client key; else only this machine, and nobody
        for whom somebody on it forwards."""
        if wanted := self.settings.metrics_key:
            return hmac.compare_digest(presented_key(request).encode(), wanted.encode())
        return is_local(request) or self._keys.named(presented_key(request)) is not None

    async def _explain(self, request: Request, request_id: str) -> dict[str, Any] | None:
        """What became of a request: this machine may see all, a client key those that were made with it."""
        key = None if is_local(request) else self._keys.named(presented_key(request))
        if key is None and not is_local(request):
            return None
        told = await self._why.explain(request_id)
        return told if told is not None and key in (None, told["key"]) else None

    def _generation(
        self, configuration: Configuration, tokens: Mapping[str, TokenProvider], before: Generation | None
    ) -> Generation:
        """The path of a request, as a configuration wants it. ``before``: the one whose memory it takes over."""
        settings = configuration.settings
        if before is None:
            landscape = Landscape(self._look_again, self._look_soon)
            router, sticky = build_router(settings)
        else:
            landscape = before.landscape.successor()
            router, sticky = build_router(settings, before.router)
        attempts = Attempts(
            router=router,
            asking=Asking(backends=BACKENDS, embedders=EMBEDDERS, dialects=DIALECTS, lessons=self._lessons),
            tokens=tokens,
            upstream=self._recorder.upstream(self._upstream),
            observer=self._observer,
            patience=Patience(
                settings.connect_timeout,
                settings.first_byte_timeout,
                settings.stream_head_timeout,
                settings.between_bytes_timeout,
                settings.recovery_wait,
            ),
            gone_missing=self._look_soon,
            queues=self._queues,
            hop=configuration.hop,
            first_byte=first_byte_of(settings),
        )
        gateway = Gateway(
            keys=self._keys,
            landscape=landscape,
            attempts=attempts,
            observer=self._observer,
            seals=self._seals,
            body_limit=settings.body_limit,
            deadline=settings.deadline,
            hop=configuration.hop,
            sticky=sticky,
            explains=settings.explain,
            fallbacks=Fallbacks(settings.routing.fallbacks, settings.routing.fallback_on),
        )
        endpoints = Endpoints(gateway, DIALECTS, {"/v1/messages": thread_refused})
        return Generation(configuration, tokens, landscape, router, endpoints)


def contexts_of(configuration: Configuration) -> dict[str, SSLContext | None]:
    """The TLS side of each token provider, by its service key's name. Reads files. Raises ValueError."""
    return {key.name: client_tls(key, os.environ) for key in configuration.service_keys}


def is_local(request: Request) -> bool:
    """Whether it comes from this machine, and not through somebody on it who forwards."""
    peer = request.client.host if request.client is not None else ""
    return is_loopback(peer) and not any(request.headers.get(name) is not None for name in FORWARDED)


def presented_key(request: Request) -> str:
    """The client key of a request to the application's own pages."""
    authorization = request.headers.get("authorization", "")
    return (authorization.partition(" ")[2] or request.headers.get("x-api-key", "")).strip()


def room_of(settings: Settings) -> asgi.Room:
    """What the process bears at once."""
    return asgi.Room(listen.most_requests(settings.max_requests), settings.body_memory)


def queue_limits_of(settings: Settings) -> QueueLimits:
    """How many requests wait for a deployment that has as many as it may have, and how long."""
    return QueueLimits(settings.queue_length, settings.queue_wait)


def timings_of(settings: Settings) -> Timings:
    """How long the edge waits."""
    return Timings(hold=settings.hold, keepalive=settings.keepalive, body_gap=settings.body_gap_timeout)


def recording_of(configuration: Configuration) -> Rules:
    """What is recorded."""
    settings = configuration.settings
    return Rules(
        folder=folder_of(settings.record_folder, configuration.state),
        keys=settings.record_keys,
        until=moment(settings.record_until) or 0.0,
        keep=settings.record_hours * 3600,
        most=settings.record_megabytes * 1024 * 1024,
    )


def thread_refused(envelope: Envelope) -> Fault | None:
    """Anthropic's message threads: nothing is kept between requests yet, so its SDKs are told to send all of it."""
    if envelope.get("thread", dict) is None:
        return None
    return anthropic_messages.refuse_thread(envelope.decoded())
