"""What a survey tells doctor and models, and what discovery says of names, against the simulator and over faults."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.sap.peer import Core, answer, in_turn
from tests.sap.test_discovery import GROUPS, LIST, MODELS, QUICK, Watch, api, deployment, groups, listed

from aicore_proxy.landscape import Naming
from aicore_proxy.sap.ai_api import AiApi
from aicore_proxy.sap.credentials import Secret, ServiceKey, service_key
from aicore_proxy.sap.discovery import Discovery
from aicore_proxy.sap.scope import Scope
from aicore_proxy.sap.survey import CatalogueEntry, Survey, Version, entry_of, survey
from aicore_proxy.sap.token import TokenProvider
from aicore_proxy.simulator import Running, running
from aicore_proxy.simulator.landscape import DeploymentSpec, Landscape, SubaccountSpec
from aicore_proxy.tasks import Supervisor
from aicore_proxy.upstream import PooledUpstream

pytestmark = pytest.mark.timed

SPEC = SubaccountSpec(
    "eu",
    ("gpt-5", "anthropic--claude-4-sonnet"),
    (
        DeploymentSpec("gpt-5-mini", id="d-dead", status="DEAD"),
        DeploymentSpec("gpt-4.1", id="d-stopped", status="STOPPED", resource_group="team"),
        DeploymentSpec("orchestration", id="d-orchestration"),
        DeploymentSpec("gpt-4o", id="d-4o", resource_group="team", version="2024-05-13"),
    ),
)


@pytest.fixture
async def simulator() -> AsyncIterator[Running]:
    async with running(Landscape((SPEC,))) as simulated:
        yield simulated


@pytest.fixture
def key(simulator: Running) -> ServiceKey:
    return service_key(simulator.service_keys()["eu"], "eu", "the simulator")


@pytest.fixture
def look(key: ServiceKey, upstream: PooledUpstream, supervisor: Supervisor) -> Any:
    async def make(scope: Scope | None = None, changed: ServiceKey = key) -> Survey:
        tokens = TokenProvider(changed, upstream, supervisor)
        return await survey(AiApi(changed, upstream, tokens, timeout=3.0), tokens, scope or Scope())

    return make


async def test_everything_that_a_key_lets_one_see(look: Any) -> None:
    seen = await look()
    assert (seen.alias, seen.token_problem, seen.groups_problem, seen.models_problem) == ("eu", "", "", "")
    assert (seen.grant.life, seen.grant.scopes) == (43199.0, ("uaa.resource",))
    assert 43000 < seen.grant.left < 43199
    assert [group.name for group in seen.groups] == ["default", "team"]
    found = {d.id: (d.status, d.model, d.scenario, d.resource_group) for d in seen.deployments}
    assert found["d-dead"] == ("DEAD", "gpt-5-mini", "foundation-models", "default")
    assert found["d-stopped"] == ("STOPPED", "gpt-4.1", "foundation-models", "team")
    assert found["d-orchestration"] == ("RUNNING", "", "orchestration", "default")
    assert len(found) == 6
    old = seen.models["anthropic--claude-4-sonnet"].version("latest")
    assert (old.deprecated, old.retires, old.replacements) == (True, "2027-02-28", ("anthropic--claude-4.6-sonnet",))
    assert seen.models["gpt-5"].version("latest").retires == ""
    assert seen.models["gpt-5"].executable == "azure-openai"
    assert "foundation-models" in seen.models["gpt-5"].scenarios


async def test_a_refused_key_is_told_from_a_service_that_is_away(look: Any, key: ServiceKey) -> None:
    wrong = await look(changed=msgspec.structs.replace(key, client_secret=Secret("wrong")))
    assert wrong.token_refused
    assert "Bad credentials" in wrong.token_problem
    away = await look(changed=msgspec.structs.replace(key, token_url="http://127.0.0.1:1/oauth/token"))
    assert not away.token_refused
    assert "No connection to 127.0.0.1:1" in away.token_problem
    assert (away.groups, away.grant) == ((), None)


async def test_groups_that_may_not_be_listed_or_read(look: Any, simulator: Running) -> None:
    simulator.switch(admin_resource_groups="refused")
    seen = await look()
    assert seen.groups_forbidden
    assert "Forbidden" in seen.groups_problem
    assert [group.name for group in seen.groups] == ["default"], "what SAP's SDKs would use"
    seen = await look(Scope(resource_groups=("team", "nowhere")))
    team, nowhere = seen.groups
    assert (len(team.deployments), team.problem, seen.groups_forbidden) == (2, "", False)
    assert nowhere.status == 403
    assert nowhere.problem
    assert seen.models, "read with a group that is open"


async def test_why_a_deployment_does_not_run(sap: Core, upstream: PooledUpstream, supervisor: Supervisor) -> None:
    sap.routes[GROUPS] = in_turn(groups("default"))
    sap.routes[LIST] = in_turn(listed(deployment(1, status="DEAD"), deployment(2), {"id": "d3", "status": None}))
    sap.routes[f"{LIST}/d000000000000001"] = in_turn(answer({"id": "d", "statusMessage": "Quota is exhausted"}))
    sap.routes[MODELS] = in_turn(answer(b"no healthy upstream", "503 Service Unavailable"))
    client = api(sap, upstream, supervisor)
    seen = await survey(client, TokenProvider(client.key, upstream, supervisor))
    assert [d.message for d in seen.deployments] == ["Quota is exhausted", "", ""]
    assert "503" in seen.models_problem
    assert sap.asked(LIST)[0].query == {"$top": "500", "$skip": "0"}, "of any status"


@pytest.mark.parametrize(
    "more", [{}, {"versions": None}, {"versions": [7, {}]}, {"versions": "x", "allowedScenarios": {}}]
)
def test_an_entry_of_which_only_the_model_is_sure(more: dict[str, Any]) -> None:
    entry = entry_of({"model": "new", **more})
    assert (entry.model, entry.executable) == ("new", "")
    assert entry.version("latest") in (None, Version(""))


def test_the_version_that_a_deployment_means() -> None:
    old, new = Version("1", retires="2026-12-31"), Version("2", latest=True)
    entry = CatalogueEntry("m", "x", versions=(old, new))
    assert [entry.version(name) for name in ("", "latest", "1", "2", "3")] == [new, new, old, new, None]


# What discovery makes of a configuration


async def test_names_that_do_not_fit_are_warned_of_once_and_never_served(
    key: ServiceKey,
    simulator: Running,
    upstream: PooledUpstream,
    supervisor: Supervisor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ids = {d["model"]: d["id"] for d in simulator.deployments()}
    scope = Scope(
        pinned={
            "gpt-4o-2024-08-06": ("d-4o",),
            "claude": (ids["gpt-5"],),
            "chat": (ids["gpt-5"], "d-stopped"),
            "gone": ("d-nowhere",),
        },
        exclude=("claude-*",),
    )
    naming = Naming({"fast": "gpt-5-minni", "smart": "gpt-5"})
    watch = Watch()
    apis = [AiApi(key, upstream, TokenProvider(key, upstream, supervisor))]
    discovery = Discovery(apis, supervisor, watch.catalogs.append, times=QUICK, scopes={"eu": scope}, naming=naming)
    with caplog.at_level(logging.WARNING):
        discovery.start()
        for _ in range(3):
            await discovery.refresh_now(5.0)
    said = [record.message for record in caplog.records]
    assert said == list(discovery.warnings)
    assert [line.split(" ")[:4] for line in said] == [
        ["eu:", "configured", "as", "gpt-4o-2024-08-06,"],
        ["eu:", "configured", "as", "claude,"],
        ["eu:", "deployment", "d-stopped,", "configured"],
        ["eu:", "deployment", "d-nowhere,", "configured"],
        ["The", "alias", "fast", "stands"],
    ]
    catalog = watch.catalogs[-1]
    assert [d.id for d in catalog.serving("chat")] == [ids["gpt-5"]]
    assert [d.id for d in catalog.serving("gpt-4o-2024-08-06")] == ["d-4o"]
    assert catalog.serving("claude") == catalog.serving("gone") == catalog.serving("fast") == ()
    assert catalog.resolve("smart") == "gpt-5"
    assert catalog.resolve("anthropic--claude-4-sonnet") is None, "its patterns leave it out"
    simulator.call("PATCH", "deployments/d-stopped", {"status": "RUNNING"})
    await discovery.refresh_now(5.0)
    assert not any("d-stopped" in line and "does not run" in line for line in discovery.warnings)


async def test_only_the_configured_groups_are_read(sap: Core, upstream: PooledUpstream, supervisor: Supervisor) -> None:
    sap.routes[LIST] = in_turn(listed(deployment(1)))
    watch = Watch()
    scope = Scope(resource_groups=("team", "other", "team"))
    client = api(sap, upstream, supervisor)
    discovery = Discovery([client], supervisor, watch.catalogs.append, times=QUICK, scopes={"one": scope})
    discovery.start()
    await discovery.refresh_now(5.0)
    assert sorted(r.headers["ai-resource-group"] for r in sap.asked(LIST)) == ["other", "team"]
    assert sap.asked(GROUPS) == []


@pytest.mark.parametrize(("second", "counts"), [("404 Not Found", [2, 0]), ("200 OK", [2, 2])])
async def test_an_empty_list_is_believed_at_once_where_sap_says_that_they_ended(
    sap: Core, upstream: PooledUpstream, supervisor: Supervisor, second: str, counts: list[int]
) -> None:
    sap.routes[GROUPS] = in_turn(groups("default"))
    sap.routes[LIST] = in_turn(listed(deployment(1), deployment(2)), listed())
    sap.routes[f"{LIST}/{deployment(1)['id']}"] = in_turn(answer({"id": "d", "status": "STOPPED"}))
    sap.routes[f"{LIST}/{deployment(2)['id']}"] = in_turn(answer({"id": "d", "status": "RUNNING"}, second))
    watch = Watch()
    discovery = Discovery([api(sap, upstream, supervisor)], supervisor, watch.catalogs.append, times=QUICK)
    discovery.start()
    seen = []
    for _ in range(2):
        await discovery.refresh_now(5.0)
        seen.append(len(watch.all()))
    assert seen == counts
    assert bool(discovery.states()[0].problems) == (counts == [2, 2])
