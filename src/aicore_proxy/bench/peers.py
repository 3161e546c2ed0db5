"""Starts what is compared, each on the stub: this proxy, nginx, LiteLLM; tells of what cannot be started, and why."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec
from msgspec import Struct

from aicore_proxy.bench import machine
from aicore_proxy.bench.stub import FOUR, MODELS, StubPlan

LITELLM = "1.106.*"
KEY = "sk-bench-0123456789abcdef"
START = 120.0
"""Seconds for a start, LiteLLM's above all."""


class PeerError(Exception):
    """It cannot be measured; the message says why."""


class Peer(Struct):
    """Something that answers. ``urls``: by the stub's port; ``models``: by family, its name there; no pid: no process
    of its own. ``started``: seconds until it was ready; ``idle``: bytes resident then."""

    name: str
    urls: Mapping[str, str]
    models: Mapping[str, str]
    pids: Mapping[str, int] = {}
    started: float = 0.0
    idle: int = 0

    def family(self, upstream: str) -> list[int]:
        pid = self.pids.get(upstream)
        return machine.family(pid) if pid is not None else []


class Stage:
    """All processes of one comparison. Owns them, and the folder ``work``: they end with ``close``.

    What is measured runs on one core, all else on the other, where there are two.
    """

    def __init__(self, work: Path, cache: Path) -> None:
        self.work = work
        self.cache = cache
        self.measured, self.rest = machine.cores()
        self.ports: Mapping[str, int] = {}
        self.certificate = ""
        self._stack = ExitStack()

    def close(self) -> None:
        self._stack.close()

    def stub(self) -> Mapping[str, int]:
        """Starts the stub: its ports. Without ``openssl`` there are none with TLS."""
        plan = self._certified()
        self.certificate = plan.certificate
        with machine.on_core(self.rest):
            child = self._spawn(
                [sys.executable, "-m", "aicore_proxy.bench.stub"], "stub", stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(msgspec.json.encode(plan) + b"\n")
        child.stdin.flush()
        self.ports = json.loads(child.stdout.readline())["ports"]
        return self.ports

    def direct(self) -> Peer:
        urls = {port: f"{self._base(port)}/v2/inference/deployments/{MODELS['gpt'][0]}" for port in self.ports}
        return Peer("direct", urls, {"gpt": MODELS["gpt"][2]})

    def proxy(self, upstreams: Iterable[str] = (), **settings: str) -> Peer:
        """This proxy, one process for each of the stub's ports, or of ``upstreams``. Raises PeerError."""
        pids: dict[str, int] = {}
        urls: dict[str, str] = {}
        started = 0.0
        for upstream in upstreams or self.ports:
            service_key = {
                "clientid": "bench",
                "clientsecret": "bench",
                "url": self._base(upstream),
                "serviceurls": {"AI_API_URL": self._base(upstream)},
            }
            port = free_port()
            environ = {
                "AICORE_SERVICE_KEY": json.dumps(service_key),
                "AICORE_PROXY_API_KEY": KEY,
                "AICORE_PROXY_SNAPSHOT": "false",
                "XDG_STATE_HOME": str(self.work / f"state-{upstream}"),
                **{f"AICORE_PROXY_{name.upper()}": value for name, value in settings.items()},
            }
            if self.certificate:
                environ["AICORE_PROXY_CA_BUNDLE"] = self.certificate
            command = [sys.executable, "-m", "aicore_proxy", "serve", "--port", str(port)]
            child, took = self._measured(command, f"proxy-{upstream}", environ, port, "/health/ready")
            pids[upstream], urls[upstream] = child.pid, f"http://127.0.0.1:{port}"
            started = started or took
        time.sleep(1)
        idle = machine.memory([pids["plain"]]).resident
        models = {**{name: model for name, (_, _, model) in MODELS.items()}, **FOUR}
        return Peer("this proxy", urls, models, pids, started, idle)

    def nginx(self) -> Peer:
        """Raises PeerError."""
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise PeerError("nginx is not installed")
        folder = self.work / "nginx"
        (folder / "logs").mkdir(parents=True)
        listening = {upstream: free_port() for upstream in self.ports}
        (folder / "nginx.conf").write_text(self._nginx_configuration(listening))
        command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "logs" / "error")]
        child, took = self._measured(command, "nginx", {}, listening["plain"], "/")
        urls = {upstream: f"http://127.0.0.1:{port}" for upstream, port in listening.items()}
        idle = machine.memory(machine.family(child.pid)).resident
        pids = dict.fromkeys(urls, child.pid)
        return Peer("nginx", urls, {"gpt": MODELS["gpt"][2]}, pids, took, idle)

    def litellm(self) -> Peer:
        """LiteLLM's proxy, in an environment of its own that is made once. Raises PeerError."""
        program = self._litellm_program()
        models: list[dict[str, object]] = []
        for upstream in ("plain", "tls"):
            if upstream in self.ports:
                suffix = "" if upstream == "plain" else "-tls"
                for name, vendor in (("gpt", "openai"), ("claude", "anthropic")):
                    deployment, _, model = MODELS[name]
                    parameters = {
                        "model": f"{vendor}/{model.removeprefix('anthropic--')}",
                        "api_base": f"{self._base(upstream)}/v2/inference/deployments/{deployment}",
                        "api_key": "bench",
                    }
                    models.append({"model_name": f"{name}{suffix}", "litellm_params": parameters})
        configuration = self.work / "litellm.json"
        configuration.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": KEY}}))
        port = free_port()
        environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR"}
        if self.certificate:
            environ["SSL_CERT_FILE"] = self.certificate
        command = [str(program), "--config", str(configuration), "--host", "127.0.0.1", "--port", str(port)]
        child, took = self._measured(command, "litellm", environ, port, "/health/liveliness")
        time.sleep(2)
        url = f"http://127.0.0.1:{port}"
        names = {"gpt": "gpt", "claude": "claude", "gpt-tls": "gpt-tls"}
        idle = machine.memory(machine.family(child.pid)).resident
        return Peer("LiteLLM", {"plain": url, "tls": url}, names, {"plain": child.pid, "tls": child.pid}, took, idle)

    def _litellm_program(self) -> Path:
        folder = self.cache / f"litellm-{LITELLM.rstrip('.*')}"
        program = folder / "bin" / "litellm"
        if program.exists():
            return program
        try:
            venv.create(folder, with_pip=True, clear=True)
            command = [str(folder / "bin" / "pip"), "install", "--quiet", f"litellm[proxy]=={LITELLM}"]
            subprocess.run(command, check=True, timeout=1200, stdout=subprocess.DEVNULL)  # noqa: S603 - pip of that environment
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise PeerError(f"litellm[proxy]=={LITELLM} could not be installed: {error}") from None
        return program

    def _base(self, upstream: str) -> str:
        return f"{'https' if upstream.startswith('tls') else 'http'}://127.0.0.1:{self.ports[upstream]}"

    def _certified(self) -> StubPlan:
        program = shutil.which("openssl")
        if program is None:
            return StubPlan()
        certificate, key = self.work / "certificate.pem", self.work / "key.pem"
        command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
        command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)  # noqa: S603 - a fixed command
        return StubPlan(str(certificate), str(key))

    def _nginx_configuration(self, listening: Mapping[str, int]) -> str:
        servers = []
        for upstream, port in listening.items():
            kept = "" if upstream.endswith("close") else " keepalive 1024; keepalive_requests 10000000;"
            path = f"/v2/inference/deployments/{MODELS['gpt'][0]}/chat/completions"
            trusted = (
                f" proxy_ssl_trusted_certificate {self.certificate}; proxy_ssl_verify on;" if self.certificate else ""
            )
            servers.append(
                f"upstream {upstream} {{ server 127.0.0.1:{self.ports[upstream]};{kept} }}\n"
                f"server {{ listen 127.0.0.1:{port} backlog=4096; keepalive_requests 10000000; "
                f"location / {{ proxy_pass {self._base(upstream).partition(':')[0]}://{upstream}{path}; "
                f"proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host localhost; "
                f"proxy_buffering off; proxy_ssl_name localhost;{trusted} }} }}\n"
            )
        folders = "".join(
            f"{kind}_temp_path logs/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return (
            "daemon off; worker_processes 1; pid logs/pid; worker_rlimit_nofile 16384;\n"
            "events { worker_connections 8192; }\n"
            f"http {{ access_log off; client_max_body_size 64m; client_body_buffer_size 1m; {folders}\n"
            f"{''.join(servers)} }}\n"
        )

    def _measured(
        self, command: list[str], name: str, environ: Mapping[str, str], port: int, path: str
    ) -> tuple[subprocess.Popen[bytes], float]:
        """Starts a process on the measured core and waits until it answers: the process, and how long that took."""
        began = time.perf_counter()
        with machine.on_core(self.measured):
            child = self._spawn(command, name, environ=environ)
        while time.perf_counter() - began < START:
            if child.poll() is not None:
                break
            if answers(port, path):
                return child, time.perf_counter() - began
            time.sleep(0.01)
        said = (self.work / f"{name}.log").read_text(errors="replace").strip().splitlines()
        raise PeerError(f"{name} did not start: {said[-1] if said else 'it said nothing'}")

    def _spawn(
        self,
        command: list[str],
        name: str,
        *,
        environ: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
    ) -> subprocess.Popen[bytes]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}
        log = self._stack.enter_context((self.work / f"{name}.log").open("wb"))
        child = subprocess.Popen(  # noqa: S603 - the commands above
            command,
            stdin=stdin,
            stdout=log if stdout is None else stdout,
            stderr=log,
            env={**kept, "HOME": str(self.work), **(environ or {})},
        )
        self._stack.callback(ended, child)
        return child


def ended(child: subprocess.Popen[bytes]) -> None:
    """Ends a process."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(3)
        except subprocess.TimeoutExpired:
            for pid in machine.family(child.pid):
                os.kill(pid, 9)
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def answers(port: int, path: str) -> bool:
    """Whether a server there answers, with anything but an error of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
