"""The embedded simulator of demo mode: a child process, reached over HTTP as SAP would be."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click


@contextmanager
def simulated(port: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Runs the simulator on ``port`` (0: a free one): its URL and service keys by subaccount. It ends with the block,
    and with this process however that ends: it watches its standard input.

    Raises click.ClickException if it does not come up.
    """
    command = [sys.executable, "-m", "aicore_proxy.simulator", "--port", str(port), "--announce"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)  # noqa: S603 - our own interpreter and module
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        if not line:
            raise click.ClickException(f"The simulator did not start (port {port}): is the port free?")
        url = json.loads(line)["url"]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}/_simulator/service-keys", timeout=10) as answer:
            yield url, json.load(answer)
    finally:
        child.stdin.close()
        try:
            child.wait(3)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()
