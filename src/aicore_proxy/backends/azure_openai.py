"""Executable ``azure-openai``: OpenAI's models. Source: SAP AI Core wire facts, section 3.

What OpenAI's own API takes goes up as the client wrote it; ``model`` too, which SAP ignores. Changed is only what the
model's family refuses (``Profile``), and what OpenAI's API does not know but users of other vendors' models write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from aicore_proxy.backends import Ask, Prepared
from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.dialects.openai_chat import NAME
from aicore_proxy.protocol.dialects.openai_chat.asking import decode_reasoning, encode_effort, refused
from aicore_proxy.protocol.dialects.openai_chat.relay import mended_messages, mended_tools, suspicious
from aicore_proxy.protocol.dialects.openai_chat.tools import one_call_only
from aicore_proxy.protocol.envelope import Envelope, decoded
from aicore_proxy.protocol.fault import Fault
from aicore_proxy.protocol.neutral import Encoded, Json, Loss
from aicore_proxy.protocol.profiles import Profile, profile_of

API_VERSION = "2025-04-01-preview"
"""The newest one seen in use with SAP AI Core (wire facts 3.1): it knows ``max_completion_tokens``,
``reasoning_effort``, files and predictions. SAP hands it on to Azure."""

CHAT = f"/chat/completions?api-version={API_VERSION}"
EMBEDDINGS = f"/embeddings?api-version={API_VERSION}"

SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias",
            "stop", "seed", "n")  # fmt: skip

UNKNOWN = (
    "top_k", "top_a", "min_p", "typical_p", "repetition_penalty", "length_penalty", "min_tokens", "ignore_eos",
    "stop_token_ids", "best_of", "use_beam_search", "skip_special_tokens", "guided_json", "guided_regex",
    "guided_choice", "guided_grammar", "chat_template_kwargs", "enable_thinking", "thinking_budget",
    "include_reasoning", "reasoning_format", "cache_control", "system", "anthropic_version", "anthropic_beta",
    "context_management", "safety_settings", "generation_config", "extra_body", "extra_headers", "drop_params",
    "provider", "models", "route", "transforms", "plugins", "usage", "session_id", "web_search_options",
    "num_ctx", "keep_alive", "safe_prompt", "random_seed",
)  # fmt: skip
"""Members of other vendors and of routers, to which OpenAI answers "Unrecognized request argument". Web search it
runs only for models that SAP does not have."""


class AzureOpenAI:
    """How to ask an Azure OpenAI deployment."""

    @property
    def dialect(self) -> str:
        return NAME

    def read_ahead(self, envelope: Envelope) -> Iterator[None]:
        """See Backend: nothing of it takes long."""
        return iter(())

    def relayed(self, envelope: Envelope, deployment: Deployment, ask: Ask) -> Prepared:
        """The client's own bytes; what the model would refuse is dropped, each with a Loss, or renamed."""
        edit = Edit(envelope, profile_of(deployment.model))
        edit.bound()
        edit.sampling()
        edit.reasoning()
        edit.messages()
        edit.tools()
        if not edit.drop and not edit.put:
            return Prepared(CHAT, envelope.spliced(), accepting(ask))
        return Prepared(CHAT, envelope.spliced(edit.drop, edit.put), accepting(ask), tuple(edit.losses))

    def translated(self, encoded: Encoded, deployment: Deployment, ask: Ask) -> Prepared:
        """What the dialect's encoder wrote, which already knows the model's Profile."""
        return Prepared(CHAT, msgspec.json.encode(encoded.body), accepting(ask), encoded.losses)

    def embeddings(self, envelope: Envelope) -> Prepared:
        """An embeddings request (``dialects.embeddings`` has checked it) as it is."""
        return Prepared(EMBEDDINGS, envelope.spliced(), accepting(Ask()))


def accepting(ask: Ask) -> tuple[tuple[str, str], ...]:
    return (("Accept", "text/event-stream" if ask.stream else "application/json"),)


class Edit:
    """What is changed of one body. Owned by one preparation."""

    def __init__(self, envelope: Envelope, profile: Profile) -> None:
        self._envelope = envelope
        self._members: Mapping[str, msgspec.Raw] = envelope.members
        self._profile = profile
        self.drop: set[str] = set()
        self.put: dict[str, bytes] = {}
        self.losses: list[Loss] = []

    def _lose(self, name: str, reason: str) -> None:
        self.drop.add(name)
        if bytes(self._members[name]) != b"null":
            self.losses.append(Loss(name, NAME, reason=reason))

    def bound(self) -> None:
        """``max_tokens`` under the name that reasoning models take; both together are a 400 everywhere."""
        if "max_tokens" not in self._members:
            return
        newer = self._members.get("max_completion_tokens")
        if newer is not None and bytes(newer) != b"null":
            self.drop.add("max_tokens")
        elif self._profile.completion_tokens:
            self.drop.add("max_tokens")
            if bytes(self._members["max_tokens"]) != b"null":
                self.put["max_completion_tokens"] = bytes(self._members["max_tokens"])

    def sampling(self) -> None:
        """What the family refuses, and what OpenAI does not know at all."""
        for name in SAMPLING:
            if name in self._members and refused(name, decoded(self._members[name], name), self._profile):
                self._lose(name, "the model does not take it")
        for name in UNKNOWN:
            if name in self._members:
                self._lose(name, "OpenAI's API does not have it")
        if "verbosity" in self._members and self._profile.thinking != "effort":
            self._lose("verbosity", "the model does not take it")
        if "parallel_tool_calls" in self._members and one_call_only(self._profile):
            self._lose("parallel_tool_calls", "the model does not take it")

    def reasoning(self) -> None:
        """``reasoning_effort``, OpenRouter's ``reasoning`` and Anthropic's ``thinking`` as the model takes them."""
        names = [name for name in ("reasoning_effort", "reasoning", "thinking") if name in self._members]
        if not names:
            return
        told: dict[str, Json] = {name: decoded(self._members[name], name) for name in names}
        more: dict[str, Json] = {}
        try:
            ask = decode_reasoning(told, more)
        except Fault:
            return  # of the wrong type: the upstream says so in its own words
        effort = encode_effort(ask, self._profile, self._has_tools(), self.losses)
        self.losses += [Loss(f"{name}.{key}", NAME) for name, held in more.items() for key in held]
        self.drop |= {"reasoning", "thinking"} & set(names)
        if effort is None:
            self.drop |= {"reasoning_effort"} & set(names)
        elif effort != told.get("reasoning_effort"):
            self.put["reasoning_effort"] = msgspec.json.encode(effort)

    def _has_tools(self) -> bool:
        return any(name in self._members and b"{" in bytes(self._members[name])[:64] for name in ("tools", "functions"))

    def messages(self) -> None:
        raw = self._members.get("messages")
        if raw is not None and suspicious(raw):
            self._mend("messages", mended_messages)

    def tools(self) -> None:
        if self._envelope.holds("tools", b'"cache_control"'):
            self._mend("tools", mended_tools)

    def _mend(self, name: str, mended: Any) -> None:
        lost: set[str] = set()
        value = decoded(self._members[name], name)
        new = mended(value, lost)
        if new is not value:
            self.put[name] = msgspec.json.encode(new)
            self.losses += [Loss(field, NAME, reason="OpenAI's API does not have it") for field in sorted(lost)]
