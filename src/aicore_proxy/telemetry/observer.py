"""What the gateway tells, as numbers and lines. Never raises: a failing observer fails no request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Concatenate, ParamSpec

from aicore_proxy.gateway.call import Attempt, Call
from aicore_proxy.gateway.record import CLIENT_GONE, Record
from aicore_proxy.protocol.neutral import Usage
from aicore_proxy.routing.outcome import Outcome
from aicore_proxy.telemetry.logs import access, log_request
from aicore_proxy.telemetry.metrics import Metrics

log = logging.getLogger("aicore_proxy.telemetry")

P = ParamSpec("P")

OPERATIONS = {"/v1/embeddings": "embeddings"}
"""By route; all others are ``chat``: OpenTelemetry's ``gen_ai.operation.name``."""
PROVIDERS: Mapping[str, str] = {
    "azure-openai": "azure.ai.openai",
    "aws-bedrock": "aws.bedrock",
    "gcp-vertexai": "gcp.vertex_ai",
}
"""OpenTelemetry's ``gen_ai.provider.name`` by SAP's executable; another executable stands for itself."""
REASONS: Mapping[Outcome, str] = {
    Outcome.THROTTLED: "throttled",
    Outcome.TIMEOUT: "timeout",
    Outcome.UNAUTHORIZED: "unauthorized",
    Outcome.UNAVAILABLE: "unavailable",
}


def harmless(
    told: Callable[Concatenate[Telemetry, P], None],
) -> Callable[Concatenate[Telemetry, P], None]:
    """An observer's bug is its own: it is logged, and the request goes on."""

    def guarded(self: Telemetry, /, *args: P.args, **more: P.kwargs) -> None:
        try:
            told(self, *args, **more)
        except Exception:
            log.exception("Telemetry failed")

    return guarded


class Telemetry:
    """The gateway's Observer."""

    def __init__(self, metrics: Metrics, *further: Callable[[Record], None]) -> None:
        """``further``: are given each Record too, once it is counted: to explain it later, to record it."""
        self._metrics = metrics
        self._further = further

    @harmless
    def streaming(self, change: int) -> None:
        """A streamed answer begins or has ended."""
        self._metrics.open_streams.inc(change)

    @harmless
    def attempted(self, call: Call, attempt: Attempt) -> None:
        """An attempt ended."""
        if attempt.outcome is None:
            return
        metrics, place = self._metrics, attempt.deployment
        metrics.upstream_attempts.inc(place.subaccount, place.model, attempt.outcome.value)
        if attempt.taught:
            metrics.amended.inc(place.subaccount, place.model)
        operation = "embeddings" if call.embeds else "chat"
        failed = "" if attempt.outcome is Outcome.OK else attempt.kind or attempt.outcome.value
        took = attempt.ended - attempt.started
        metrics.gen_ai_attempt.observe(took, operation, provider_of(attempt), place.model, failed)
        if attempt.first_content:
            metrics.first_token.observe(attempt.first_content - attempt.started, place.model, place.subaccount)

    @harmless
    def failed_over(self, call: Call, reason: str) -> None:
        """The next deployment is asked."""
        self._metrics.failovers.inc(reason_of(call.attempts[-1]))
        if access.isEnabledFor(logging.DEBUG):
            access.debug("Failover of %s: %s", call.id, reason)

    @harmless
    def finished(self, record: Record) -> None:
        """A request ended."""
        metrics = self._metrics
        metrics.requests.inc(record.protocol, record.route, str(record.status))
        metrics.duration.observe(record.duration, record.protocol, record.route)
        if record.overhead is not None:
            metrics.overhead.observe(record.overhead, record.protocol)
        if record.key_name:
            key = metrics.key_names(record.key_name)
            metrics.key_requests.inc(key, f"{record.status // 100}xx")
        if record.status == CLIENT_GONE:
            self._left(record)
        elif record.no_room:
            metrics.rejected.inc("queue")
        elif record.kind and not record.attempts:
            metrics.rejected.inc(record.kind)
        elif record.kind and record.status == 200:
            metrics.stream_errors.inc(record.kind)
        if record.serving is not None:
            self._called(record, record.serving)
        log_request(record)
        for told in self._further:
            told(record)

    def _left(self, record: Record) -> None:
        self._metrics.client_disconnects.inc(record.left)
        if record.left == "streaming" and record.serving is not None:
            self._metrics.disconnect_tokens.observe(tokens_seen(record.serving))

    def _called(self, record: Record, serving: Attempt) -> None:
        """A model was called."""
        metrics = self._metrics
        if record.fallback:
            metrics.fallbacks.inc(record.fallback)
        if serving.warm is not None:
            metrics.affinity.inc("hit" if serving.warm else "miss")
        model = (OPERATIONS.get(record.route, "chat"), provider_of(serving), record.model)
        failed = "client_left" if record.status == CLIENT_GONE else record.kind
        metrics.gen_ai_request.observe(record.duration, *model, failed)
        if record.first_content is not None:
            metrics.gen_ai_first_token.observe(record.first_content, *model)
        usage = serving.usage
        if usage is None:
            if not failed:
                metrics.uncounted.inc(record.model)
            return
        if record.first_content is not None and not failed and usage.output > 1:
            metrics.gen_ai_per_token.observe(record.content / (usage.output - 1), *model)
        metrics.gen_ai_tokens.observe(usage.input, *model, "input")
        metrics.gen_ai_tokens.observe(usage.output, *model, "output")
        key = metrics.key_names(record.key_name)
        for kind, tokens in kinds_of(usage).items():
            if tokens:
                metrics.tokens.inc(record.model, serving.deployment.subaccount, kind, by=tokens)
                metrics.key_tokens.inc(key, kind, by=tokens)


def kinds_of(usage: Usage) -> dict[str, int]:
    """Tokens by kind: ``input`` and ``output`` are all of them, the others are among these."""
    return {
        "input": usage.input,
        "output": usage.output,
        "cache_read": usage.cache_read,
        "cache_write": usage.cache_write,
        "reasoning": usage.reasoning,
    }


def tokens_seen(attempt: Attempt) -> int:
    """Output tokens of a stream that was left: what the model had counted by then, else an event for a token."""
    return max(attempt.usage.output if attempt.usage is not None else 0, attempt.events)


def reason_of(attempt: Attempt) -> str:
    """Why another deployment was asked after ``attempt``: one of a closed set, whatever the upstream's words."""
    if attempt.no_token:
        return "token"
    if attempt.missing:
        return "missing"
    if attempt.edge:
        return "connect"
    return REASONS.get(attempt.outcome, "other") if attempt.outcome is not None else "other"


def provider_of(attempt: Attempt) -> str:
    executable = attempt.deployment.executable
    return PROVIDERS.get(executable, executable)
