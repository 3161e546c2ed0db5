"""Tokens and discovery against the simulator: what it says that it deploys is what is found."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aicore_proxy.landscape import Catalog
from aicore_proxy.sap.ai_api import AiApi
from aicore_proxy.sap.credentials import Secret, find_service_keys
from aicore_proxy.sap.discovery import Discovery
from aicore_proxy.sap.token import TokenError, TokenProvider
from aicore_proxy.tasks import Supervisor
from aicore_proxy.upstream import PooledUpstream, UpstreamRequest

pytestmark = pytest.mark.timed


@pytest.fixture(scope="module")
def simulator() -> Iterator[str]:
    """Its base URL."""
    command = [sys.executable, "-m", "aicore_proxy.simulator", "--port", "0", "--announce"]
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ)
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if b'"url"' in line)
        yield json.loads(line)["url"]
    finally:
        process.terminate()

        process.communicate()


async def control(upstream: PooledUpstream, simulator: str, path: str) -> Any:
    response = await upstream.send(UpstreamRequest("GET", f"{simulator}/_simulator/{path}"))
    return json.loads(await response.read(1 << 24))


async def test_every_running_deployment_of_every_subaccount_is_found(
    simulator: str, upstream: PooledUpstream, supervisor: Supervisor, tmp_path: Path
) -> None:
    for name, key in (await control(upstream, simulator, "service-keys")).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(key))
    found = find_service_keys({"AICORE_PROXY_SERVICE_KEYS": str(tmp_path)}, tmp_path)
    catalogs: list[Catalog] = []
    apis = [AiApi(key, upstream, TokenProvider(key, upstream, supervisor)) for key in found.keys]
    discovery = Discovery(apis, supervisor, catalogs.append)
    discovery.start()
    assert await discovery.refresh_now(10.0)
    assert all(state.problems == () for state in discovery.states())
    deployments = [d for several in catalogs[-1].by_name.values() for d in several]
    state = await control(upstream, simulator, "state")
    running = {d["id"] for place in state["subaccounts"].values() for d in place["deployments"]}
    assert {d.id for d in deployments} <= running
    assert len(found.keys) > 1
    assert {d.subaccount for d in deployments} == {key.name for key in found.keys}
    assert {"azure-openai", "aws-bedrock", "gcp-vertexai"} <= {d.executable for d in deployments}
    assert "" not in {d.executable for d in deployments}
    assert any(len(several) > 1 for several in catalogs[-1].by_name.values())


async def test_a_wrong_secret_is_refused_in_words(
    simulator: str, upstream: PooledUpstream, supervisor: Supervisor
) -> None:
    keys = await control(upstream, simulator, "service-keys")
    environ = {"AICORE_SERVICE_KEY": json.dumps(next(iter(keys.values())))}
    (key,) = find_service_keys(environ, Path("/nowhere")).keys
    wrong = msgspec.structs.replace(key, client_secret=Secret("wrong"))
    with pytest.raises(TokenError, match="Bad credentials") as caught:
        await TokenProvider(wrong, upstream, supervisor).token()
    assert caught.value.refused
    right = TokenProvider(key, upstream, supervisor)
    assert set(await asyncio.gather(*(right.token() for _ in range(50)))) == {await right.token()}
    assert right.requests == 1
