"""Which deployments this proxy can serve yet, and why not the others."""

from __future__ import annotations

from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.profiles import profile_of

EXECUTABLES = ("azure-openai", "aws-bedrock", "gcp-vertexai")


def unserved(deployment: Deployment) -> str | None:
    """Why a deployment cannot be asked, in words for the log; None if it can be."""
    model = deployment.model
    if deployment.executable not in EXECUTABLES:
        return f"the executable '{deployment.executable or 'unknown'}' is not supported yet"
    if profile_of(model).responses_only:
        return "SAP serves it only through the Responses API, which is not supported yet"
    if deployment.executable == "aws-bedrock" and profile_of(model).family != "claude":
        return "of the Bedrock models only Claude is supported yet"
    if "embed" in model and deployment.executable != "azure-openai":
        return "of the embedding models only OpenAI's are supported yet"
    if "realtime" in model or "dall-e" in model:
        return "it is no text model"
    return None


def is_embedding(model: str) -> bool:
    """Whether a model makes embeddings instead of answers, by SAP's naming."""
    return "embed" in model
