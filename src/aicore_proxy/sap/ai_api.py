"""SAP AI Core's management plane: what is deployed, in which resource groups, and the model catalogue.

Paths, shapes and errors as in SAP AI Core wire facts, sections 2 and 8.2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from aicore_proxy.sap.credentials import ServiceKey
from aicore_proxy.sap.token import TokenError, TokenProvider
from aicore_proxy.upstream import Timeouts, Upstream, UpstreamError, UpstreamRequest, UpstreamResponse

BODY_LIMIT = 32 * 1024 * 1024
PARSE_OFF_LOOP = 64 * 1024  # bytes: a longer body is parsed in a thread
PAGE = 500
PAGES = 1000
DEFAULT_GROUP = "default"


class AiApiError(Exception):
    """The AI API did not answer as it should. ``status``: its own, None where there was no answer; the message holds
    its words."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status

    @property
    def forbidden(self) -> bool:
        """Whether the key may not ask this at all: asking again later changes nothing."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in (408, 425, 429)


class AiApi:
    """One subaccount's AI API. Keeps no state of its own."""

    def __init__(self, key: ServiceKey, upstream: Upstream, tokens: TokenProvider, *, timeout: float = 30.0) -> None:
        self.key = key
        self._upstream = upstream
        self._tokens = tokens
        self._timeout = timeout

    async def resource_groups(self) -> list[str]:
        """All resource groups that the key may see. Raises AiApiError; ``forbidden`` for keys without that right."""
        found = await self._pages("/admin/resourceGroups", {}, None, "resourceGroupId")
        return [group["resourceGroupId"] for group in found if group.get("status") in (None, "", "PROVISIONED")]

    async def deployments(self, resource_group: str, status: str = "RUNNING") -> list[Mapping[str, Any]]:
        """All deployments of a group with a status (empty: with any), as they came. All pages or AiApiError."""
        return await self._pages("/lm/deployments", {"status": status} if status else {}, resource_group, "id")

    async def deployment(self, deployment_id: str, resource_group: str) -> Mapping[str, Any]:
        return await self._get(f"/lm/deployments/{quote(deployment_id, safe='')}", {}, resource_group)

    async def configuration(self, configuration_id: str, resource_group: str) -> Mapping[str, Any]:
        return await self._get(f"/lm/configurations/{quote(configuration_id, safe='')}", {}, resource_group)

    async def models(self, resource_group: str) -> list[Mapping[str, Any]]:
        """The catalogue of models that may be deployed: ``model``, ``executableId``, ``versions``."""
        path = "/lm/scenarios/foundation-models/models"
        return members(await self._get(path, {}, resource_group), "model", self._what(path))

    async def _pages(
        self, path: str, query: Mapping[str, str], resource_group: str | None, identity: str
    ) -> list[Mapping[str, Any]]:
        """All pages of a list. ``count`` is read as the total only where it exceeds what has come: it is documented
        as the number of resources in the answer. A server that ignores ``$skip`` brings nothing new and ends it."""
        found: dict[str, Mapping[str, Any]] = {}
        taken = 0
        for _ in range(PAGES):
            answer = await self._get(path, {**query, "$top": str(PAGE), "$skip": str(taken)}, resource_group)
            page = members(answer, identity, self._what(path))
            news = {item[identity]: item for item in page if item[identity] not in found}
            found |= news
            taken += len(page)
            total = answer.get("count")
            more = len(page) >= PAGE or (isinstance(total, int) and total > taken)
            if not news or not more:
                break
        return list(found.values())

    async def _get(self, path: str, query: Mapping[str, str], resource_group: str | None) -> Mapping[str, Any]:
        what = self._what(path)
        try:
            async with asyncio.timeout(self._timeout):
                status, body = await self._fetch(path, query, resource_group)
                content = await parsed(body)
        except TimeoutError:
            raise AiApiError(f"{what}: no answer within {self._timeout:g} s.") from None
        except UpstreamError as error:
            raise AiApiError(f"{what}: {error.message}") from error
        except TokenError as error:
            raise AiApiError(error.message) from error
        if status != 200:
            raise AiApiError(f"{what}: status {status}: {words_of(content, body)}", status)
        if len(body) >= BODY_LIMIT or not isinstance(content, dict):
            raise AiApiError(f"{what}: the answer is not a JSON object of at most {BODY_LIMIT} bytes.", status)
        return content

    def _what(self, path: str) -> str:
        return f"{self.key.name}: GET /v2{path}"

    async def _fetch(self, path: str, query: Mapping[str, str], resource_group: str | None) -> tuple[int, bytes]:
        token = await self._tokens.token()
        answer = await self._send(path, query, resource_group, token)
        if answer.status == 401 and self._tokens.refused(token):
            await answer.close()
            answer = await self._send(path, query, resource_group, await self._tokens.token())
        return answer.status, await answer.read(BODY_LIMIT)

    async def _send(
        self, path: str, query: Mapping[str, str], resource_group: str | None, token: str
    ) -> UpstreamResponse:
        headers = [("Authorization", f"Bearer {token}"), ("Accept", "application/json")]
        if resource_group is not None:
            headers.append(("AI-Resource-Group", resource_group))
        url = f"{self.key.api_url}/v2{path}" + (f"?{urlencode(query, safe='$')}" if query else "")
        limits = Timeouts(first_byte=self._timeout, between_bytes=self._timeout)
        return await self._upstream.send(UpstreamRequest("GET", url, tuple(headers), None, limits))


def members(answer: Mapping[str, Any], identity: str, what: str) -> list[Mapping[str, Any]]:
    """The list ``resources`` of an answer, each with its identity. Raises AiApiError for anything else."""
    resources = answer.get("resources")
    if not isinstance(resources, list):
        raise AiApiError(f"{what}: the answer has no list of resources.", 200)
    for item in resources:
        if not isinstance(item, dict) or not isinstance(item.get(identity), str) or not item[identity]:
            raise AiApiError(f"{what}: a resource without {identity} is listed.", 200)
    return resources


async def parsed(body: bytes) -> Any:
    """The JSON value of ``body``, None where it is none."""
    if len(body) > PARSE_OFF_LOOP:
        return await asyncio.to_thread(decode, body)
    return decode(body)


def decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def words_of(content: Any, body: bytes) -> str:
    """What an error says, in any of its shapes: ``error`` an object, a string beside ``message``, an array; ``errors``;
    no JSON at all. One line of at most 300 characters."""
    said = find_words(content) if content is not None else body[:2000].decode("utf-8", "replace")
    line = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    if line.startswith("<"):
        line = "an HTML page"
    return line[:300] or "no words"


def find_words(content: Any) -> str:
    match content:
        case str():
            return content
        case {"error": dict() | list() as inner}:
            return find_words(inner)
        case {"error": str(label), "message": str(message)}:
            return f"{label}: {message}"
        case {"message": str(message)}:
            return message
        case {"errors": inner} | {"error": str() as inner} | {"detail": str() as inner}:
            return find_words(inner)
        case [first, *_]:
            return find_words(first)
    return ""


def fallback_groups(key: ServiceKey, known: Sequence[str]) -> list[str]:
    """The resource groups where a key may not list them: those known before, else its own, else ``default``."""
    return list(known) or [key.resource_group or DEFAULT_GROUP]
