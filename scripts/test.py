"""Every test, in parts: with coverage; timed; load and chaos; the fuzz; other interpreters. ``make test``.

With arguments it is pytest with these arguments, and nothing else: ``make test ARGS="tests/sap -k token"``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ["3.11", "3.12", "3.13", "3.14", "3.15"]
HEAVY = ["tests/chaos", "tests/edge/test_load.py", "tests/edge/test_mutations.py", "tests/end_to_end/test_load.py"]
WORKERS = str(min(4, 2 * (os.cpu_count() or 2)))
"""Half of what tests do is waiting."""
QUICK = ["tests/protocol", "tests/backends", "tests/properties", "tests/end_to_end/test_smoke.py"]


def run(name: str, *command: str) -> bool:
    started = time.monotonic()
    print(f"\n=== {name}", flush=True)
    return ended(name, started, subprocess.run(command, cwd=ROOT, check=False).returncode)


def ended(name: str, started: float, code: int) -> bool:
    how = f"failed ({code})" if code else "ok"
    print(f"=== {name}: {how} in {time.monotonic() - started:.0f} s", flush=True)
    return code == 0


@contextmanager
def beside(name: str, *command: str) -> Iterator[Callable[[], bool]]:
    """Runs ``command`` while the block does something else; what it is given waits, shows the output and tells whether
    it passed."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)

        def passed() -> bool:
            code = process.wait()
            output.seek(0)
            print(f"\n=== {name}\n{output.read()}", end="")
            return ended(name, started, code)

        try:
            yield passed
        finally:
            process.wait()


def clean_environment() -> None:
    """No credentials, proxies or settings of the person who runs the tests leak into them."""
    for name in list(os.environ):
        if (
            name.startswith(("AICORE_", "VCAP_", "OPENAI_", "ANTHROPIC_"))
            or name.lower().endswith("_proxy")
            or name == "PORT"
        ):
            del os.environ[name]


def covered() -> bool:
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    python = sys.executable
    passed = run(
        "Tests with coverage", python, "-m", "coverage", "run", "-m", "pytest", "-q", "-n", WORKERS,
        "-m", "not timed and not fuzz and not sdk",
    )  # fmt: skip
    # Either is one process, and two cores are the least there is
    with beside("Fuzz", python, "-m", "pytest", "-q", "-m", "fuzz") as fuzzed:
        passed &= run(
            "Tests with other SDKs' environments", python, "-m", "coverage", "run", "-m", "pytest", "-q", "-m", "sdk"
        )
        passed &= fuzzed()
    run("Combine coverage", python, "-m", "coverage", "combine", "-q")
    return run("Coverage of the package", python, "-m", "coverage", "report", "--skip-covered") and passed


def interpreters() -> dict[str, str]:
    """Version -> path of each supported interpreter found, but the one that runs this."""
    mine = f"{sys.version_info.major}.{sys.version_info.minor}"
    found: dict[str, str] = {}
    places = [Path(folder) for folder in os.get_exec_path()]
    places += Path("~/.pyenv/versions").expanduser().glob("*/bin")
    for version in SUPPORTED:
        for place in places:
            candidate = shutil.which(f"python{version}", path=str(place))
            if candidate and version != mine and version not in found and works(candidate, version):
                found[version] = candidate
    return found


def works(python: str, version: str) -> bool:
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return asked.returncode == 0 and asked.stdout.strip() == version


def elsewhere(version: str, python: str) -> bool:
    """The pure rooms' tests and a run end to end on another interpreter."""
    venv = f".venv-{version}"
    set_up = subprocess.run(
        ["make", "--silent", f"PYTHON={python}", f"VENV={venv}", f"{venv}/.tested"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if set_up.returncode:
        print(re.sub(r"https?://\S+", "(a package index)", set_up.stderr[-2000:]))
        return False
    return run(
        f"Python {version}", f"{venv}/bin/python", "-m", "pytest", "-q", "-n", "2", "-m", "not sdk and not fuzz", *QUICK
    )


def main() -> int:
    clean_environment()
    if len(sys.argv) > 1:
        return subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]], cwd=ROOT, check=False).returncode
    results = [covered()]
    pytest = (sys.executable, "-m", "pytest", "-q", "-m", "timed and not fuzz and not sdk and not rows")
    # These wait more than they work, so a few at a time do not disturb each other; what loads the machine runs alone
    apart = [f"--ignore={path}" for path in HEAVY]
    results.append(run("Timed tests", *pytest, "-n", WORKERS, "--dist", "loadfile", *apart))
    results.append(run("Load and chaos", *pytest, *HEAVY))
    others = interpreters()
    results += [elsewhere(version, python) for version, python in others.items()]
    print(
        f"\nInterpreters: {sys.version.split()[0]} (all tests), {', '.join(others) or 'no others found'} (quick tests)"
    )
    print("All tests passed." if all(results) else "Some tests FAILED: see above.")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
