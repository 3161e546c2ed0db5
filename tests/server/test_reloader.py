"""When a configuration is read again, and what becomes of one that is not usable."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aicore_proxy.config.settings import Settings, SettingsError
from aicore_proxy.server.configuration import Configuration
from aicore_proxy.server.reload import Reloader
from aicore_proxy.tasks import Supervisor

pytestmark = pytest.mark.timed


class Files:
    """A configuration in a file that holds a number, beside others that count."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "file"
        self.file.write_text("5000")
        self.files: tuple[Path, ...] = (self.file,)
        self.loads = 0
        self.taken: list[int] = []
        self.outcomes: list[bool] = []
        self.while_loading: Callable[[], None] = lambda: None

    def load(self) -> tuple[Configuration, tuple[Path, ...]]:
        self.loads += 1
        text = self.file.read_text()
        self.while_loading()
        if text == "bug":
            raise ZeroDivisionError
        if not text.isdigit():
            raise SettingsError([f"{word} is wrong." for word in text.split()])
        return configuration(int(text)), self.files

    async def take(self, taken: Configuration) -> None:
        if taken.settings.body_limit == 6666:
            raise ValueError("6666 cannot be used.")
        self.taken.append(taken.settings.body_limit)

    async def until(self, true: Callable[[], bool], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.01)


def configuration(body_limit: int) -> Configuration:
    return Configuration(Settings(body_limit=body_limit), (), ())


@asynccontextmanager
async def watched(files: Files, retry: float = 60.0) -> AsyncIterator[Reloader]:
    reloader = Reloader(
        files.load, files.take, files.files, current=configuration(5000), interval=0.05, retry=retry,
        outcome=files.outcomes.append,
    )  # fmt: skip
    supervisor = Supervisor()
    supervisor.start("watch", reloader.watch())
    await asyncio.sleep(0.1)
    try:
        yield reloader
    finally:
        await supervisor.aclose()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def test_nothing_is_read_while_nothing_changes_and_a_signal_reads_at_once(files: Files) -> None:
    async with watched(files) as reloader:
        await asyncio.sleep(0.4)
        assert files.loads == 0
        reloader.reload()
        await files.until(lambda: files.outcomes == [True])
        assert (files.loads, files.taken) == (1, []), "the same is not taken anew"


async def test_a_change_is_taken_once_it_has_settled(files: Files) -> None:
    async with watched(files):
        began = time.monotonic()
        with files.file.open("w") as writing:
            for piece in "600", "0":
                writing.write(piece)
                writing.flush()
                await asyncio.sleep(0.06)
        await files.until(lambda: files.taken == [6000])
        assert 0.1 < time.monotonic() - began < 2
        assert files.loads == 1


async def test_what_changes_while_it_is_read_is_read_once_more(files: Files) -> None:
    def change() -> None:
        files.while_loading = lambda: None
        time.sleep(0.01)
        files.file.write_text("7000")

    files.while_loading = change
    async with watched(files):
        files.file.write_text("6000")
        await files.until(lambda: files.taken == [6000, 7000])


async def test_files_that_are_named_later_are_watched_and_others_no_longer(files: Files, tmp_path: Path) -> None:
    other = tmp_path / "other"
    async with watched(files):
        files.files = (files.file, other)
        files.file.write_text("6000")
        await files.until(lambda: files.taken == [6000])
        loads = files.loads
        other.touch()
        await files.until(lambda: files.loads == loads + 1)
        files.files = (files.file,)
        files.file.write_text("7000")
        await files.until(lambda: files.taken == [6000, 7000])
        loads = files.loads
        other.write_text("changed")
        await asyncio.sleep(0.4)
        assert files.loads == loads


async def test_problems_are_told_once_and_tried_again_until_they_are_mended(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    lack = {"missing": True}

    def lacking() -> None:
        if lack["missing"]:
            raise SettingsError(["A file is missing."])

    files.while_loading = lacking
    async with watched(files, retry=0.1):
        files.file.write_text("6000")
        await files.until(lambda: files.loads > 3)
        assert [record.message for record in caplog.records] == [
            "Not reloaded, everything stays as it was: A file is missing."
        ]
        assert files.taken == []
        lack["missing"] = False  # a file that nobody watches
        await files.until(lambda: files.taken == [6000])
        assert files.outcomes[-2:] == [False, True]


async def test_neither_a_bug_nor_a_refusal_ends_the_watch(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with watched(files):
            for text, outcomes in (("bug", 1), ("one two", 2), ("6666", 3)):
                files.file.write_text(text)
                await files.until(lambda n=outcomes: len(files.outcomes) == n)  # type: ignore[misc]
            assert files.taken == []
            files.file.write_text("6000")
            await files.until(lambda: files.taken == [6000])
    assert files.outcomes == [False, False, False, True]
    told = [record.message for record in caplog.records]
    assert told == [
        "Not reloaded: the proxy met a bug",
        "Not reloaded, everything stays as it was: one is wrong.",
        "Not reloaded, everything stays as it was: two is wrong.",
        "Not reloaded, everything stays as it was: 6666 cannot be used.",
        "Reloaded: body_limit 5000 -> 6000",
    ]
