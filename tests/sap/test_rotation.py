"""Service keys that are rotated and subaccounts that are reconfigured while they serve."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest
from tests.sap.peer import Core, answer, in_turn, late
from tests.sap.test_discovery import GROUPS, LIST, QUICK, deployment, groups, listed, per_group

from aicore_proxy.landscape import Catalog, Naming
from aicore_proxy.sap.ai_api import AiApi
from aicore_proxy.sap.credentials import Secret, ServiceKey
from aicore_proxy.sap.discovery import Discovery
from aicore_proxy.sap.scope import Scope
from aicore_proxy.sap.token import TokenError, TokenProvider
from aicore_proxy.tasks import Supervisor
from aicore_proxy.upstream import PooledUpstream

pytestmark = pytest.mark.timed

REFUSED = answer({"error": "invalid_client", "error_description": "Bad credentials"}, "401 Unauthorized")
NEW = "n3w"


def rotated(key: ServiceKey, **more: str) -> ServiceKey:
    return msgspec.structs.replace(key, client_secret=Secret(NEW), **more)


def by_secret(sap: Core) -> None:
    """The token service knows the new secret only."""
    sap.routes["/oauth/token"] = lambda r: sap.new_token(r) if f"client_secret={NEW}" in r.body else REFUSED


async def settled(sap: Core, requests: int) -> None:
    async with asyncio.timeout(5):
        while len(sap.requests) < requests:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert len(sap.requests) == requests


@pytest.mark.parametrize("client", ["sb-1", "sb-2"])
async def test_the_held_token_serves_while_the_next_is_asked_for_with_the_new_key(
    sap: Core, upstream: PooledUpstream, supervisor: Supervisor, client: str
) -> None:
    provider = TokenProvider(sap.key(), upstream, supervisor)
    provider.start()
    assert await provider.token() == "token-1"
    sap.routes["/oauth/token"] = late(0.2, sap.new_token)
    provider.rotate(rotated(sap.key(), client_id=client), None)
    assert await provider.token() == "token-1"
    await settled(sap, 2)
    assert f"client_id={client}&client_secret={NEW}" in sap.requests[-1].body
    await asyncio.sleep(0.2)
    assert await provider.token() == "token-2"


async def test_a_wrong_new_secret_is_told_at_once_and_the_held_token_serves_on(
    sap: Core, upstream: PooledUpstream, supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    provider = TokenProvider(sap.key(), upstream, supervisor)
    provider.start()
    await provider.token()
    sap.routes["/oauth/token"] = in_turn(REFUSED)
    with caplog.at_level(logging.WARNING):
        provider.rotate(rotated(sap.key()), None)
        await settled(sap, 2)
    (record,) = caplog.records
    assert record.message.startswith("one: the token service refuses the credentials: status 401: invalid_client")
    assert record.message.endswith("(the held token still serves)")
    assert await provider.token() == "token-1"
    sap.routes["/oauth/token"] = sap.new_token
    provider.rotate(sap.key(), None)
    await settled(sap, 3)
    assert await provider.token() == "token-2", "a corrected one does not wait for the pause after a refusal"


async def test_a_rotation_mends_a_refused_key_at_once_also_while_a_request_is_under_way(
    sap: Core, upstream: PooledUpstream, supervisor: Supervisor
) -> None:
    by_secret(sap)
    served = sap.routes["/oauth/token"]
    sap.routes["/oauth/token"] = late(0.3, served)
    provider = TokenProvider(sap.key(), upstream, supervisor)
    provider.start()
    await asyncio.sleep(0.1)
    provider.rotate(rotated(sap.key()), None)
    with pytest.raises(TokenError):  # it waited for the one with the old secret
        await provider.token()
    async with asyncio.timeout(5):
        while provider.grant is None:
            await asyncio.sleep(0.01)
    assert await provider.token() == "token-1"
    assert len(sap.requests) == 2


async def test_a_removed_subaccount_asks_for_no_token_unless_a_request_needs_it(
    sap: Core, upstream: PooledUpstream, supervisor: Supervisor
) -> None:
    provider = TokenProvider(sap.key(), upstream, supervisor)
    provider.start()
    await provider.token()
    provider.stop()
    await asyncio.sleep(0.05)
    assert len(supervisor) == 0
    provider.refused("token-1")
    await asyncio.sleep(0.2)
    assert len(sap.requests) == 1
    assert await provider.token() == "token-2"


def test_a_rotated_key_opens_the_same_subaccount(sap_key: ServiceKey) -> None:
    other = msgspec.structs.replace(sap_key, client_id="sb-2", client_secret=Secret(NEW))
    zones = (msgspec.structs.replace(key, identity_zone_id="zone") for key in (sap_key, other))
    assert sap_key.same_subaccount(rotated(sap_key))
    assert not sap_key.same_subaccount(other), "nothing says so"
    assert next(zones).same_subaccount(next(zones))
    assert not sap_key.same_subaccount(msgspec.structs.replace(sap_key, api_url="https://elsewhere.example.com"))


@pytest.fixture
def sap_key() -> ServiceKey:
    return ServiceKey("one", "sb-1", Secret("old"), "https://auth.example.com/oauth/token", "https://api.example.com")


class Several:
    """Discovery of subaccounts that come and go."""

    def __init__(self, sap: Core, upstream: PooledUpstream, supervisor: Supervisor) -> None:
        self.catalogs: list[Catalog] = []
        self._upstream, self._supervisor = upstream, supervisor
        self._key = sap.key()
        self.discovery = Discovery([self.api("one")], supervisor, self.catalogs.append, times=QUICK)
        self.discovery.start()

    def api(self, name: str, **key: str) -> AiApi:
        own = msgspec.structs.replace(self._key, name=name, **{"client_id": f"sb-{name}", **key})
        return AiApi(own, self._upstream, TokenProvider(own, self._upstream, self._supervisor), timeout=2.0)

    def reconfigure(self, *apis: AiApi, naming: Naming = Naming(), **scopes: Scope) -> None:  # noqa: B008 - frozen
        self.discovery.reconfigure(apis, scopes, naming, QUICK)

    @property
    def served(self) -> set[str]:
        return {str(d) for d in self.catalogs[-1].deployments()}


async def test_subaccounts_come_and_go_and_what_stays_is_not_read_again(
    sap: Core, upstream: PooledUpstream, supervisor: Supervisor
) -> None:
    sap.routes[GROUPS] = in_turn(groups("default"))
    sap.routes[LIST] = in_turn(listed(deployment(1)))
    several = Several(sap, upstream, supervisor)
    await several.discovery.refresh_now(5.0)
    several.reconfigure(several.api("one"), several.api("two"))
    assert several.served == {"one/d000000000000001"}, "at once"
    await several.discovery.refresh_now(5.0)
    assert [state.deployments for state in several.discovery.states()] == [1, 1]
    assert several.served == {"one/d000000000000001"}, "the same deployment: it is served once"
    several.reconfigure(several.api("two"))
    assert several.served == {"two/d000000000000001"}
    assert [state.alias for state in several.discovery.states()] == ["two"]
    before = len(sap.requests)
    several.reconfigure(several.api("two"), naming=Naming({"fast": "gpt-5"}))
    assert several.catalogs[-1].resolve("fast") == "gpt-5"
    await asyncio.sleep(0.3)
    assert len(sap.requests) == before
    several.reconfigure(several.api("two", api_url=f"{sap.key().api_url}/elsewhere"))
    assert several.served == set(), "another subaccount of the same name does not inherit its deployments"


async def test_other_resource_groups_are_read_at_once_and_what_is_left_serves_meanwhile(
    sap: Core, upstream: PooledUpstream, supervisor: Supervisor
) -> None:
    sap.routes[GROUPS] = in_turn(groups("default", "team"))
    sap.routes[LIST] = per_group(default=listed(deployment(1)), team=listed(deployment(2)), new=listed(deployment(3)))
    several = Several(sap, upstream, supervisor)
    await several.discovery.refresh_now(5.0)
    several.reconfigure(several.api("one"), one=Scope(("team", "new")))
    assert several.served == {"one/d000000000000002"}
    async with asyncio.timeout(5):
        while several.served != {"one/d000000000000002", "one/d000000000000003"}:
            await asyncio.sleep(0.01)
    several.reconfigure(several.api("one"), one=Scope(("team", "new"), exclude=("gpt-*",)))
    assert several.served == set()
    several.reconfigure(several.api("one"))
    async with asyncio.timeout(5):
        while several.served != {"one/d000000000000001", "one/d000000000000002"}:
            await asyncio.sleep(0.01)
