"""Calls of SAP's own SDK, run in its own environment by test_sap_sdk.py. Prints what came back as one JSON object."""

from __future__ import annotations

import json
from typing import Any


def openai_client() -> dict[str, Any]:
    from gen_ai_hub.proxy.native.openai import chat, embeddings

    messages: Any = [{"role": "user", "content": "Say hello"}]
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    whole = chat.completions.create(model_name="gpt-4o", messages=messages)
    pieces = chat.completions.create(model_name="gpt-4o", messages=messages, stream=True)
    called = chat.completions.create(model_name="gpt-4o", messages=messages, tools=tools, tool_choice="required")
    embedded = embeddings.create(model_name="text-embedding-3-small", input=["a", "b"])
    return {
        "chat": whole.choices[0].message.content,
        "chat stream": "".join(p.choices[0].delta.content or "" for p in pieces if p.choices),
        "tool": called.choices[0].message.tool_calls[0].function.name,
        "embeddings": len(embedded.data),
    }


def amazon_client() -> dict[str, Any]:
    from gen_ai_hub.proxy.native.amazon.clients import Session

    client = Session().client(model_name="anthropic--claude-4.5-sonnet")
    turn = [{"role": "user", "content": "Say hello"}]
    body = json.dumps({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 200, "messages": turn})
    whole = json.loads(client.invoke_model(body=body)["body"].read())
    events = [json.loads(e["chunk"]["bytes"]) for e in client.invoke_model_with_response_stream(body=body)["body"]]
    said: list[Any] = [{"role": "user", "content": [{"text": "Say hello"}]}]
    conversed = client.converse(messages=said)
    pieces = list(client.converse_stream(messages=said)["stream"])
    return {
        "invoke": whole["content"][0]["text"],
        "invoke stream": "".join(e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta"),
        "converse": conversed["output"]["message"]["content"][0]["text"],
        "converse stream": "".join(
            p["contentBlockDelta"]["delta"].get("text", "") for p in pieces if "contentBlockDelta" in p
        ),
    }


def google_client() -> dict[str, Any]:
    from gen_ai_hub.proxy.core.proxy_clients import get_proxy_client
    from gen_ai_hub.proxy.native.google_genai.clients import Client

    client = Client(proxy_client=get_proxy_client("gen-ai-hub"))
    whole = client.models.generate_content(model="gemini-2.5-flash", contents="Say hello")
    pieces = client.models.generate_content_stream(model="gemini-2.5-flash", contents="Say hello")
    return {"generate": whole.text, "generate stream": "".join(p.text or "" for p in pieces)}


print(json.dumps({"openai": openai_client(), "amazon": amazon_client(), "google": google_client()}))
