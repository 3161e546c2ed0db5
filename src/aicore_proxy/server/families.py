"""The protocols that clients speak, and how each of SAP's executables is spoken to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aicore_proxy.backends import Backend, Prepared
from aicore_proxy.backends.aws_bedrock import AwsBedrock
from aicore_proxy.backends.azure_openai import AzureOpenAI
from aicore_proxy.backends.gcp_vertexai import GcpVertexAI
from aicore_proxy.protocol.dialects import Dialect, anthropic_messages, gemini, openai_chat
from aicore_proxy.protocol.envelope import Envelope

_AZURE = AzureOpenAI()

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect for dialect in (openai_chat.DIALECT, anthropic_messages.DIALECT, gemini.DIALECT)
}
BACKENDS: Mapping[str, Backend] = {
    "azure-openai": _AZURE,
    "aws-bedrock": AwsBedrock(),
    "gcp-vertexai": GcpVertexAI(),
}
EMBEDDERS: Mapping[str, Callable[[Envelope], Prepared]] = {"azure-openai": _AZURE.embeddings}
"""Executables whose models can make embeddings."""
