"""Reload: what the proxy is built from is read again, on SIGHUP and when any file of it changes.

Files are looked at off the event loop, by what stat says of what their links lead to: a mounted secret changes by a
link that is swapped. A configuration that is not usable changes nothing; one that is goes out whole.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from aicore_proxy.config.settings import Settings, SettingsError, home_of, state_folder
from aicore_proxy.gateway.keys import ClientKey, client_key
from aicore_proxy.sap.credentials import CredentialsError, Found
from aicore_proxy.sap.token import client_tls
from aicore_proxy.server.configuration import (
    DEFAULT_KEY,
    Configuration,
    changes,
    configuration_of,
    find_credentials,
    load_telling_all,
)
from aicore_proxy.server.keyfile import KeyFileError, obtain_key
from aicore_proxy.server.tls import CertificateError
from aicore_proxy.telemetry import logs

log = logging.getLogger("aicore_proxy.configuration")

INTERVAL = 1.0
"""Seconds between two looks at the files."""
SETTLE = 0.1
"""A change is read once nothing has changed for so many seconds: editors write in steps."""
RETRY = 5.0
"""Seconds between two tries while what there is cannot be used: what it lacks may be a file that nobody watches."""

Load: TypeAlias = Callable[[], tuple[Configuration, tuple[Path, ...]]]
"""Reads a Configuration, and says which files it was read from. Raises what ``problems_of`` knows."""
Mark: TypeAlias = tuple[int, ...] | None
"""What stat says of a file; None: there is none."""


class Source:
    """Where a running proxy's configuration comes from. Owns what was noted of it last."""

    def __init__(
        self,
        environ: Mapping[str, str],
        overrides: Mapping[str, Any],
        *,
        file: Path | None = None,
        simulated: Found | None = None,
        noted: Iterable[str] = (),
    ) -> None:
        """``overrides``: command-line options, None: not given; ``file``: ``--config``. ``simulated``: the simulator's
        service keys, instead of any others. ``noted``: what was said of them already."""
        self._environ = environ
        self._overrides = overrides
        self._file = file
        self._simulated = simulated
        self._noted = frozenset(noted)

    def load(self) -> tuple[Configuration, tuple[Path, ...]]:
        """Reads everything: a Load. Every problem of a stage is raised at once."""
        loaded = load_telling_all(self._environ, self._overrides, file=self._file)
        found = self._simulated or find_credentials(loaded, self._environ, home_of(self._environ))
        if not found.keys:
            raise CredentialsError(["No SAP AI Core service key is found any more."])
        made = self._made_key(loaded.settings)
        direct = self._simulated is not None
        configuration = configuration_of(loaded, found.keys, self._environ, made, direct=direct)
        for key in found.keys:
            client_tls(key, self._environ)
        for note in found.notes:
            if note not in self._noted:
                log.warning("%s", note)
        self._noted = frozenset(found.notes)
        return configuration, tuple(dict.fromkeys((*loaded.files, *found.files)))

    def _made_key(self, settings: Settings) -> ClientKey | None:
        """The key of an installation that is given none, None: it is given some."""
        if settings.api_key or settings.keys:
            return None
        return client_key(DEFAULT_KEY, obtain_key("", state_folder(self._environ)).key)


class Reloader:
    """Reads again when there is reason to, and hands on what is usable and new. Lives in one event loop; owns what was
    read last, and what was said of it."""

    def __init__(
        self,
        load: Load,
        publish: Callable[[Configuration], Awaitable[None]],
        files: Iterable[Path],
        *,
        current: Configuration,
        interval: float = INTERVAL,
        retry: float = RETRY,
        outcome: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """``load`` runs in a thread. ``publish`` takes a Configuration into use, and may raise like ``load``.
        ``files``: those that ``current``, which is in use, was read from. ``outcome`` is told whether what was read can
        be used."""
        self._load = load
        self._publish = publish
        self._files = tuple(files)
        self._current = current
        self._interval = interval
        self._retry = retry
        self._outcome = outcome
        self._asked = asyncio.Event()
        self._refused: list[str] = []
        self._tried_at = 0.0

    def reload(self) -> None:
        """Has everything read again (SIGHUP). Does not wait."""
        self._asked.set()

    async def watch(self) -> None:
        """Looks for changes, for ever: work for a Supervisor."""
        seen = await asyncio.to_thread(marks, self._files)
        while True:
            asked = await self._pause()
            now = await asyncio.to_thread(marks, self._files)
            while now != seen and now != (settled := await self._settled()):
                now = settled
            overdue = bool(self._refused) and time.monotonic() - self._tried_at >= self._retry
            if now != seen or asked or overdue:
                await self._read(told=asked or now != seen)
                # What changed while it was read differs from what was seen before, and is read once more
                after = await asyncio.to_thread(marks, self._files)
                seen = {path: now.get(path, mark) for path, mark in after.items()}

    async def _pause(self) -> bool:
        """Waits for the next look; whether somebody asked."""
        try:
            async with asyncio.timeout(self._interval):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True

    async def _settled(self) -> dict[Path, Mark]:
        await asyncio.sleep(SETTLE)
        return await asyncio.to_thread(marks, self._files)

    async def _read(self, *, told: bool) -> None:
        """``told``: problems are logged also where they are the same as before."""
        self._tried_at = time.monotonic()
        try:
            configuration, files = await asyncio.to_thread(self._load)
            if configuration != self._current:
                await self._publish(configuration)
                tell(changes(self._current, configuration))
                logs.set_level(configuration.settings.log_level)
            elif told or self._refused:
                log.info("Read again: nothing has changed")
            self._current, self._files, self._refused = configuration, files, []
            self._outcome(True)
        except (SettingsError, CredentialsError, CertificateError, KeyFileError, ValueError) as error:
            problems = problems_of(error)
            if told or problems != self._refused:
                for problem in problems:
                    log.error("Not reloaded, everything stays as it was: %s", problem)
            self._refused = problems
            self._outcome(False)
        except Exception as crash:  # whatever it is: the next change must find somebody who looks
            log.error("Not reloaded: the proxy met a bug", exc_info=crash)
            self._outcome(False)


def tell(changed: tuple[list[str], list[str]]) -> None:
    """Logs what is different now, in words without values."""
    told, fixed = changed
    if effective := [what for what in told if what not in fixed]:
        log.info("Reloaded: %s", ", ".join(effective))
    if fixed:
        log.warning("Only a restart changes: %s", ", ".join(fixed))


def problems_of(error: Exception) -> list[str]:
    """Every problem that an unusable configuration has, a sentence each."""
    return list(error.problems) if isinstance(error, SettingsError | CredentialsError) else [str(error)]


def marks(files: Iterable[Path]) -> dict[Path, Mark]:
    """What tells whether a file, or the listing of a folder, has changed. Links are followed."""
    found: dict[Path, Mark] = {}
    for path in files:
        try:
            stat = path.stat()
        except (OSError, ValueError):
            found[path] = None
        else:
            found[path] = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_mode)
    return found
