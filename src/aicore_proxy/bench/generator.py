"""The load generator as a process of its own: ``python -m aicore_proxy.bench.generator``.

Reads a Plan as JSON from its standard input (the key goes that way, never by an argument), writes lines of JSON:
``{"progress": …}`` while it runs, at last ``{"result": …}`` or ``{"problem": "…"}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import uvloop

from aicore_proxy.bench.load import Load
from aicore_proxy.bench.tally import Plan, Progress, Tally


class GeneratorError(Exception):
    """The generator could not do its work."""


def run(plan: Plan, progress: Callable[[Progress], None] = lambda _: None) -> Tally:
    """Runs a Plan in a child process and waits for its end.

    Ctrl-C reaches the child too, which then tells what it has: who wants to hear it ignores the signal meanwhile.
    Raises GeneratorError.
    """
    command = [sys.executable, "-m", "aicore_proxy.bench.generator"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:  # noqa: S603 - our own interpreter and module
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(msgspec.json.encode(plan))
            child.stdin.close()
            for line in child.stdout:
                message = json.loads(line)
                if "progress" in message:
                    progress(msgspec.convert(message["progress"], Progress))
                elif "result" in message:
                    return Tally.unpacked(message["result"])
                else:
                    raise GeneratorError(str(message.get("problem")))
        except BrokenPipeError:
            pass
        finally:
            child.kill()
    raise GeneratorError("The load generator ended without a result.")


def main() -> None:
    """The child's side."""
    # What a TLS connection says when it is ended in its midst is no news
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            tell({"result": runner.run(_run(plan)).packed()})
    except ValueError as error:
        tell({"problem": str(error)})


async def _run(plan: Plan) -> Tally:
    load = Load(plan, lambda progress: tell({"progress": msgspec.to_builtins(progress)}))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, load.stop)
    return await load.run()


def tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
