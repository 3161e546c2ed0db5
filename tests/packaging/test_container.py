"""The Dockerfile and the systemd unit, as far as they can be judged without running them."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.packaging.dockerfile import ROOT, Instruction, dockerfile, stages

from aicore_proxy.cli.commands import Commands
from aicore_proxy.config.load import load
from aicore_proxy.config.settings import Settings

UNIT = ROOT / "deploy" / "aicore-proxy.service"


def test_every_file_that_is_copied_exists_and_is_not_ignored() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    sources = [source for one in dockerfile() if one.name == "COPY" for source in one.sources]
    assert sources, "something is copied"
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source, rules), source
    for secret in (
        "config.json",
        "aicore-proxy.yaml",
        ".env",
        "keys/eu.json",
        ".git/config",
        "src/x/__pycache__/a.pyc",
    ):
        assert ignored(secret, rules), f"{secret} must not reach the build"


def ignored(path: str, rules: list[str]) -> bool:
    """Docker's rule: the last pattern that meets the path, or a folder above it, decides."""
    steps = path.split("/")
    names = ["/".join(steps[: number + 1]) for number in range(len(steps))]
    out = False
    for rule in rules:
        pattern = rule.removeprefix("!").removeprefix("**/")
        deep = rule.removeprefix("!").startswith("**/")
        if any(fnmatch.fnmatch(name.rsplit("/", 1)[-1] if deep else name, pattern) for name in names):
            out = not rule.startswith("!")
    return out


def last(name: str) -> Instruction:
    return next(one for one in reversed(stages()[-1]) if one.name == name)


def test_the_image_runs_the_command_as_nobody_in_particular() -> None:
    assert len(stages()) == 2, "what builds is not what runs"
    user = last("USER").words[0]
    uid = user.split(":")[0]
    assert uid.isdigit(), "Kubernetes' runAsNonRoot needs a number"
    assert int(uid) > 0
    assert last("ENTRYPOINT").array == ["aicore-proxy"]
    assert last("CMD").array == ["serve"]
    commands = set(Commands())
    assert "serve" in commands
    check = last("HEALTHCHECK")
    assert check.text.endswith('CMD ["aicore-proxy", "health"]')
    assert "health" in commands
    assert last("STOPSIGNAL").words == ["SIGTERM"]
    assert last("EXPOSE").words == [str(Settings().port)]
    final = [one.text for one in stages()[-1] if one.name in ("RUN", "COPY", "ADD")]
    assert not [text for text in final if "pip" in text or "apt" in text], "nothing is installed where it runs"


def test_nothing_unchecked_is_installed_and_no_secret_is_named() -> None:
    installs = [line for one in dockerfile() if one.name == "RUN" for line in one.text.split("&&") if "install" in line]
    for line in installs:
        words = shlex.split(line)
        if "pip" in line and "uninstall" not in words:
            assert "--require-hashes" in words or "--no-index" in words, line
    assert not [one for one in dockerfile() if one.name == "ADD"]
    for one in dockerfile():
        if one.name in ("ENV", "ARG"):
            assert not re.search(r"(KEY|TOKEN|SECRET|PASSWORD)\w*=", one.text), one.text
    assert "# --- tests and checks" in (ROOT / "requirements.lock").read_text(), "sed looks for this line"


def test_hadolint_has_nothing_to_say() -> None:
    folders = (os.environ.get("TEST_TOOLS", ""), str(Path(sys.executable).parent), os.environ["PATH"])
    program = shutil.which("hadolint", path=os.pathsep.join(folders))
    if program is None:
        pytest.skip("hadolint is not installed: its package has no wheel for this platform")
    done = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# --- systemd


def unit() -> dict[str, dict[str, list[str]]]:
    """Section -> name -> values, in order."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and line[0] != "#":
            name, value = line.split("=", 1)
            section.setdefault(name, []).append(value)
    return sections


def test_the_service_gives_away_nothing() -> None:
    service = unit()["Service"]
    wanted = {
        "DynamicUser": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "NoNewPrivileges": "yes",
        "PrivateDevices": "yes", "PrivateTmp": "yes", "CapabilityBoundingSet": "", "StateDirectory": "aicore-proxy",
        "ExecReload": "/bin/kill -HUP $MAINPID", "KillMode": "mixed", "Restart": "on-failure",
    }  # fmt: skip
    assert {name: service[name][-1] for name in wanted} == wanted
    program, command = service["ExecStart"][0].split()
    assert Path(program).name == "aicore-proxy"
    assert command in set(Commands())
    environment = dict(value.split("=", 1) for value in service["Environment"])
    assert Path(environment["XDG_STATE_HOME"]) / service["StateDirectory"][0] == Path("/var/lib/aicore-proxy")
    settings = Settings()
    assert int(service["TimeoutStopSec"][0]) > settings.drain_delay + settings.drain_timeout


def test_the_configuration_beside_it_is_valid_and_its_secrets_come_from_systemd(tmp_path: Path) -> None:
    (identifier, _), *_ = [value.split(":") for value in unit()["Service"]["LoadCredential"]]
    (tmp_path / f"{identifier}_client-key").write_text("sk-from-systemd\n")
    (tmp_path / f"{identifier}_eu.json").write_text('{"clientid": "x"}')
    loaded = load(
        {"CREDENTIALS_DIRECTORY": str(tmp_path)},
        {},
        cwd=tmp_path,
        home=tmp_path,
        file=ROOT / "deploy/aicore-proxy.yaml",
    )
    assert loaded.settings.api_key == "sk-from-systemd"
    assert [one.name for one in loaded.settings.subaccounts] == ["eu"]
    assert loaded.settings.subaccounts[0].service_key == {"clientid": "x"}
    text = (ROOT / "deploy/aicore-proxy.yaml").read_text()
    assert not re.search(r"(?m)^\s*(api_key|key|service_key|clientsecret):", text), "it may be read by all"


def test_systemd_has_nothing_to_say(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/aicore-proxy/bin/aicore-proxy", "/bin/true"))
    done = subprocess.run([program, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    judged = subprocess.run(
        [program, "security", "--offline=true", "--threshold=20", "--no-pager", str(copy)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout[-300:]
