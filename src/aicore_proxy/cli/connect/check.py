"""One real request, as the tool would send it: whether its settings work."""

from __future__ import annotations

import time

from msgspec import Struct

from aicore_proxy.cli.chat_protocols import PROTOCOLS, Turn
from aicore_proxy.cli.connection import Connection, ProxyError, asked

PROMPT = "Answer with the one word: ready"
BOUND = 2048
"""Tokens: models think before they answer, also when the answer is one word."""
TIMEOUT = 120.0


class Tested(Struct, frozen=True):
    """``works``, and a sentence that says how or why not."""

    works: bool
    words: str


def tested(connection: Connection, protocol: str, model: str, query: str) -> Tested:
    """Asks ``model`` once, streamed."""
    spoken = PROTOCOLS[protocol]
    path = spoken.path + query
    body = spoken.body(model, [Turn("user", PROMPT)], "", BOUND)
    started = time.monotonic()
    try:
        with asked(connection, path, spoken.headers(connection.key.value), body, TIMEOUT) as answer:
            text = "".join(piece.text for piece in spoken.pieces(answer))
            place = answer.headers.get("x-aicore-proxy-subaccount")
    except ProxyError as error:
        return Tested(works=False, words=f"POST {path} with {model}: {error}")
    took = f"{time.monotonic() - started:.2f} s"
    shown = " ".join(text.split())[:60]
    where = f" from {place}" if place else ""
    return Tested(works=True, words=f"POST {path} with {model}: an answer{where} after {took}: {shown}")
