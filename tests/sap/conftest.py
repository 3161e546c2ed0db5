from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.sap.peer import Core, core

from aicore_proxy.tasks import Supervisor
from aicore_proxy.upstream import PooledUpstream


@pytest.fixture
async def upstream() -> AsyncIterator[PooledUpstream]:
    client = PooledUpstream()
    yield client
    await client.close()


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    owner = Supervisor()
    yield owner
    await owner.aclose()


@pytest.fixture
async def sap() -> AsyncIterator[Core]:
    async with core() as served:
        yield served
