"""The path of a request, from top to bottom."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec
from msgspec import Struct

from aicore_proxy.backends.served import unserved
from aicore_proxy.gateway import counting, listing, permits
from aicore_proxy.gateway.asking import answering
from aicore_proxy.gateway.attempts import Attempts
from aicore_proxy.gateway.call import Call, Fallback
from aicore_proxy.gateway.embedding import check_operation, embedded
from aicore_proxy.gateway.exchange import ClientRequest, Fields, Head, Reply, StreamReply
from aicore_proxy.gateway.keys import Caller, Keys
from aicore_proxy.gateway.record import Account, Observer
from aicore_proxy.gateway.refusals import HOP, JSON, ids, looped, refusal
from aicore_proxy.gateway.seals import SealKeeper
from aicore_proxy.gateway.session import session_of, warm_seconds
from aicore_proxy.landscape import Catalog, Deployment
from aicore_proxy.protocol.dialects import Decoding, Dialect
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.profiles import profile_of
from aicore_proxy.routing.affinity import WARM

log = logging.getLogger("aicore_proxy.gateway")

EVENT_STREAM: Fields = (("content-type", "text/event-stream; charset=utf-8"), ("x-accel-buffering", "no"))
DROPPED = "x-aicore-proxy-dropped"
STRICT = "x-aicore-proxy-strict"
TIMEOUT, SDK_TIMEOUT = "x-aicore-proxy-timeout", "x-stainless-timeout"
MAX_HEADER = 1024


class Endpoint(Struct, frozen=True):
    """One of the proxy's model endpoints. ``route`` is its path pattern, for logs and metrics; ``refused`` answers
    requests that the dialect has but the proxy cannot serve, with the dialect's own words."""

    route: str
    dialect: Dialect
    refused: Callable[[Envelope], Fault | None] = lambda _: None


REASONS = {
    "overload": (Kind.RATE_LIMITED, Kind.OVERLOADED, Kind.UPSTREAM_FAILED, Kind.TIMEOUT),
    "context_too_long": (Kind.CONTEXT_TOO_LONG,),
    "content_filter": (Kind.CONTENT_FILTERED,),
}
"""Why another model may be asked: the operator's word -> kinds of Fault."""


class Fallbacks:
    """Which models are asked where one cannot answer. ``models``: by a client's name or SAP's, others in order;
    ``reasons``: of REASONS."""

    def __init__(self, models: Mapping[str, tuple[str, ...]] | None = None, reasons: Iterable[str] = REASONS) -> None:
        self._models = {name.strip().lower(): others for name, others in (models or {}).items()}
        self.reasons = frozenset(kind for reason in reasons for kind in REASONS[reason])

    def of(self, name: str, model: str) -> tuple[str, ...]:
        """Those for a client's ``name``, which leads to SAP's ``model``."""
        if not self._models:
            return ()
        return self._models.get(name.strip().lower()) or self._models.get(model.lower(), ())


class Landscape:
    """The catalog of the moment, and how to look again. Owns one reference, swapped whole.

    ``look_again(seconds)`` looks at SAP, if it has not lately, and waits for it at most so long; ``look_soon`` asks for
    a look at a deployment's subaccount and does not wait.
    """

    def __init__(
        self, look_again: Callable[[float], Awaitable[object]], look_soon: Callable[[Deployment], None]
    ) -> None:
        self.catalog = Catalog()
        self.discovered = False
        """Whether a look at SAP has ever found anything."""
        self.look_again = look_again
        self.look_soon = look_soon
        self._left_out: set[str] = set()

    def successor(self) -> Landscape:
        """One for the requests that come from now on, with what is known here; this one stays as it is for those that
        began with it."""
        other = Landscape(self.look_again, self.look_soon)
        other.catalog, other.discovered, other._left_out = self.catalog, self.discovered, self._left_out
        return other

    def publish(self, catalog: Catalog) -> None:
        """A new catalog was read. What cannot be served is left out, with one log line per model."""
        deployments = catalog.deployments()
        reasons = {d: unserved(d) for d in deployments}
        for deployment, reason in reasons.items():
            if reason and deployment.model not in self._left_out:
                self._left_out.add(deployment.model)
                log.info("The model %s is left out: %s.", deployment.model, reason)
        self.catalog = catalog.narrowed(lambda d: reasons[d] is None)
        self.discovered = self.discovered or bool(deployments)


class Gateway:
    """Answers clients. Immutable but for what its parts own. ``sticky``: whether the conversations with a model (SAP's
    name) are to stay where their prefix is cached; ``hop``: by which it knows its own requests."""

    def __init__(
        self,
        *,
        keys: Keys,
        landscape: Landscape,
        attempts: Attempts,
        observer: Observer,
        seals: SealKeeper,
        body_limit: int,
        deadline: float,
        hop: str,
        sticky: Callable[[str], bool] = lambda _: False,
        explains: bool = True,
        fallbacks: Fallbacks | None = None,
    ) -> None:
        self._keys = keys
        self._landscape = landscape
        self._attempts = attempts
        self._observer = observer
        self._seals = seals
        self._body_limit = body_limit
        self._deadline = deadline
        self._hop = hop
        self._sticky = sticky
        self._explains = explains
        self._fallbacks = fallbacks or Fallbacks()

    async def generate(self, request: ClientRequest, endpoint: Endpoint) -> Reply | StreamReply:
        """A model call: Chat Completions or Messages, streamed or not."""
        with self._account(request, endpoint) as account:
            try:
                account.caller = caller = self._keys.authenticate(request)
                envelope = Envelope.parse(await request.body(self._body_limit))
                if (fault := endpoint.refused(envelope)) is not None:
                    raise fault
                account.call = call = await self._call(request, endpoint, caller, envelope)
                if call.stream:
                    return self._streamed(endpoint, call, account)
                body = await self._attempts.whole(call)
            except Fault as fault:
                return self._refused(endpoint, fault, account)
            head = self._head(account, call, JSON)
            return Reply(head.status, head.headers, body, close=account.close)

    async def count(self, request: ClientRequest, endpoint: Endpoint) -> Reply:
        """Anthropic's token counting: an estimate, and marked as one."""
        with self._account(request, endpoint) as account:
            try:
                account.caller = caller = self._keys.authenticate(request)
                envelope = Envelope.parse(await request.body(self._body_limit))
                model = (await self._serving(envelope, caller))[0].model
                betas = beta_values(request)
                asked = endpoint.dialect.decode_request(envelope.decoded(), Decoding(betas=betas))
                tokens = await counting.estimate(asked, profile_of(model).family)
            except Fault as fault:
                return self._refused(endpoint, fault, account)
            body = msgspec.json.encode({"input_tokens": tokens})
            fields = (*JSON, *ids(endpoint.dialect, request.request_id), ("x-aicore-proxy-estimate", "true"))
            return Reply(200, fields, body, close=account.close)

    async def embed(self, request: ClientRequest, endpoint: Endpoint) -> Reply:
        """Embeddings."""
        with self._account(request, endpoint) as account:
            try:
                account.caller = caller = self._keys.authenticate(request)
                envelope = Envelope.parse(await request.body(self._body_limit))
                account.call = call = await self._call(request, endpoint, caller, envelope, embeds=True)
                body = await embedded(self._attempts, call)
            except Fault as fault:
                return self._refused(endpoint, fault, account)
            return Reply(200, self._head(account, call, JSON).headers, body, close=account.close)

    async def models(self, request: ClientRequest, endpoint: Endpoint, name: str | None = None) -> Reply:
        """The model list, or one model of it, in the shape of the endpoint's dialect."""
        with self._account(request, endpoint) as account:
            try:
                account.caller = caller = self._keys.authenticate(request)
                body = self._listed(request, endpoint.dialect, name, permits.visible(caller, self._landscape.catalog))
            except Fault as fault:
                return self._refused(endpoint, fault, account)
            fields = (*JSON, *ids(endpoint.dialect, request.request_id))
            return Reply(200, fields, msgspec.json.encode(body), close=account.close)

    def refused(self, request: ClientRequest, endpoint: Endpoint, fault: Fault) -> Reply:
        """An answer to what is no request of any endpoint."""
        return self._refused(endpoint, fault, self._account(request, endpoint))

    # What they have in common

    async def _call(
        self, request: ClientRequest, endpoint: Endpoint, caller: Caller, envelope: Envelope, *, embeds: bool = False
    ) -> Call:
        deployments = await self._serving(envelope, caller)
        model = deployments[0].model
        check_operation(envelope.get("model", str) or "", model, embeds=embeds)
        sticky = not embeds and len(deployments) > 1 and self._sticky(model)
        stream = not embeds and (envelope.get("stream", bool) or False)
        seconds = seconds_for(request, self._deadline, stream=stream)
        return Call(
            request_id=request.request_id,
            caller=caller,
            dialect=endpoint.dialect,
            envelope=envelope,
            model=envelope.get("model", str) or "",
            sap_model=model,
            deployments=deployments,
            stream=stream,
            deadline=request.received + seconds,
            hurried=seconds < self._deadline,
            seals=self._seals,
            betas=beta_values(request),
            strict=(request.header(STRICT) or "").lower() in ("1", "true", "yes"),
            embeds=embeds,
            fallbacks=() if embeds else self._fallbacks_of(envelope.get("model", str) or "", model, caller),
            falls_back_on=self._fallbacks.reasons,
            read_at=self._landscape.catalog.read_at,
            session=session_of(request, envelope, caller.key_id, model) if sticky else None,
            warm_seconds=warm_seconds(envelope) if sticky else WARM,
        )

    async def _serving(self, envelope: Envelope, caller: Caller) -> tuple[Deployment, ...]:
        """The deployments of the model asked for. Looks at SAP again, if it has not lately, before it says no; says no
        too where the caller's key is not for that model."""
        name = envelope.get("model", str)
        if not name:
            raise Fault(Kind.MALFORMED, "The member 'model' is missing: name the model to use.", param="model")
        if not (serving := self._landscape.catalog.serving(name)):
            await self._landscape.look_again(5.0)
            serving = self._landscape.catalog.serving(name)
        if not serving and not self._landscape.discovered:
            words = "No deployment is known yet: looking for them at SAP AI Core has not succeeded."
            raise Fault(Kind.OVERLOADED, words, code="not_ready")
        if not serving:
            raise listing.unknown_model(name, permits.visible(caller, self._landscape.catalog))
        if caller.models and not permits.may_use(caller, name, self._landscape.catalog):
            raise permits.forbidden(caller, name, self._landscape.catalog)
        return serving

    def _fallbacks_of(self, name: str, model: str, caller: Caller) -> tuple[Fallback, ...]:
        """What is configured for a client's name, or for the model that it leads to; of it what is served, and what the
        caller's key is for."""
        catalog = self._landscape.catalog
        found = [
            Fallback(serving[0].model, serving)
            for other in self._fallbacks.of(name, model)
            if (serving := catalog.serving(other)) and permits.may_use(caller, other, catalog)
        ]
        return tuple(fallback for fallback in found if fallback.model != model)

    def _listed(self, request: ClientRequest, dialect: Dialect, name: str | None, catalog: Catalog) -> object:
        if dialect.name == "anthropic_messages":
            if name is not None:
                return listing.anthropic_model(name, catalog)
            return listing.anthropic_list(catalog, **page_of(request))
        if name is not None:
            return listing.openai_model(name, catalog)
        return listing.openai_list(catalog)

    def _refused(self, endpoint: Endpoint, fault: Fault, account: Account) -> Reply:
        """The answer to a request that ended in ``fault``. One that was let in by no key may be one of our own: an
        upstream's address leads here."""
        if account.caller is None and account.request.header(HOP) == self._hop:
            fault = looped("the address of an upstream", (HOP, self._hop))
        reply = refusal(endpoint.dialect, fault, account.request.request_id)
        account.fails(fault, reply.status)
        return Reply(reply.status, (*reply.headers, *explained(account)), reply.body, close=account.close)

    def _account(self, request: ClientRequest, endpoint: Endpoint) -> Account:
        return Account(request, endpoint.route, endpoint.dialect.name, self._observer, explains=self._explains)

    def _streamed(self, endpoint: Endpoint, call: Call, account: Account) -> StreamReply:
        account.streams()

        def refuse(fault: Fault) -> Reply:
            reply = refusal(endpoint.dialect, fault, call.id)
            account.fails(fault, reply.status)
            return Reply(reply.status, (*reply.headers, *explained(account)), reply.body)

        def fail(fault: Fault) -> bytes:
            account.fails(fault)
            return endpoint.dialect.stream_encoder(answering(call)).fail(fault, call.id)

        return StreamReply(
            self._attempts.stream(call),
            head=lambda: self._head(account, call, EVENT_STREAM),
            keepalive=endpoint.dialect.keepalive,
            refuse=refuse,
            fail=fail,
            close=account.close,
        )

    def _head(self, account: Account, call: Call, fields: Fields) -> Head:
        """Status and fields of an answer, at the moment when it is known who answered."""
        account.answers()
        told = explanation(call, account.overhead) if self._explains else []
        # These two say that the answer is not quite what was asked for: they are always told
        if call.fallback:
            told.append(("x-aicore-proxy-fallback", call.fallback))
        if call.attempts and (losses := call.attempts[-1].losses):
            told.append((DROPPED, printable(", ".join(dict.fromkeys(loss.field for loss in losses)))))
        return Head(200, (*fields, *ids(call.dialect, call.id), *told))


def seconds_for(request: ClientRequest, longest: float, *, stream: bool) -> float:
    """How long the client waits for content, ``longest`` at most. Raises Fault(MALFORMED) on a value of our header that
    is no time. The SDKs tell after how long without a byte they leave; keep-alives of a stream are bytes."""
    own = request.header(TIMEOUT)
    told = own if own is not None or stream else request.header(SDK_TIMEOUT)
    if told is None:
        return longest
    try:
        seconds = float(told)
    except ValueError:
        seconds = 0.0
    if seconds > 0:
        return min(seconds, longest)
    if own is None:
        return longest
    raise Fault(Kind.MALFORMED, f"'{TIMEOUT}' must be a number of seconds.", param=TIMEOUT)


def explanation(call: Call, overhead: float | None) -> list[tuple[str, str]]:
    """Headers that tell who answered, and how it came to that."""
    told = [("x-aicore-proxy-model", call.sap_model)]
    if call.attempts:
        serving = call.attempts[-1]
        told.append(("x-aicore-proxy-attempts", str(serving.number)))
        told.append(("x-aicore-proxy-subaccount", serving.deployment.subaccount))
        told.append(("x-aicore-proxy-deployment", serving.deployment.id))
        if serving.warm is not None:
            told.append(("x-aicore-proxy-affinity", "hit" if serving.warm else "miss"))
    if overhead is not None:
        told.append(("x-aicore-proxy-overhead-ms", f"{overhead * 1000:.2f}"))
    return told


def explained(account: Account) -> list[tuple[str, str]]:
    """Headers of an error: whom it was asked of last, if anybody."""
    if account.call is None or not account.explains:
        return []
    account.answers()
    return explanation(account.call, account.overhead)


def beta_values(request: ClientRequest) -> tuple[str, ...]:
    """The values of ``anthropic-beta``, in order, once each; clients send some twice, and several in one field."""
    values = [value.strip() for field in request.all("anthropic-beta") for value in field.split(",")]
    return tuple(dict.fromkeys(value for value in values if value))


def page_of(request: ClientRequest) -> dict[str, Any]:
    """Anthropic's paging parameters. Raises Fault(MALFORMED)."""
    asked = parse_qs(request.query.decode("latin-1"))
    page: dict[str, Any] = {}
    if "limit" in asked:
        if not re.fullmatch(r"[1-9]\d{0,3}", asked["limit"][0]) or int(asked["limit"][0]) > listing.LIST_LIMIT:
            raise Fault(Kind.MALFORMED, "'limit' must be a number from 1 to 1000.", param="limit")
        page["limit"] = int(asked["limit"][0])
    page["after"] = asked.get("after_id", [None])[0]
    page["before"] = asked.get("before_id", [None])[0]
    return page


def printable(text: str) -> str:
    """``text`` as a header value: printable ASCII, bounded."""
    return re.sub(r"[^ -~]", "?", text)[:MAX_HEADER]
