"""The subaccounts of an environment, for the commands that look at SAP themselves instead of serving."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from msgspec import Struct

from aicore_proxy.backends.served import unserved
from aicore_proxy.landscape import Deployment
from aicore_proxy.sap.ai_api import AiApi
from aicore_proxy.sap.credentials import ServiceKey
from aicore_proxy.sap.discovery import executable_by_rule, usable_url
from aicore_proxy.sap.scope import Scope
from aicore_proxy.sap.survey import Listed, Survey
from aicore_proxy.sap.token import TokenProvider, TokenTimes
from aicore_proxy.tasks import Supervisor
from aicore_proxy.upstream import PooledUpstream, Proxies, Upstream


class Account(Struct, frozen=True):
    """A subaccount and the way to it. ``tls``: what shows its certificate, for a key of X.509."""

    key: ServiceKey
    scope: Scope
    upstream: Upstream
    tokens: TokenProvider
    api: AiApi
    tls: ssl.SSLContext | None = None

    def deployment(self, listed: Listed, survey: Survey) -> Deployment | None:
        """What discovery makes of a listed deployment; None where it names no model or leads nowhere."""
        url = f"{self.key.api_url}/v2/inference/deployments/{listed.id}"
        if listed.url:
            url = usable_url(listed.url.rstrip("/"), self.key.api_url) or ""
        if not listed.model or not url:
            return None
        entry = survey.models.get(listed.model)
        return Deployment(
            id=listed.id,
            subaccount=self.key.name,
            resource_group=listed.resource_group,
            executable=(entry.executable if entry is not None else "") or executable_by_rule(listed.model),
            model=listed.model,
            url=url,
            version=listed.version,
            created_at=listed.created_at,
        )

    @property
    def hosts(self) -> Sequence[tuple[str, str]]:
        """What must be reached: its role and a URL there."""
        token = urlsplit(self.key.token_url)
        return (
            ("Token host", f"{token.scheme}://{token.netloc}/"),
            ("AI API host", f"{self.key.api_url}/v2/lm/meta"),
        )


def unserved_listed(listed: Listed, deployment: Deployment | None) -> str:
    """Why a deployment that runs cannot be served; empty where it can. ``deployment``: what discovery makes of it."""
    if listed.scenario == "orchestration" or listed.model == "orchestration":
        return "orchestration is not supported yet"
    if deployment is None:
        return "its URL is not usable" if listed.model else "it names no model"
    return unserved(deployment) or ""


@asynccontextmanager
async def accounts(
    keys: Sequence[ServiceKey],
    scopes: Mapping[str, Scope],
    *,
    tls: ssl.SSLContext | None,
    proxies: Proxies,
    client_tls: Mapping[str, ssl.SSLContext],
    seconds: float,
) -> AsyncIterator[list[Account]]:
    """An Account for each key, asked for at most ``seconds`` at a time. ``client_tls``: by a key's name, of those of
    X.509 (``sap.token.client_tls``)."""
    supervisor = Supervisor()
    upstream = PooledUpstream(tls=tls, proxies=proxies)
    found = []
    for key in keys:
        times = TokenTimes(timeout=min(TokenTimes().timeout, seconds))
        tokens = TokenProvider(key, upstream, supervisor, times=times, tls=client_tls.get(key.name))
        api = AiApi(key, upstream, tokens, timeout=seconds)
        found.append(Account(key, scopes.get(key.name, Scope()), upstream, tokens, api, client_tls.get(key.name)))
    try:
        yield found
    finally:
        await supervisor.aclose()
        await upstream.close()
