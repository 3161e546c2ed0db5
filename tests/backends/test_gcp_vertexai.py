"""Gemini deployments: paths, and what of a client's bytes goes up."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from aicore_proxy.backends import Ask, Backend
from aicore_proxy.backends.gcp_vertexai import GcpVertexAI
from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.dialects.gemini.parts import BYPASS
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.neutral import Encoded, Loss, Seal
from aicore_proxy.protocol.seal import wrap

CAPTURES = Path(__file__).parent.parent / "captures"
BACKEND: Backend = GcpVertexAI()
WRAPPED = wrap(Seal("claude", "sig+/="))
URL_SAFE = WRAPPED.replace("+", "-").replace("/", "_")


def deployment(model: str = "gemini-2.5-flash") -> Deployment:
    return Deployment("d1", "demo", "default", "gcp-vertexai", model, "https://x/v2/inference/deployments/d1")


def relayed(body: Any, model: str = "gemini-2.5-flash") -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return BACKEND.relayed(Envelope.parse(text), deployment(model), Ask()).body


def contents_of(*parts: Any, role: str = "model") -> dict[str, Any]:
    return {"contents": [{"role": role, "parts": list(parts)}]}


@pytest.mark.parametrize(
    ("model", "stream", "path"),
    [
        ("gemini-2.5-flash", False, "/models/gemini-2.5-flash:generateContent"),
        ("gemini-3.1-pro-preview", True, "/models/gemini-3.1-pro-preview:streamGenerateContent?alt=sse"),
        ("odd/name?", False, "/models/odd%2Fname%3F:generateContent"),
    ],
)
def test_paths(model: str, stream: bool, path: str) -> None:
    envelope = Envelope.parse(b'{"contents":[]}')
    losses = (Loss("user", "gemini"),)
    assert BACKEND.relayed(envelope, deployment(model), Ask(stream)).path == path
    translated = BACKEND.translated(Encoded({"contents": [{"n": 1}]}, losses), deployment(model), Ask(stream))
    assert (translated.path, translated.body, translated.losses) == (path, b'{"contents":[{"n":1}]}', losses)
    assert BACKEND.dialect == "gemini"


def test_a_clients_bytes_go_up_as_they_are() -> None:
    body = (
        b'{ "contents" : [{"role":"user","parts":[{"text":"\\u00fc \xc3\xbc  id"}]}],'
        b'"generationConfig":{"temperature":1.0e0},"model":"gemini","stream":true,"x-unknown":[1,  2]}'
    )
    assert relayed(body) == (
        b'{"contents":[{"role":"user","parts":[{"text":"\\u00fc \xc3\xbc  id"}]}],'
        b'"generationConfig":{"temperature":1.0e0},"x-unknown":[1,  2]}'
    )


def captures() -> list[Path]:
    return sorted(p for p in CAPTURES.glob("*/*.json") if "enerateContent" in json.loads(p.read_bytes())["path"])


@pytest.mark.parametrize("path", captures(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_of_what_real_clients_send_only_ids_are_cut(path: Path) -> None:
    body = json.loads(path.read_bytes())["body"]
    expected = copy.deepcopy(body)
    for content in expected["contents"]:
        for part in content["parts"]:
            for name in ("functionCall", "functionResponse", "function_call", "function_response"):
                part.get(name, {}).pop("id", None)
    assert json.loads(relayed(body)) == expected


@pytest.mark.parametrize("name", ["functionResponse", "function_response", "functionCall", "function_call"])
@pytest.mark.parametrize("listed", [True, False])
def test_ids_are_cut_in_every_spelling(name: str, listed: bool) -> None:
    part = {name: {"id": "x", "name": "f", "args": {"id": 1}}}
    content = {"role": "user", "parts": [part] if listed else part}
    body = {"contents": [content] if listed else content, "tools": [{"functionDeclarations": [{"name": "id"}]}]}
    sent = json.loads(relayed(body))
    content = sent["contents"][0]
    assert content == {"role": "user", "parts": [{name: {"name": "f", "args": {"id": 1}}}]}
    assert sent["tools"] == body["tools"]


@pytest.mark.parametrize("seal", [WRAPPED, URL_SAFE])
@pytest.mark.parametrize("key", ["thoughtSignature", "thought_signature"])
def test_seals_of_other_models_never_go_up(seal: str, key: str) -> None:
    body = contents_of(
        {"text": "hm", "thought": True, key: seal},
        {"text": "", key: seal},
        {"text": "hello", key: seal},
        {"functionCall": {"name": "f"}, key: seal},
        {"functionCall": {"name": "g"}, "thoughtSignature": "c2ln"},
        {"text": "own", "thought": True},
    )
    assert json.loads(relayed(body))["contents"][0]["parts"] == [
        {"text": "hello"},
        {"functionCall": {"name": "f"}},
        {"functionCall": {"name": "g"}, "thoughtSignature": "c2ln"},
        {"text": "own", "thought": True},
    ]
    signed = json.loads(relayed(body, "gemini-3.5-flash"))["contents"][0]["parts"]
    assert signed[1] == {"functionCall": {"name": "f"}, "thoughtSignature": BYPASS}
    assert b"YWljcDEu" not in relayed(body)


def test_a_content_of_which_nothing_is_left_is_left_out() -> None:
    body = {"contents": [
        {"role": "user", "parts": [{"text": "a"}]},
        {"role": "model", "parts": [{"text": "hm", "thought": True, "thoughtSignature": WRAPPED}]},
    ]}  # fmt: skip
    assert json.loads(relayed(body)) == {"contents": body["contents"][:1]}


def test_gemini_3_gets_the_first_call_of_a_step_signed() -> None:
    call = {"functionCall": {"name": "f", "args": {}}}
    signed = call | {"thought_signature": "c2ln"}
    body = {"contents": [{"role": "model", "parts": [{"text": "a"}, call, call]},
                         {"role": "model", "parts": [signed, call]}]}  # fmt: skip
    assert json.loads(relayed(body)) == body
    first, second = json.loads(relayed(body, "gemini-3-pro"))["contents"]
    assert first["parts"] == [{"text": "a"}, call | {"thoughtSignature": BYPASS}, call]
    assert second == body["contents"][1]
    untouched = json.dumps({"contents": [body["contents"][1]]}, indent=1).encode()
    assert Envelope.parse(relayed(untouched, "gemini-3-pro")).members == Envelope.parse(untouched).members


@pytest.mark.parametrize(
    "contents",
    ["id functionCall", [{"parts": "functionCall id"}], [None, {"functionCall": {"id": 1}}], [{"parts": [None, 3]}], 7],
)
def test_what_is_malformed_is_left_for_the_upstream_to_name(contents: Any) -> None:
    body = {"contents": contents, "x": '"functionCall" "id"'}
    for model in ("gemini-2.5-pro", "gemini-3-pro"):
        assert json.loads(relayed(body, model)) == body
    assert json.loads(relayed({"x": 1})) == {"x": 1}
