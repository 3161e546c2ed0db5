"""``/v2/inference/deployments/{id}/…``: who may, which operation, what the script says, and the answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any

import msgspec

from aicore_proxy.simulator import answers, azure, bedrock, faults, gemini, pacing, unknown
from aicore_proxy.simulator.faults import Refusal
from aicore_proxy.simulator.gemini_rules import error as google_error
from aicore_proxy.simulator.landscape import Deployment, Landscape, Subaccount, Switches
from aicore_proxy.simulator.operation import Operation, Setting, parsed
from aicore_proxy.simulator.records import Records
from aicore_proxy.simulator.scripts import Place, Script, ScriptBook, ScriptError
from aicore_proxy.simulator.server import Reply, Request
from aicore_proxy.simulator.signatures import Signer
from aicore_proxy.simulator.tokens import Refused, Tokens

PREFIX = "/v2/inference/deployments/"
_API_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_CACHES = 10_000
HTML = b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>\n"


class Inference:
    """Answers inference requests. Owns the count of those in progress; used on its event loop only."""

    def __init__(
        self,
        landscape: Landscape,
        subaccounts: Mapping[str, Subaccount],
        tokens: Tokens,
        book: ScriptBook,
        *,
        seed: int,
        fast: bool,
    ) -> None:
        self.switches: Switches = landscape.switches
        self.records = Records()
        self.open = 0
        self._subaccounts = subaccounts
        self._tokens = tokens
        self._book = book
        self._random = Random(seed)
        self._split = None if fast else Random(seed + 1)
        self._fast = fast
        self._signer = Signer(trusting=lambda: not self.switches.check_signatures)
        self._caches: dict[tuple[str, str], float] = {}

    def deployment(self, path: str) -> tuple[Deployment | None, str, str]:
        """The deployment of a path (None: unknown), its deployment_id, and what follows."""
        deployment_id, _, rest = path.removeprefix(PREFIX).partition("/")
        for subaccount in self._subaccounts.values():
            if deployment_id in subaccount.deployments:
                return subaccount.deployments[deployment_id], deployment_id, rest
        return None, deployment_id, rest

    def early(self, request: Request) -> Callable[[Reply], Awaitable[None]] | None:
        """The answer of a script with ``early``, before the body has been read."""
        if not len(self._book) or not request.path.startswith(PREFIX):
            return None
        deployment, _, rest = self.deployment(request.path)
        if deployment is None:
            return None
        script = self._book.of_place(_place(deployment))
        if script is None or not script.early:
            return None

        async def answer(reply: Reply) -> None:
            deployment.received += 1
            operation = self._operation(request, deployment, rest, {})
            raised = self._told(operation, self._book.decide(_place(deployment), ""))
            await _send(reply, raised or faults.proxy(413, "Request entity too large."))

        return answer

    async def answer(self, request: Request, reply: Reply) -> None:
        """Answers one request. A Refusal is written as its answer."""
        deployment, deployment_id, rest = self.deployment(request.path)
        if deployment is None:
            refusal = self._stranger(request, deployment_id)
            await _send(reply, refusal)
            return
        deployment.received += 1
        if not self._fast:
            self.records.add(request, deployment)
        deployment.open += 1
        self.open += 1
        try:
            await self._serve(request, reply, deployment, rest)
        except Refusal as refusal:
            await _send(reply, refusal)
        finally:
            deployment.open -= 1
            self.open -= 1

    def _stranger(self, request: Request, deployment_id: str) -> Refusal:
        try:
            self._tokens.check(request.headers.get("authorization"))
        except Refused as refused:
            return faults.edge(401, str(refused))
        return faults.deployment_not_found(deployment_id)

    async def _serve(self, request: Request, reply: Reply, deployment: Deployment, rest: str) -> None:
        self._admit(request, deployment)
        body = parsed(request.body)
        operation = self._operation(request, deployment, rest, body if isinstance(body, dict) else {})
        script = self._script(deployment, operation, request.body)
        if script.hang:
            await asyncio.Event().wait()
        if script.delay:
            await asyncio.sleep(script.delay)
        if script.raw is not None:
            await reply.raw(script.raw.encode("latin-1", "replace"))
            reply.cut(reset=bool(script.reset))
            return
        if script.reset and script.cut_after is None and script.cut_bytes is None:
            reply.cut(reset=True)
            return
        if (refusal := self._told(operation, script)) is not None:
            raise refusal
        if isinstance(body, str):
            raise operation.failed(400, body, "")
        _check(operation)
        if script.refuse is not None:
            raise operation.refused(script.refuse)
        if script.unknown is not None:
            words = unknown.complaint(body, script.unknown, deployment.family.executable)
            if words is not None:
                raise operation.failed(400, words, "")
        self._spend(deployment)
        if len(self._caches) > _CACHES:
            self._caches.clear()
        answer = answers.make(operation.prompt, script, reveals_reasoning=operation.reveals_reasoning())
        if operation.prompt.stream:
            await self._stream(operation, answer, script, reply, deployment)
        else:
            await self._whole(operation, answer, script, reply, deployment)

    def admitted(self, request: Request, deployment: Deployment, rest: str, body: dict[str, Any] | str) -> Operation:
        """The checked operation of a request without a script. Raises Refusal."""
        self._admit(request, deployment)
        operation = self._operation(request, deployment, rest, body if isinstance(body, dict) else {})
        if isinstance(body, str):
            raise operation.failed(400, body, "")
        _check(operation)
        return operation

    # --- who may

    def _admit(self, request: Request, deployment: Deployment) -> None:
        try:
            subaccount = self._tokens.check(request.headers.get("authorization"))
        except Refused as refused:
            raise faults.edge(401, str(refused)) from None
        group = request.headers.get("ai-resource-group", "")
        known = group in subaccount.resource_groups
        if not known:
            raise group_refusal(self.switches, group)
        if deployment.subaccount != subaccount.name or deployment.resource_group != group:
            raise faults.deployment_not_found(deployment.id)
        if deployment.status != "RUNNING":
            if self.switches.stopped_deployment == 503 and deployment.status in ("STOPPED", "DEAD", "STOPPING"):
                raise faults.edge(503, "no healthy upstream")
            raise faults.deployment_not_found(deployment.id)

    def _spend(self, deployment: Deployment) -> None:
        """The subaccount's requests a minute and model, where it has a quota."""
        subaccount = self._subaccounts[deployment.subaccount]
        if not subaccount.quota:
            return
        loop = asyncio.get_running_loop()
        minute = int(loop.time() // 60)
        same = [d for d in subaccount.deployments.values() if d.model == deployment.model]
        for other in same:
            if other.minute != minute:
                other.minute, other.used = minute, 0
        if sum(other.used for other in same) >= subaccount.quota:
            left = int(60 - loop.time() % 60) + 1
            refusal = faults.proxy(429)
            refusal.headers |= faults.retry_headers(Script(retry_after=left), 429, self.switches)
            raise refusal
        deployment.used += 1

    # --- which operation

    def _operation(self, request: Request, deployment: Deployment, rest: str, body: dict[str, Any]) -> Operation:
        setting = Setting(deployment, self.switches, self._signer, self._random, self._caches)
        if request.method != "POST" or not rest:
            raise faults.proxy(404, "Not found.")
        family = deployment.family
        found: Operation | None = None
        match family.executable:
            case "azure-openai":
                found = _azure(request, rest, body, setting)
            case "aws-bedrock":
                found = bedrock.operation(request, rest, body, setting)
            case "gcp-vertexai":
                found = _vertex(rest, body, setting)
            case "aicore-mistralai" | "aicore-opensource" if rest == "chat/completions":
                found = azure.Chat(body, setting)
        if found is None:
            raise faults.subpath(rest, deployment.model)
        return found

    # --- what the script says

    def _script(self, deployment: Deployment, operation: Operation, body: bytes) -> Script:
        if not len(self._book) and b"simulate:" not in body:
            return _NO_SCRIPT
        try:
            return self._book.decide(_place(deployment), operation.last_user())
        except ScriptError as error:
            raise operation.failed(400, str(error), "") from None

    def _told(self, operation: Operation, script: Script) -> Exception | None:
        """The error or the foreign answer that the script wants in place of an answer."""
        status = script.status
        if script.error_after is not None and operation.prompt.stream:
            return None
        if script.error_after is not None:
            status = status or 429
        if script.empty and not operation.prompt.stream:
            return Refusal(status or 200, b"", script.content_type or faults.JSON, _headers(script))
        if script.garbage == "html" or (script.garbage == "foreign" and not operation.prompt.stream):
            body = HTML if script.garbage == "html" else b'{"hello": "world"}'
            kind = "text/html" if script.garbage == "html" else faults.JSON
            return Refusal(status or 200, body, script.content_type or kind, _headers(script))
        if script.body is not None or script.body_bytes is not None:
            return self._own_body(script, status or 200)
        if status is None or (status == 200 and script.message is None):
            return None
        refusal = _in_layer(operation, script, status)
        refusal.headers |= faults.retry_headers(script, status, self.switches) | _headers(script)
        for name, value in (script.headers or {}).items():
            if value is None:
                refusal.headers.pop(name.lower(), None)
        return refusal

    def _own_body(self, script: Script, status: int) -> Refusal:
        if isinstance(script.body, str):
            body = script.body.encode("utf-8", "surrogateescape")
        else:
            body = b"" if script.body is None else msgspec.json.encode(script.body)
        body = body.ljust(script.body_bytes or 0, b"x")
        kind = faults.PLAIN if isinstance(script.body, str) else faults.JSON
        headers = _headers(script) | faults.retry_headers(script, status, self.switches)
        return Refusal(status, body, script.content_type or kind, headers)

    # --- writing

    async def _whole(
        self, operation: Operation, answer: answers.Answer, script: Script, reply: Reply, deployment: Deployment
    ) -> None:
        body = operation.whole(answer)
        headers = {"content-type": script.content_type or faults.JSON, **self._response_headers(), **_headers(script)}
        cut = (
            script.cut_bytes
            if script.cut_bytes is not None
            else len(body) // 2
            if script.cut_after is not None
            else None
        )
        if script.garbage == "json" or script.garbage is True:
            body = body[: len(body) // 2]
        if script.stall or cut is not None or not self._fast:
            reply.head(script.status or 200, headers, len(body))
            wire = pacing.Wire(reply, self._split, cut, _counter(deployment))
            if script.stall:
                await wire.put(body[:1])
                await wire.flush()
                await asyncio.sleep(script.stall)
                body = body[1:]
            try:
                await wire.put(body)
                await wire.flush()
            except pacing.CutShort:
                reply.cut(reset=bool(script.reset))
                return
            reply.end(close=bool(script.silent_close))
            return
        await reply.send(200, headers, body)
        deployment.pushed += len(body)

    async def _stream(
        self, operation: Operation, answer: answers.Answer, script: Script, reply: Reply, deployment: Deployment
    ) -> None:
        headers = {
            "content-type": script.content_type or operation.stream_type,
            **self._response_headers(),
            **_headers(script),
        }
        reply.head(200, headers, None)
        if script.empty:
            reply.end(close=bool(script.silent_close))
            return
        failing = operation.error_frame(script.status or 429, script.message or "", script.code or "")
        frames = operation.frames(answer)
        if script.garbage == "foreign":
            frames = iter([(True, b'data: {"hello": "world"}\n\n')])
        wire = pacing.Wire(reply, self._split, script.cut_bytes, _counter(deployment))
        try:
            whole = await pacing.stream(frames, script, wire, reply, failing=failing, kind=operation.stream_type)
        except pacing.CutShort:
            whole = False
        if whole:
            reply.end(close=bool(script.silent_close))
        else:
            reply.cut(reset=bool(script.reset))

    def _response_headers(self) -> dict[str, str]:
        number = f"{self._random.getrandbits(128):032x}"
        uuid = f"{number[:8]}-{number[8:12]}-4{number[13:16]}-8{number[17:20]}-{number[20:]}"
        return {
            "x-request-id": uuid,
            "ai-inference-id": uuid,
            "x-upstream-service-time": str(self._random.randrange(1, 900)),
        }


_NO_SCRIPT = Script()


def _check(operation: Operation) -> None:
    try:
        operation.check()
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        # The rules are written for well-formed bodies; what is malformed in other ways is refused all the same.
        raise operation.failed(400, f"The request is malformed: {error}", "") from None


def group_refusal(switches: Switches, group: str) -> Refusal:
    """A missing or wrong resource group: three reports, all switchable (section 10, item 20)."""
    match switches.resource_group_refusal:
        case "404":
            return faults.proxy(404, f"Resource group {group} not found." if group else "Resource group not found.")
        case "tenant":
            return Refusal(400, b"Missing Tenant Id", faults.PLAIN)
        case _:
            return faults.edge(403)


def _place(deployment: Deployment) -> Place:
    return Place((deployment.id, deployment.subaccount, deployment.model, deployment.resource_group), deployment.open)


def _counter(deployment: Deployment) -> Callable[[int], None]:
    def count(size: int) -> None:
        deployment.pushed += size

    return count


def _headers(script: Script) -> dict[str, str]:
    return {name.lower(): value for name, value in (script.headers or {}).items() if value is not None}


def _in_layer(operation: Operation, script: Script, status: int) -> Refusal:
    layer = script.layer
    if layer is None:
        layer = "edge" if status in (401, 403, 503, 504) else "proxy" if status in (404, 429) else "provider"
        if script.code is not None and layer == "edge":
            layer = "provider"
    message, code = script.message or "", script.code or ""
    if layer == "edge":
        return faults.edge(status, message)
    if layer == "proxy":
        return faults.proxy(status, message, code)
    refusal = operation.failed(status, message, code)
    assert isinstance(refusal, Refusal)
    return refusal


async def _send(reply: Reply, raised: Exception) -> None:
    if not isinstance(raised, Refusal):
        raise raised
    await reply.send(raised.status, raised.headers, raised.body)


def _azure(request: Request, rest: str, body: dict[str, Any], setting: Setting) -> Operation | None:
    family = setting.deployment.family
    if rest == "chat/completions" and not family.embedding and not family.responses_only:
        found: Operation = azure.Chat(body, setting)
    elif rest == "embeddings" and family.embedding:
        found = azure.Embeddings(body, setting)
    else:
        return None
    if not _API_VERSION.fullmatch(request.query.get("api-version", "")):
        raise found.failed(404, "Resource not found", "404")
    return found


def _vertex(rest: str, body: dict[str, Any], setting: Setting) -> Operation | None:
    found = re.fullmatch(r"models/([^:/]+):(\w+)", rest)
    if found is None:
        return None
    model, verb = found.groups()
    deployment = setting.deployment
    # SAP's name and the version's name are both accepted.
    if model != deployment.model and not model.startswith(deployment.model + "-"):
        raise google_error(404, f"Publisher Model `{model}` was not found or your project does not have access to it.")
    if deployment.family.embedding and verb in ("embedContent", "predict"):
        return gemini.Embed(body, setting, verb=verb)
    if not deployment.family.embedding and verb in ("generateContent", "streamGenerateContent"):
        return gemini.Generate(body, setting, stream=verb == "streamGenerateContent")
    return None
