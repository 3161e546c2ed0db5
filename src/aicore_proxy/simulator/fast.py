"""The fast mode's short cut: a ready answer for a plain request, made once per deployment, path and kind."""

from __future__ import annotations

import re

from aicore_proxy.simulator import answers
from aicore_proxy.simulator.inference import Inference
from aicore_proxy.simulator.operation import parsed
from aicore_proxy.simulator.scripts import Script, ScriptBook
from aicore_proxy.simulator.server import Reply, Request
from aicore_proxy.simulator.tokens import Refused, Tokens

_STREAMED = re.compile(rb'"stream"\s*:\s*true')
_USAGE = re.compile(rb'"include_usage"\s*:\s*true')


class FastPath:
    """Answers what needs no thought: a known deployment, a good token, no script. The first request of its kind is
    checked in full; later ones get the same bytes. Owned by the Simulator."""

    def __init__(self, inference: Inference, tokens: Tokens, book: ScriptBook) -> None:
        self._inference = inference
        self._tokens = tokens
        self._book = book
        self._ready: dict[tuple[str, str, bool, bool, str], tuple[str, bytes]] = {}

    async def answer(self, request: Request, reply: Reply) -> bool:
        """Whether the request has been answered."""
        body = request.body
        if len(self._book) or b"simulate:" in body:
            return False
        streamed, usage = _STREAMED.search(body) is not None, _USAGE.search(body) is not None
        key = (
            request.target,
            request.headers.get("ai-resource-group", ""),
            streamed,
            usage,
            request.headers.get("accept", ""),
        )
        ready = self._ready.get(key)
        deployment, _, rest = self._inference.deployment(request.path)
        if deployment is None or deployment.status != "RUNNING":
            return False
        if ready is None:
            operation = self._inference.admitted(request, deployment, rest, parsed(body))
            answer = answers.make(operation.prompt, Script(), reveals_reasoning=operation.reveals_reasoning())
            if operation.prompt.stream:
                whole = b"".join(frame for _, frame in operation.frames(answer))
                ready = operation.stream_type, whole
            else:
                ready = "application/json", operation.whole(answer)
            self._ready[key] = ready
        else:
            try:
                self._tokens.check(request.headers.get("authorization"))
            except Refused:
                return False
        deployment.received += 1
        deployment.pushed += len(ready[1])
        await reply.send(200, {"content-type": ready[0]}, ready[1])
        return True
