"""Discovery: what is deployed, over every fault of the AI API. Names carry the reliability row."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.sap.peer import Core, Handler, Request, answer, core, in_turn, late

from aicore_proxy.landscape import Catalog, Deployment
from aicore_proxy.sap.ai_api import AiApi, AiApiError, words_of
from aicore_proxy.sap.discovery import Discovery, DiscoveryTimes, executable_by_rule
from aicore_proxy.sap.token import TokenProvider
from aicore_proxy.tasks import Supervisor
from aicore_proxy.upstream import PooledUpstream

pytestmark = pytest.mark.timed

LIST = "/v2/lm/deployments"
GROUPS = "/v2/admin/resourceGroups"
MODELS = "/v2/lm/scenarios/foundation-models/models"


def deployment(number: int, model: str = "gpt-5", **more: Any) -> dict[str, Any]:
    details = {"resources": {"backendDetails": {"model": {"name": model, "version": "latest"}}}}
    return {
        "id": f"d{number:015x}",
        "createdAt": "2026-05-01T08:00:00Z",
        "status": "RUNNING",
        "scenarioId": "foundation-models",
        "details": details,
        **more,
    }


def listed(*items: dict[str, Any]) -> bytes:
    return answer({"count": len(items), "resources": list(items)})


def groups(*names: str) -> bytes:
    return listed(*({"resourceGroupId": name, "status": "PROVISIONED"} for name in names))


def per_group(**replies: bytes) -> Handler:
    return lambda request: replies[request.headers["ai-resource-group"]]


Start = Callable[..., Discovery]


class Watch:
    """The catalogs that were published."""

    def __init__(self) -> None:
        self.catalogs: list[Catalog] = []

    @property
    def models(self) -> dict[str, list[str]]:
        return {model: [str(d) for d in found] for model, found in self.catalogs[-1].by_name.items()}

    def all(self) -> list[Deployment]:
        return [d for found in self.catalogs[-1].by_name.values() for d in found]


@pytest.fixture
def watch() -> Watch:
    return Watch()


def api(sap: Core, upstream: PooledUpstream, supervisor: Supervisor, name: str = "one", **key: Any) -> AiApi:
    service_key = sap.key(name, **key)
    return AiApi(service_key, upstream, TokenProvider(service_key, upstream, supervisor), timeout=2.0)


QUICK = DiscoveryTimes(interval=300.0, failing=300.0, cold=0.2, on_demand=0.0)


@pytest.fixture
def start(sap: Core, upstream: PooledUpstream, supervisor: Supervisor, watch: Watch) -> Start:
    def make(times: DiscoveryTimes = QUICK, **key: Any) -> Discovery:
        made = Discovery([api(sap, upstream, supervisor, **key)], supervisor, watch.catalogs.append, times=times)
        made.start()
        return made

    return make


async def test_deployments_of_all_resource_groups(sap: Core, start: Start, watch: Watch) -> None:
    sap.routes[GROUPS] = in_turn(groups("default", "team"))
    sap.routes[LIST] = per_group(
        default=listed(deployment(1), deployment(2, "anthropic--claude-4.5-sonnet"), deployment(3, status="STOPPED")),
        team=listed(deployment(4), deployment(1)),
    )
    discovery = start()
    assert await discovery.refresh_now(5.0)
    assert watch.models == {
        "gpt-5": ["one/d000000000000001", "one/d000000000000004"],
        "anthropic--claude-4.5-sonnet": ["one/d000000000000002"],
    }
    assert {d.resource_group for d in watch.all()} == {"default", "team"}
    assert [r.query for r in sap.asked(LIST)] == [{"status": "RUNNING", "$top": "500", "$skip": "0"}] * 2
    assert "ai-resource-group" not in sap.asked(GROUPS)[0].headers
    assert {r.headers["authorization"] for r in sap.asked(LIST)} == {"Bearer token-1"}
    (state,) = discovery.states()
    assert (state.alias, state.deployments, state.problems) == ("one", 3, ())
    assert state.read_at is not None


async def test_what_an_entry_says(sap: Core, start: Start, watch: Watch) -> None:
    base = f"http://127.0.0.1:{sap.peer.port if sap.peer else 0}"
    model = {"name": "gemini-3.5-flash", "version": "001"}
    spelled = {"resources": {"backendDetails": {}, "backend_details": {"model": model}}}
    sap.routes[GROUPS] = in_turn(groups("default"))
    sap.routes[LIST] = in_turn(
        listed(
            deployment(1, executableId="azure-openai", deploymentUrl="https://elsewhere.example.com/v2/x/"),
            deployment(2, details=spelled),
            deployment(3, details={}, configurationId="c-1"),
            deployment(4, "some-new-model"),
            deployment(5, "orchestrated", scenarioId="orchestration"),
            deployment(6, deploymentUrl="wss://realtime.example.com/x"),
            deployment(7, deploymentUrl="https://user@x/"),
            deployment(8, details={}, configurationId="c-none"),
            {**deployment(9), "id": "../../admin"},
        )
    )
    bindings = [{"key": "modelName", "value": "gpt-4.1"}, {"key": "modelVersion", "value": "2025"}]
    sap.routes["/v2/lm/configurations/c-1"] = in_turn(answer({"id": "c-1", "parameterBindings": bindings}))
    sap.routes["/v2/lm/configurations/c-none"] = in_turn(answer({"error": {"message": "none"}}, "404 Not Found"))
    sap.routes[MODELS] = in_turn(listed({"model": "some-new-model", "executableId": "aicore-new", "versions": []}))
    discovery = start()
    await discovery.refresh_now(5.0)
    assert [(d.model, d.executable, d.version, d.url.replace(base, "")) for d in watch.all()] == [
        ("gemini-3.5-flash", "gcp-vertexai", "001", "/v2/inference/deployments/d000000000000002"),
        ("gpt-4.1", "azure-openai", "2025", "/v2/inference/deployments/d000000000000003"),
        ("gpt-5", "azure-openai", "latest", "https://elsewhere.example.com/v2/x"),
        ("some-new-model", "aicore-new", "latest", "/v2/inference/deployments/d000000000000004"),
    ]
    await discovery.refresh_now(5.0)
    assert len(sap.asked("/v2/lm/configurations/c-1")) == 1, "a configuration never changes"


@pytest.mark.parametrize(
    ("model", "executable"),
    [
        ("anthropic--claude-5-opus", "aws-bedrock"), ("amazon--nova-pro", "aws-bedrock"), ("o3", "azure-openai"),
        ("gpt-6", "azure-openai"), ("text-embedding-3-small", "azure-openai"), ("gemini-embedding", "gcp-vertexai"),
        ("mistralai--mistral-medium", "aicore-mistralai"), ("unheard-of", ""),
    ],
)  # fmt: skip
def test_executables_by_rule(model: str, executable: str) -> None:
    assert executable_by_rule(model) == executable


@pytest.mark.parametrize(("size", "counted"), [(500, "total"), (500, "page"), (500, "absent"), (100, "total")])
async def test_all_pages_whatever_count_means_and_however_long_a_page(
    sap: Core, upstream: PooledUpstream, supervisor: Supervisor, size: int, counted: str
) -> None:
    """A page shorter than asked for can be told from the last one only where ``count`` is the total."""
    everything = [deployment(number) for number in range(1203)]

    def page(request: Request) -> bytes:
        first = int(request.query["$skip"])
        items = everything[first : first + min(size, int(request.query["$top"]))]
        count = {"total": {"count": len(everything)}, "page": {"count": len(items)}, "absent": {}}[counted]
        return answer({**count, "resources": items})

    sap.routes[LIST] = page
    found = await api(sap, upstream, supervisor).deployments("default")
    assert [item["id"] for item in found] == [item["id"] for item in everything]


async def test_a_list_that_ignores_skip_ends(sap: Core, upstream: PooledUpstream, supervisor: Supervisor) -> None:
    sap.routes[LIST] = in_turn(answer({"count": 9, "resources": [deployment(1), deployment(2)]}))
    assert len(await api(sap, upstream, supervisor).deployments("default")) == 2


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found", "401 Unauthorized"])
@pytest.mark.parametrize(("own", "asked"), [(None, "default"), ("team", "team")])
async def test_a_key_that_may_not_list_groups(
    sap: Core, start: Start, watch: Watch, status: str, own: str | None, asked: str
) -> None:
    sap.routes[GROUPS] = in_turn(answer(b"RBAC: access denied", status))
    sap.routes[LIST] = in_turn(listed(deployment(1)))
    discovery = start(resource_group=own)
    await discovery.refresh_now(5.0)
    assert watch.models == {"gpt-5": ["one/d000000000000001"]}
    assert sap.asked(LIST)[0].headers["ai-resource-group"] == asked
    assert discovery.states()[0].problems == ()


async def test_a_401_is_repeated_with_a_new_token(sap: Core, start: Start, watch: Watch) -> None:
    sap.routes[GROUPS] = in_turn(answer(b"Jwt is expired", "401 Unauthorized"), groups("default"))
    sap.routes[LIST] = in_turn(listed(deployment(1)))
    await start().refresh_now(5.0)
    assert len(watch.all()) == 1
    assert sap.tokens == 2


GARBAGE = {
    "504 text": answer(b"upstream request timeout", "504 Gateway Timeout"),
    "HTML": answer(b"<html>busy</html>"),
    "cut JSON": answer(b'{"count":1,"resources":[{"id":'),
    "{}": answer({}),
    "null": answer(b"null"),
    "wrong types": answer({"count": 1, "resources": [7]}),
    "no ids": answer({"count": 1, "resources": [{}]}),
    "nested too deep": answer(b"[" * 100_000),
    "a hang": None,
    "nothing yet": listed(),
}


@pytest.mark.parametrize("fault", GARBAGE)
async def test_a04_a_refresh_that_fails_takes_nothing_away(
    sap: Core, start: Start, watch: Watch, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    sap.routes[GROUPS] = in_turn(groups("default", "team"))
    good, team = listed(deployment(1), deployment(2)), listed(deployment(3))
    sap.routes[LIST] = per_group(default=good, team=team)
    discovery = start()
    await discovery.refresh_now(5.0)
    before = watch.models
    sap.routes[LIST] = lambda r: GARBAGE[fault] if r.headers["ai-resource-group"] == "default" else team
    assert await discovery.refresh_now(5.0)
    assert watch.models == before
    (problem,) = discovery.states()[0].problems
    assert problem.startswith("one: ")
    assert "default" in problem
    assert "Traceback" not in caplog.text
    sap.routes[LIST] = per_group(default=good, team=team)
    await discovery.refresh_now(5.0)
    assert discovery.states()[0].problems == ()


async def test_a04_an_empty_list_is_believed_when_seen_twice(sap: Core, start: Start, watch: Watch) -> None:
    sap.routes[GROUPS] = in_turn(groups("default"))
    sap.routes[LIST] = in_turn(listed(deployment(1)), listed())
    discovery = start()
    await discovery.refresh_now(5.0)
    seen = []
    for _ in range(3):
        seen.append(len(watch.all()))
        await discovery.refresh_now(5.0)
    assert seen == [1, 1, 0]


@pytest.mark.parametrize("how", ["hangs", "drips"])
async def test_a09_a_list_that_takes_too_long_is_cut_at_the_limit(
    sap: Core, upstream: PooledUpstream, supervisor: Supervisor, how: str
) -> None:
    """With a limit of 1 s instead of 30; of 5 MiB each piece comes soon, so that only the whole is too late."""
    whole = listed(*(deployment(number, pad="x" * 1000) for number in range(4000)))
    sent = []

    async def dripping() -> AsyncIterator[bytes]:
        for start in range(0, len(whole), len(whole) // 40):
            sent.append(piece := whole[start : start + len(whole) // 40])
            yield piece
            await asyncio.sleep(0.05)

    sap.routes[LIST] = lambda _: dripping() if how == "drips" else None
    key = sap.key()
    client = AiApi(key, upstream, TokenProvider(key, upstream, supervisor), timeout=1.0)
    started = time.monotonic()
    with pytest.raises(AiApiError, match=r"GET /v2/lm/deployments: no answer within 1 s"):
        await client.deployments("default")
    assert 1.0 <= time.monotonic() - started < 1.8
    assert how == "hangs" or 5 < len(sent) < 40


async def test_a05_a_page_that_fails_discards_the_whole_list(sap: Core, start: Start, watch: Watch) -> None:
    sap.routes[GROUPS] = in_turn(groups("default"))
    sap.routes[LIST] = in_turn(listed(*(deployment(n) for n in range(25))))
    discovery = start()
    await discovery.refresh_now(5.0)
    first = answer({"count": 25, "resources": [deployment(n) for n in range(10)]})
    sap.routes[LIST] = in_turn(first, answer({"error": {"message": "busy"}}, "500 Internal Server Error"))
    await discovery.refresh_now(5.0)
    assert len(watch.all()) == 25


async def test_a06_a_group_that_is_refused_concerns_only_itself(
    sap: Core, start: Start, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    sap.routes[GROUPS] = in_turn(groups("default", "closed"))
    denied = answer(b"RBAC: access denied", "403 Forbidden")
    sap.routes[LIST] = per_group(default=listed(deployment(1)), closed=denied)
    discovery = start()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await discovery.refresh_now(5.0)
    assert len(watch.all()) == 1
    assert caplog.text.count("RBAC: access denied (resource group closed)") == 1


async def test_a07_a_deployment_that_is_gone_leaves_with_the_refresh(sap: Core, start: Start, watch: Watch) -> None:
    sap.routes[GROUPS] = in_turn(groups("default"))
    stopped = listed(deployment(1), deployment(2, status="STOPPED"))
    sap.routes[LIST] = in_turn(listed(deployment(1), deployment(2)), stopped)
    discovery = start()
    await discovery.refresh_now(5.0)
    old = watch.catalogs[-1]
    await discovery.refresh_now(5.0)
    assert [d.id for d in watch.all()] == [deployment(1)["id"]]
    assert len(old.by_name["gpt-5"]) == 2, "a request keeps the catalog that it began with"


async def test_a08_a_new_deployment_is_seen_on_demand_at_most_once_in_ten_seconds(
    sap: Core, start: Start, watch: Watch
) -> None:
    """With an interval of 1 s instead of ten."""
    sap.routes[GROUPS] = in_turn(groups("default"))
    sap.routes[LIST] = in_turn(listed(deployment(1)), listed(deployment(1), deployment(2, "new-model")))
    discovery = start(DiscoveryTimes(on_demand=1.0))
    await discovery.refresh_now(5.0)
    assert not await discovery.refresh_now(5.0), "just read"
    started = time.monotonic()
    for _ in range(50):
        discovery.refresh_soon("one")
    discovery.refresh_soon("unknown")
    while "new-model" not in watch.models:
        assert time.monotonic() - started < 2.5
        await asyncio.sleep(0.02)
    assert time.monotonic() - started > 0.5
    assert len(sap.asked(LIST)) == 2


async def test_a03_ready_soon_after_the_api_is_back(sap: Core, start: Start, watch: Watch) -> None:
    down = answer(b"no healthy upstream", "503 Service Unavailable")
    sap.routes[GROUPS] = sap.routes[LIST] = in_turn(down)
    discovery = start(DiscoveryTimes())
    await asyncio.sleep(1.0)
    assert discovery.states()[0].read_at is None
    sap.routes[GROUPS], sap.routes[LIST] = in_turn(groups("default")), in_turn(listed(deployment(1)))
    back = time.monotonic()
    while not watch.all():
        assert time.monotonic() - back < 2.0
        await asyncio.sleep(0.02)


@pytest.fixture
async def sick() -> AsyncIterator[Core]:
    async with core() as served:
        yield served


async def test_subaccounts_do_not_wait_for_each_other(
    sap: Core, sick: Core, upstream: PooledUpstream, supervisor: Supervisor, watch: Watch
) -> None:
    sap.routes[GROUPS] = in_turn(groups("default"))
    sap.routes[LIST] = in_turn(listed(deployment(1)))
    sick.routes["/oauth/token"] = late(60, sick.new_token)
    apis = [api(sick, upstream, supervisor, "sick"), api(sap, upstream, supervisor, "well")]
    discovery = Discovery(apis, supervisor, watch.catalogs.append, times=QUICK)
    discovery.start()
    started = time.monotonic()
    assert not await discovery.refresh_now(0.5)
    assert time.monotonic() - started < 1.0
    assert watch.models == {"gpt-5": ["well/d000000000000001"]}
    states = {state.alias: state for state in discovery.states()}
    assert states["well"].deployments == 1
    assert states["sick"].read_at is None


@pytest.mark.parametrize(
    ("content", "body", "words"),
    [
        ({"error": {"code": "01", "message": "Not found", "requestId": "x"}}, b"", "Not found"),
        ({"error": "BadRequest", "message": "No way"}, b"", "BadRequest: No way"),
        ({"error": [{"message": "first"}, {"message": "second"}]}, b"", "first"),
        ({"errors": {"message": "plural"}}, b"", "plural"),
        ({"request_id": "x", "message": "flat"}, b"", "flat"),
        ({"error": "alone"}, b"", "alone"),
        ({}, b"{}", "no words"),
        (None, b"RBAC: access denied", "RBAC: access denied"),
        (None, b"<!DOCTYPE html><p>x", "an HTML page"),
        (None, b"\xff\xfe\n\x1b[31mred", "\ufffd\ufffd [31mred"),
        (None, b"", "no words"),
    ],
)
def test_every_shape_of_an_error_has_its_words(content: Any, body: bytes, words: str) -> None:
    assert words_of(content, body) == words


async def test_single_deployment_and_errors(sap: Core, upstream: PooledUpstream, supervisor: Supervisor) -> None:
    client = api(sap, upstream, supervisor)
    sap.routes["/v2/lm/deployments/d1"] = in_turn(answer({"id": "d1", "status": "RUNNING"}))
    assert (await client.deployment("d1", "default"))["status"] == "RUNNING"
    with pytest.raises(AiApiError, match="status 403: RBAC") as caught:
        await client.deployment("../x", "default")
    assert caught.value.forbidden
    assert sap.requests[-1].path == "/v2/lm/deployments/..%2Fx"
