"""Every setting: its variable, its default, its meaning. Read once, at the start."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

PREFIX = "AICORE_PROXY_"
DEFAULT_PORT = 3001
STRATEGIES = ("auto", "affinity", "round_robin", "least_outstanding", "weighted")


MAY_BE_NONE = ("recovery_wait", "retry_share", "retry_always")


class SettingsError(Exception):
    """What is wrong with the settings: every problem, one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings, each ``AICORE_PROXY_<NAME>`` in the environment. Times in seconds, sizes in bytes.

    Defaults and their reasons: docs/configuration.md.
    """

    host: str = "127.0.0.1"
    """Address to listen on. A public one needs a key."""
    port: int = DEFAULT_PORT
    """Port to listen on; ``PORT`` (Cloud Foundry) comes before this variable, ``--port`` before both."""
    api_key: str = ""
    """The one key that clients use. Empty: one is made, kept in the state folder and printed once."""
    service_keys: str = ""
    """Folder of service keys, one JSON file per subaccount. Set: SAP's own sources are ignored."""
    simulator_port: int = 0
    """Port of the embedded simulator in demo mode; 0: a free one."""
    body_limit: int = 64 * 1024 * 1024
    """Largest request body, also after inflation."""
    connect_timeout: float = 10.0
    """For a new connection to SAP, with TLS."""
    first_byte_timeout: float = 600.0
    """Until the first byte of an answer."""
    stream_head_timeout: float = 120.0
    """Until the head of a stream, while another deployment could still be asked."""
    between_bytes_timeout: float = 600.0
    """Between two pieces of an answer."""
    deadline: float = 600.0
    """Until the first content, over all attempts."""
    max_attempts: int = 5
    """Deployments asked for one request, at most."""
    strategy: str = "auto"
    """Who is asked first: ``affinity`` (where the conversation's prompt is cached), ``round_robin``,
    ``least_outstanding`` or ``weighted``; ``auto``: affinity for models that cache prompts, else least_outstanding."""
    breakers: bool = True
    """Whether failing deployments are left alone for a while: breakers, cooldowns after a 429, vanished ones."""
    breaker_failures: int = 5
    """Failures in a row that open a breaker."""
    breaker_error_share: float = 0.5
    """Share of at least 20 answers in 30 seconds that opens it."""
    breaker_open_time: float = 10.0
    """How long it stays open at first; twice as long after each failed probe."""
    breaker_longest: float = 120.0
    """How long it stays open at most."""
    recovery_wait: float = 10.0
    """How long a request waits, at most, where all deployments of its model cool down after a 429."""
    retry_share: float = 0.2
    """Attempts beyond the first at deployments that failed last, as a share of the model's requests of 10 seconds."""
    retry_always: float = 10.0
    """Such attempts allowed besides, per second."""
    hold: float = 10.0
    """How long a stream's status is held back while nothing has come: until then a fault is a status."""
    keepalive: float = 15.0
    """Silence on a stream after which a keep-alive goes to the client."""
    head_timeout: float = 20.0
    """For a request's head, from its first byte."""
    head_limit: int = 64 * 1024
    """Largest request head."""
    idle_timeout: float = 75.0
    """For a connection without a request."""
    body_gap_timeout: float = 30.0
    """Between two pieces of a request's body."""
    stuck_timeout: float = 600.0
    """For a client that takes nothing of its answer."""
    pool_idle: float = 30.0
    """For an unused connection to SAP."""
    discovery_interval: float = 300.0
    """Between two looks for deployments, plus or minus a tenth."""
    workers: int = 1
    """Processes that serve. Several use several cores; each has its own connections to SAP."""
    drain_delay: float = 5.0
    """After SIGTERM: not ready, but still serving, so that balancers notice first."""
    drain_timeout: float = 120.0
    """Then, for the answers that are in flight; what is not done by then ends with an error."""
    cors_origins: str = ""
    """Origins that browsers may call from, separated by commas; ``*``: all. Empty: none."""
    openapi: bool = True
    """Whether the OpenAPI page is served (at /docs)."""
    log_level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``."""


def from_environment(environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> Settings:
    """The Settings of an environment; ``overrides`` (command-line options, None: not given) come before it.

    Raises SettingsError with every problem at once: unknown variables of our prefix, values of the wrong form.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    types = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or not text:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in types:
            near = difflib.get_close_matches(name, types, 1)
            hint = f" Did you mean {PREFIX}{near[0].upper()}?" if near else ""
            problems.append(f"{variable} is not a setting.{hint}")
            continue
        _take(values, problems, variable, name, types[name], text)
    if environ.get("PORT"):
        _take(values, problems, "PORT", "port", int, environ["PORT"])
    values |= {name: value for name, value in (overrides or {}).items() if value is not None}
    settings = Settings(**values)
    problems += _unfit(settings)
    if problems:
        raise SettingsError(problems)
    return settings


def _take(values: dict[str, Any], problems: list[str], variable: str, name: str, kind: Any, text: str) -> None:
    try:
        values[name] = msgspec.convert(text.strip(), kind, strict=False)
    except msgspec.ValidationError:
        wanted = {int: "a whole number", float: "a number of seconds", bool: "true or false"}.get(kind, "text")
        problems.append(f"{variable} must be {wanted}.")


def _unfit(settings: Settings) -> list[str]:
    problems = []
    if not 0 <= settings.port <= 65535 or not 0 <= settings.simulator_port <= 65535:
        problems.append("A port must be between 0 and 65535.")
    if settings.log_level not in ("debug", "info", "warning", "error"):
        problems.append(f"{PREFIX}LOG_LEVEL must be debug, info, warning or error.")
    if settings.body_limit < 1024 or settings.max_attempts < 1:
        problems.append(f"{PREFIX}BODY_LIMIT must be at least 1024, {PREFIX}MAX_ATTEMPTS at least 1.")
    if not 1 <= settings.workers <= 256:
        problems.append(f"{PREFIX}WORKERS must be between 1 and 256.")
    if settings.strategy not in STRATEGIES:
        problems.append(f"{PREFIX}STRATEGY must be one of {', '.join(STRATEGIES)}.")
    if settings.breaker_failures < 1 or not 0 < settings.breaker_error_share <= 1:
        problems.append(
            f"{PREFIX}BREAKER_FAILURES must be at least 1, {PREFIX}BREAKER_ERROR_SHARE more than 0, at most 1."
        )
    times = [
        f.name
        for f in msgspec.structs.fields(Settings)
        if f.type is float and not (0 if f.name in MAY_BE_NONE else 1e-9) <= getattr(settings, f.name) < 1e9
    ]
    problems += [f"{PREFIX}{name.upper()} must be more than 0 seconds and less than 1e9." for name in times]
    return problems


def state_folder(environ: Mapping[str, str]) -> Path:
    """Where the proxy keeps what must outlive it: ``$XDG_STATE_HOME/aicore-proxy``."""
    base = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".local" / "state")
    return Path(base) / "aicore-proxy"
