"""A proxy that serves by a configuration file, and changes of that file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from tests.end_to_end.asking import PATHS, body
from tests.end_to_end.conftest import KEY, Proxy, environment, started, stopped

LANDSCAPE = {"subaccounts": {"eu": ["gpt-5", "gpt-4o", "anthropic--claude-4.5-sonnet"], "us": ["gpt-5", "gpt-5-mini"]}}
SERVE = [sys.executable, "-m", "aicore_proxy", "serve"]


class Configured:
    """A folder with a configuration, and the proxy that serves by it."""

    def __init__(self, home: Path, service_keys: Mapping[str, Any]) -> None:
        self.home = home
        self.file = home / "aicore-proxy.yaml"
        self.service_keys = service_keys
        self.proxy: Proxy

    def settings(self, *subaccounts: str, **more: Any) -> dict[str, Any]:
        """Settings with these subaccounts, in order of turns and without memory of faults."""
        keys = [{"name": name, "service_key": self.service_keys[name]} for name in subaccounts]
        chosen = {"subaccounts": keys, "keys": [{"name": "main", "key": KEY}], "port": 0, "discovery_interval": 300}
        return {**chosen, "strategy": "round_robin", "breakers": False, "log_level": "info", **more}

    def write(self, settings: Mapping[str, Any] | str) -> None:
        """Replaces the file, as editors do; JSON is YAML."""
        beside = self.file.with_suffix(".new")
        beside.write_text(settings if isinstance(settings, str) else json.dumps(settings))
        beside.chmod(0o600)
        beside.replace(self.file)

    @property
    def log(self) -> str:
        return "".join(self.proxy.lines)

    def logged(self, words: str, seconds: float = 10.0) -> float:
        """Waits for words in the log; seconds it took."""
        return until(lambda: words in self.log, seconds)

    def ask(self, model: str, key: str = KEY, protocol: str = "chat", text: str = "Hello!") -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return self.proxy.http.post(PATHS[protocol], json=body(protocol, model, text), headers=headers)

    def listed(self, key: str = KEY, **headers: str) -> set[str]:
        answer = self.proxy.http.get("/v1/models", headers={"Authorization": f"Bearer {key}", **headers})
        return {entry["id"] for entry in answer.raise_for_status().json()["data"]}


@contextmanager
def serving(configured: Configured, *options: str, ready: bool = True, **variables: str) -> Iterator[Configured]:
    """The proxy in the folder of the configuration; it is found there."""
    environ = environment(configured.home, **{"AICORE_PROXY_CONFIG": str(configured.file), **variables})
    process, lines, line = started([*SERVE, *options], environ, "Base URL")
    configured.proxy = Proxy(line.split()[-1], process, lines)
    try:
        if ready:
            until(lambda: configured.proxy.http.get("/health/ready").status_code == 200, 20)
        yield configured
    finally:
        stopped(process)


def until(true: Callable[[], Any], seconds: float, pause: float = 0.02) -> float:
    """Waits until it is so, looking every ``pause`` seconds; seconds it took."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, "it does not come to that"
        time.sleep(pause)
    return time.monotonic() - begun


def mounted(folder: Path, version: str, files: Mapping[str, str]) -> None:
    """Files as Kubernetes mounts a secret: links into a folder behind ``..data``, a link that is swapped."""
    place = folder / f"..{version}"
    place.mkdir(parents=True)
    for name, text in files.items():
        (place / name).write_text(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    (folder / "..data_tmp").symlink_to(place.name)
    (folder / "..data_tmp").replace(folder / "..data")
    for old in folder.glob("..*"):
        if old.is_dir() and not old.is_symlink() and old != place:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
