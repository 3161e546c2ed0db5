"""A disk that is full: recordings and the last known deployments pause, and no request notices."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from tests.reliability.conftest import House, running_house, until
from tests.telemetry.reading import look

pytestmark = [
    pytest.mark.timed,
    pytest.mark.skipif(sys.platform != "linux", reason="limits of another process, and mounts of its own"),
]

LEFT = 2048  # bytes: the first part of a file can be written
IN_A_MOUNT = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
"""A process with a file system that nobody else sees: the process that it becomes keeps its id."""

Switch = Callable[[bool], None]


@contextmanager
def limited(home: Path) -> Iterator[tuple[House, Path, Switch]]:
    """A house whose proxy can be kept from writing files, its folder and the switch. Needs no privilege."""
    with running_house(home, **settings_of(home)) as house:

        def fill(full: bool) -> None:
            most = LEFT if full else resource.RLIM_INFINITY
            resource.prlimit(house.proxy.process.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

        yield house, home / "state", fill


@contextmanager
def small(home: Path) -> Iterator[tuple[House, Path, Switch]]:
    """The same with a file system of 512 KB that is filled."""
    state = home / "state"
    state.mkdir()
    mount = f'mount -t tmpfs -o size=512k none "{state}" && exec "{sys.executable}" -m aicore_proxy serve'
    with running_house(home, command=[*IN_A_MOUNT, mount], **settings_of(home)) as house:
        seen = Path(f"/proc/{house.proxy.process.pid}/root{state}")

        def fill(full: bool) -> None:
            filler = seen / "filler"
            if not full:
                filler.unlink()
                return
            with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(512))

        yield house, seen, fill


def settings_of(home: Path) -> dict[str, str]:
    # Both say that they are not written: the log of the proxy is a pipe, which is never full
    return {
        "record_keys": "default",
        "record_folder": str(home / "state" / "recordings"),
        "discovery_interval": "0.4",
        "log_level": "warning",
    }


def asked(house: House, seconds: float) -> Counter[int]:
    """Statuses of requests one after the other, whole and streamed."""
    found: Counter[int] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found[house.ask(stream=sum(found.values()) % 2 == 0, text="word " * 1000).status_code] += 1
        time.sleep(0.02)
    return found


@pytest.mark.parametrize(
    ("disk", "seconds"), [(limited, 1.5), pytest.param(small, 65, marks=pytest.mark.rows)], ids=["limited", "small"]
)
@pytest.mark.timeout(180)
def test_r01_a_full_disk_costs_no_answer_and_what_paused_resumes(
    tmp_path: Path, disk: Callable[[Path], object], seconds: float
) -> None:
    with disk(tmp_path) as (house, folder, fill):  # type: ignore[attr-defined]
        recordings, snapshot = folder / "recordings", folder / "aicore-proxy" / "deployments.json"
        assert house.ask().status_code == 200
        until(lambda: bool(list(recordings.glob("*.json"))), 5)
        until(snapshot.is_file, 5)
        before = snapshot.read_bytes()

        fill(True)
        made = httpx2.post(
            f"{house.simulator.url}/_simulator/deployments",
            json={"subaccount": "sub-0", "model": "gpt-4.1"},
            trust_env=False,
        ).raise_for_status()
        kept = len(list(recordings.glob("*.json")))
        statuses = asked(house, seconds)
        assert set(statuses) == {200}
        lost = look(house.proxy.http).total("recordings_lost_total")
        assert lost == statuses[200]
        assert len(list(recordings.iterdir())) == kept  # no half of a file takes what room there is
        assert snapshot.read_bytes() == before
        told = [line for line in house.proxy.lines if "not recorded" in line]
        assert 1 <= len(told) <= 1 + seconds // 60
        assert any("not kept" in line for line in house.proxy.lines)

        fill(False)
        assert house.ask().status_code == 200
        until(lambda: len(list(recordings.glob("*.json"))) > kept, 5)
        until(lambda: made.json()["id"].encode() in snapshot.read_bytes(), 5)
        assert look(house.proxy.http).total("recordings_lost_total") == lost
