"""What one deployment is asked: the client's request as it takes it, and how its answer becomes the client's."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

from aicore_proxy.backends import Ask, Backend, Prepared
from aicore_proxy.backends.lessons import Lessons
from aicore_proxy.gateway.call import Attempt, Call
from aicore_proxy.protocol.dialects import Answering, Dialect, Target
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.framing import framer_for
from aicore_proxy.protocol.neutral import Loss, Request, Sampling, Undo
from aicore_proxy.protocol.pipe import Pipe, Relay, Translation
from aicore_proxy.protocol.profiles import profile_of
from aicore_proxy.protocol.seal import carried, native

LARGE = 256 * 1024
NO_UNDO = Undo()
NONE: frozenset[str] = frozenset()


class Asked(Struct, frozen=True):
    """What one deployment is asked: the request as it takes it, and how its answer becomes the client's."""

    prepared: Prepared
    source: Dialect
    undo: Undo = Undo()
    answers: tuple[str, ...] = ()
    """Members one of which the answer has; empty: those of the dialect."""

    def sent(self) -> Asked:
        """Without the body: a stream may last for minutes, and has no use for it."""
        return msgspec.structs.replace(self, prepared=msgspec.structs.replace(self.prepared, body=b""))

    def pipe(self, call: Call, content_type: str) -> Pipe:
        framer = framer_for(content_type)
        if self.source is call.dialect:
            return Relay(call.dialect, framer, answering(call, self.undo))
        observe = call.seals.watcher(call.caller.key_id) if call.slotless else None
        return Translation(self.source, call.dialect, framer, answering(call, self.undo), observe)


def answering(call: Call, undo: Undo = NO_UNDO) -> Answering:
    """Whom the answer is for. A relay needs no neutral request, so none is decoded for it."""
    request = call.__dict__.get("request") or Request(
        call.dialect.name, call.model, (), sampling=Sampling(n=call.candidates), stream=call.stream
    )
    # Not from the request's id: a client may send the same with every turn, and calls must not be taken for each other
    fresh_id = secrets.token_hex(12)
    return Answering(request, carried(call.dialect.home), undo, fresh_id, int(time.time()), call.id)


class Asking:
    """Prepares what deployments are asked. Owns what they have said that they do not take (``lessons``).

    ``backends`` and ``embedders``: by SAP's executable; only deployments of these are in the catalog (of models that
    make embeddings, only deployments that have an embedder).
    """

    def __init__(
        self,
        *,
        backends: Mapping[str, Backend],
        embedders: Mapping[str, Callable[[Envelope], Prepared]],
        dialects: Mapping[str, Dialect],
        lessons: Lessons,
    ) -> None:
        self._backends = backends
        self._embedders = embedders
        self._dialects = dialects
        self._lessons = lessons

    async def asked(self, call: Call, attempt: Attempt) -> Asked:
        deployment = attempt.deployment
        backend = self._backends[deployment.executable]
        now = time.monotonic()
        ask = Ask(call.stream, call.betas, self._lessons.refused_flags(deployment.id, now) if not call.strict else NONE)
        await breathe(call)
        if call.embeds:
            asked = Asked(self._embedders[deployment.executable](call.envelope), call.dialect, answers=("data",))
        elif backend.dialect == call.dialect.name:
            if call.envelope.size > LARGE:
                for _ in backend.read_ahead(call.envelope):
                    await asyncio.sleep(0)
            asked = Asked(backend.relayed(call.envelope, deployment, ask), call.dialect)
        else:
            source = self._dialects[backend.dialect]
            profile = profile_of(deployment.model)
            call.envelope.decoded()
            await breathe(call)
            request = call.request
            await breathe(call)
            encoded = source.encode_request(request, Target(deployment.model, profile, native(profile.family)))
            refuse(encoded.losses, call)
            await breathe(call)
            prepared = backend.translated(encoded, deployment, ask)
            losses = (*encoded.losses, *(loss for loss in prepared.losses if loss not in encoded.losses))
            asked = Asked(msgspec.structs.replace(prepared, losses=losses), source, encoded.undo)
            attempt.relayed = False
        if not call.strict:
            prepared = self._lessons.applied(deployment.id, asked.prepared, asked.source.name, now)
            if prepared is not asked.prepared:
                asked = msgspec.structs.replace(asked, prepared=prepared)
        attempt.losses = asked.prepared.losses
        refuse(attempt.losses, call)
        await breathe(call)
        return asked

    def took(self, attempt: Attempt, asked: Asked) -> None:
        """The deployment gave an answer."""
        if asked.prepared.betas:
            self._lessons.took(attempt.deployment.id, asked.prepared.betas)

    def learned(self, call: Call, attempt: Attempt, asked: Asked, fault: Fault) -> bool:
        """Whether ``fault`` says what the deployment does not take, so that it is worth being asked without."""
        if call.strict:
            return False
        names = self._lessons.learn(attempt.deployment.id, asked.prepared, fault, time.monotonic())
        attempt.taught += names
        return bool(names)


def refuse(losses: tuple[Loss, ...], call: Call) -> None:
    """Raises Fault(UNSUPPORTED) for the first loss that changes the answer; for any, where the client is strict."""
    for loss in losses:
        if call.strict or not loss.harmless:
            why = f": {loss.reason}" if loss.reason else ""
            words = f"'{loss.field}' cannot be used with the model '{call.model}'{why}."
            raise Fault(Kind.UNSUPPORTED, words, code="unsupported_parameter", param=loss.field)


async def breathe(call: Call) -> None:
    """Lets the other streams have a turn between two steps over a large body."""
    if call.envelope.size > LARGE:
        await asyncio.sleep(0)
