"""The last known good discovery on disk, and a start without SAP."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.sap.peer import Core, answer, in_turn
from tests.sap.test_discovery import GROUPS, LIST, QUICK, Watch, deployment, groups, listed, per_group

from aicore_proxy.landscape import Deployment
from aicore_proxy.sap.ai_api import AiApi
from aicore_proxy.sap.credentials import Secret
from aicore_proxy.sap.discovery import Discovery
from aicore_proxy.sap.scope import Scope
from aicore_proxy.sap.snapshot import Kept, SnapshotError, identity, load, save
from aicore_proxy.sap.token import TokenProvider
from aicore_proxy.tasks import Supervisor
from aicore_proxy.upstream import PooledUpstream

pytestmark = pytest.mark.timed

Begin = Callable[..., tuple[Discovery, Watch]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "deployments.json"


@pytest.fixture
def begin(sap: Core, upstream: PooledUpstream, supervisor: Supervisor, file: Path) -> Begin:
    """A start of the proxy's discovery, as often as wanted."""

    def make(scope: Scope | None = None, **key: Any) -> tuple[Discovery, Watch]:
        service_key = msgspec.structs.replace(sap.key("one"), **key)
        api = AiApi(service_key, upstream, TokenProvider(service_key, upstream, supervisor), timeout=2.0)
        watch = Watch()
        discovery = Discovery(
            [api], supervisor, watch.catalogs.append, times=QUICK, scopes={"one": scope or Scope()}, snapshot_file=file
        )
        discovery.start()
        return discovery, watch

    return make


async def until(true: Callable[[], Any], seconds: float = 5.0) -> float:
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - started


def two_groups(sap: Core) -> None:
    sap.routes[GROUPS] = in_turn(groups("default", "team"))
    sap.routes[LIST] = per_group(default=listed(deployment(1), deployment(2, "o3")), team=listed(deployment(3)))


def down(sap: Core) -> None:
    """The AI API hangs: the worst that a start can meet."""
    sap.routes[GROUPS] = sap.routes[LIST] = lambda _: None


async def test_a_start_survives_an_ai_api_that_cannot_be_reached(
    sap: Core, begin: Begin, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two_groups(sap)
    first, before = begin()
    await first.refresh_now(5.0)
    await until(file.exists)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert "s3cr3t" not in file.read_text()
    assert "sb-1" not in file.read_text()

    down(sap)
    with caplog.at_level(logging.INFO):
        second, after = begin()
        assert await until(lambda: after.catalogs) < 1.0
    assert after.models == before.models
    assert "one: 3 deployments as last known on 20" in caplog.text
    (state,) = second.states()
    assert (state.read_at, state.resource_groups) == (None, ("default", "team"))
    assert time.time() - 60 < (state.snapshot_of or 0) <= time.time()

    await until(lambda: second.states()[0].problems, 15.0)
    assert after.models == before.models, "a failure takes nothing away"
    sap.routes[GROUPS], sap.routes[LIST] = in_turn(groups("default")), in_turn(listed(deployment(7)))
    await second.refresh_now(5.0)
    assert after.models == {"gpt-5": ["one/d000000000000007"]}, "what SAP says now replaces what was known"
    assert second.states()[0].snapshot_of is None
    await until(lambda: "d000000000000007" in file.read_text())


@pytest.mark.parametrize("change", ["client", "api", "group"])
async def test_foreign_deployments_are_never_revived(sap: Core, begin: Begin, file: Path, change: str) -> None:
    two_groups(sap)
    first, _ = begin()
    await first.refresh_now(5.0)
    await until(file.exists)
    down(sap)
    if change == "group":
        _, after = begin(Scope(resource_groups=("team",)))
        await until(lambda: after.catalogs)
        assert after.models == {"gpt-5": ["one/d000000000000003"]}
        return
    base = sap.key().api_url
    _, after = begin(
        **({"client_id": "sb-2"} if change == "client" else {"api_url": base.replace("127.0.0.1", "127.0.0.2")})
    )
    await asyncio.sleep(0.5)
    assert all(not catalog.by_name for catalog in after.catalogs)


def content(**more: Any) -> dict[str, Any]:
    return {"format": 1, "subaccounts": {}, **more}


BROKEN = {
    "empty": "",
    "cut": '{"format": 1, "subacc',
    "wrong types": json.dumps(content(subaccounts={"x": {"alias": 7}})),
    "another format": json.dumps(content(format=2)),
    "no JSON": "\x00\xff",
    "deep": "[" * 200_000,
    "writable by others": json.dumps(content()),
    "a folder": None,
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_snapshot_is_ignored_and_replaced(
    sap: Core, begin: Begin, file: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.parent.mkdir()
    text = BROKEN[kind]
    if text is None:
        file.mkdir()
    else:
        file.write_text(text)
        file.chmod(0o666 if kind.startswith("writable") else 0o600)
    two_groups(sap)
    discovery, watch = begin()
    await discovery.refresh_now(5.0)
    assert len(watch.all()) == 3
    await until(lambda: "The last known deployments are not used" in caplog.text)
    assert "Traceback" not in caplog.text
    if text is not None:
        await until(lambda: file.stat().st_mode & 0o777 == 0o600 and "d000000000000003" in file.read_text())
    else:
        await until(lambda: "The last known deployments are not kept" in caplog.text)


async def test_a_url_that_tokens_must_not_go_to_is_not_taken_from_disk(
    sap: Core, begin: Begin, file: Path, upstream: PooledUpstream
) -> None:
    key = sap.key("one")
    bad = [
        Deployment("d000000000000001", "one", "default", "azure-openai", "gpt-5", url)
        for url in ("ftp://x", "https://u@x")
    ]
    good = Deployment(
        "d000000000000002", "x", "default", "azure-openai", "gpt-5", f"{key.api_url}/v2/inference/deployments/d2"
    )
    save(file, {identity(key): Kept("old-name", 1.0, {"default": (*bad, good)})})
    down(sap)
    _, after = begin()
    await until(lambda: after.catalogs)
    assert after.models == {"gpt-5": ["one/d000000000000002"]}


async def test_a_group_that_is_refused_keeps_nothing_from_being_kept(sap: Core, begin: Begin, file: Path) -> None:
    sap.routes[GROUPS] = in_turn(groups("default", "closed"))
    denied = answer(b"RBAC: access denied", "403 Forbidden")
    sap.routes[LIST] = per_group(default=listed(deployment(1)), closed=denied)
    discovery, _ = begin()
    await discovery.refresh_now(5.0)
    await until(lambda: file.exists() and "d000000000000001" in file.read_text())


def kept(number: int, read_at: float, alias: str = "one") -> Kept:
    one = Deployment(f"d{number:015x}", alias, "default", "azure-openai", "gpt-5", "https://sap.invalid/d")
    return Kept(alias, read_at, {"default": (one,)})


def test_what_another_worker_read_since_stays(file: Path) -> None:
    assert save(file, {"a": kept(1, 10.0), "b": kept(2, 10.0)})
    assert not save(file, {"a": kept(1, 20.0), "b": None}), "nothing new: no write"
    assert save(file, {"a": kept(1, 20_000.0), "b": None}), "but its date is renewed"
    assert save(file, {"a": kept(9, 30_000.0), "b": kept(7, 5.0)})
    assert load(file) == {"a": kept(9, 30_000.0), "b": kept(2, 10.0)}
    assert save(file, {"a": None})
    assert load(file) == {"a": kept(9, 30_000.0)}, "what is no longer configured leaves"


HAMMER = """
import sys
from pathlib import Path
from aicore_proxy.landscape import Deployment
from aicore_proxy.sap.snapshot import Kept, save
for turn in range(100):
    one = Deployment(f"d{turn}", "one", "default", "azure-openai", "gpt-5", "https://sap.invalid/d")
    save(Path(sys.argv[1]), {"a": Kept("one", float(turn * 10 + int(sys.argv[2])), {"default": (one,)}), "b": None})
"""


def test_several_workers_never_leave_half_a_file(file: Path) -> None:
    save(file, {"a": kept(0, 0.0), "b": kept(5, 1.0)})
    workers = [subprocess.Popen([sys.executable, "-c", HAMMER, str(file), str(number)]) for number in range(3)]
    try:
        seen = 0
        while any(worker.poll() is None for worker in workers):
            assert set(load(file)) == {"a", "b"}
            seen += 1
        assert [worker.returncode for worker in workers] == [0, 0, 0]
        assert seen > 10
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert load(file)["a"].read_at >= 990.0
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SnapshotError, match="cannot be written"):
        save(tmp_path / "file" / "deployments.json", {"a": kept(1, 1.0)})


def test_identities_tell_keys_apart(sap: Core) -> None:
    key = sap.key()
    others = [msgspec.structs.replace(key, client_id="x"), msgspec.structs.replace(key, api_url="https://x")]
    same = msgspec.structs.replace(key, name="other", client_secret=Secret("rotated"))
    assert identity(same) == identity(key)
    assert identity(key) not in {identity(other) for other in others}
