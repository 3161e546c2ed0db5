"""Every setting: its name, its default, its meaning. Read by load.py, checked as a whole by checks.py."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from msgspec import Struct, field

PREFIX = "AICORE_PROXY_"
DEFAULT_PORT = 3001
FALLBACK_REASONS = ("overload", "context_too_long", "content_filter")
STRATEGIES = ("auto", "affinity", "round_robin", "least_outstanding", "weighted")
SECRETS = frozenset({"api_key", "metrics_key", "key", "service_key", "hash"})
"""Fields whose values are shown nowhere: of a weak key the hash tells the key."""


class SettingsError(Exception):
    """What is wrong with the settings: every problem, one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SubaccountSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One SAP BTP subaccount with an AI Core service key."""

    name: str
    """Your own name for it: it stands in headers, logs and metrics."""
    service_key: dict[str, Any] | None = None
    """The service key, as SAP BTP gives it out."""
    service_key_file: str = ""
    """A file with the service key, relative to this file; read again when it changes."""
    resource_groups: tuple[str, ...] = ()
    """Those that are read; none: all that the key may see."""
    deployments: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names given to deployments by their ids: ``{my-model: [d0123456789abcdef]}``."""
    include: tuple[str, ...] = ()
    """Patterns of the models that are served from here; none: all."""
    exclude: tuple[str, ...] = ()
    """Patterns of the models that are not."""

    def __repr__(self) -> str:
        return f"SubaccountSettings(name={self.name!r}, …)"


class KeySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One key that clients use. One of ``key``, ``key_file`` and ``hash``."""

    name: str
    """It stands in logs and metrics."""
    key: str = ""
    """The key itself, or ``${VARIABLE}``."""
    key_file: str = ""
    """A file that holds the key, relative to this file; read again when it changes."""
    hash: str = ""
    """``sha256:`` and the 64 hexadecimal digits of the key's SHA-256."""
    models: tuple[str, ...] = ()
    """Patterns of the models it may use; none: all."""
    owner: str = ""
    """Who has it: for your eyes."""

    def __repr__(self) -> str:
        return f"KeySettings(name={self.name!r}, …)"


class ModelPatterns(Struct, frozen=True, forbid_unknown_fields=True):
    """Which models are served: patterns with ``*`` and ``?``, or ``re:`` and a regular expression."""

    include: tuple[str, ...] = ()
    """Those that are; none: all."""
    exclude: tuple[str, ...] = ()
    """Those that are not."""


class RoutingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Routing by model, deployment and subaccount."""

    strategies: dict[str, str] = field(default_factory=dict)
    """A strategy for models that a pattern meets, before ``strategy``: ``{"gpt-*": round_robin}``."""
    first_byte_timeouts: dict[str, float] = field(default_factory=dict)
    """Seconds for models that a pattern meets, before ``first_byte_timeout`` and ``stream_head_timeout``:
    ``{"gemini-*-flash*": 20}``."""
    weights: dict[str, float] = field(default_factory=dict)
    """For ``weighted``: a deployment's id or a subaccount's name -> its weight; others weigh 1, 0 is a reserve."""
    tiers: dict[str, int] = field(default_factory=dict)
    """A deployment's id or a subaccount's name -> its tier: the lowest is asked first; others are in tier 0."""
    limits: dict[str, int] = field(default_factory=dict)
    """A deployment's id -> requests in flight at most."""
    adaptive_limits: dict[str, bool] = field(default_factory=dict)
    """Whether limits are learned for models that a pattern meets, before ``adaptive_limit``: ``{"gpt-*": true}``."""
    fallbacks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """A name that clients use, or SAP's -> models that are asked, in order, where that one cannot answer."""
    fallback_on: tuple[str, ...] = FALLBACK_REASONS
    """When they are asked: ``overload`` (throttled, failing, timed out everywhere), ``context_too_long``,
    ``content_filter``."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings. Those of one value are also variables, ``AICORE_PROXY_<NAME>``. Times in seconds, sizes in bytes.

    Defaults and their reasons: docs/configuration.md.
    """

    host: str = "127.0.0.1"
    """Address to listen on. A public one needs a key."""
    port: int = DEFAULT_PORT
    """Port to listen on; ``PORT`` (Cloud Foundry) comes before this variable, ``--port`` before both."""
    api_key: str = ""
    """The one key that clients use, beside those of ``keys``. Where there is none at all, one is made, kept in the
    state folder and printed once."""
    api_key_file: str = ""
    """A file that holds ``api_key``."""
    metrics_key: str = ""
    """The one key that opens ``/metrics``, and nothing else. Empty: the clients' keys do, and nobody on this machine
    needs one."""
    metrics_key_file: str = ""
    """A file that holds ``metrics_key``."""
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
    probe_interval: float = 60.0
    """Between two looks at SAP for the subaccounts of deployments whose breaker is open: one that was stopped or moved
    is no longer waited for."""
    recovery_wait: float = 10.0
    """How long a request waits, at most, where all deployments of its model cool down after a 429."""
    retry_share: float = 0.2
    """Attempts beyond the first at deployments that failed last, as a share of the model's requests of 10 seconds."""
    retry_always: float = 10.0
    """Such attempts allowed besides, per second."""
    deployment_limit: int = 0
    """Requests in flight at each deployment, at most; 0: no limit. Each worker has an equal part, 1 at least.
    ``routing.limits`` sets others for some."""
    adaptive_limit: bool = False
    """Whether each deployment's limit of requests in flight is learned from its answers: one more after a round of
    successes, 0.7 of it after a 429 or an overload, 2 to 500. A limit that is set is the upper bound then.
    ``routing.adaptive_limits`` says otherwise for some models."""
    adaptive_start: int = 20
    """Requests in flight that a learned limit starts with, also after an outage."""
    queue_length: int = 256
    """Requests that may wait, per model, while its deployments have as many as they may have."""
    queue_wait: float = 30.0
    """How long they may wait."""
    max_requests: int = 10_000
    """Requests that a worker handles at once, at most, and no more than its descriptors allow; others get a 503."""
    body_memory: int = 256 * 1024 * 1024
    """Bytes of request bodies that a worker holds at most; what does not fit gets a 503."""
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
    survey_interval: float = 900.0
    """Between two looks for what only metrics show: deployments that do not run, and when models retire. 0: none."""
    workers: int = 1
    """Processes that serve. Several use several cores; each has its own connections to SAP."""
    drain_delay: float = 5.0
    """After SIGTERM: not ready, but still serving, so that balancers notice first."""
    drain_timeout: float = 120.0
    """Then, for the answers that are in flight; what is not done by then ends with an error."""
    cors_origins: str = ""
    """Origins that browsers may call from, separated by commas; ``*``: all. Empty: none."""
    explain: bool = True
    """Whether answers say in headers who answered, after how many attempts, and what the proxy itself took."""
    openapi: bool = True
    """Whether the OpenAPI page is served (at /docs)."""
    log_level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``."""
    log_format: str = "auto"
    """``json``, ``text``, or ``auto``: text on a terminal, else JSON."""
    record_keys: tuple[str, ...] = ()
    """Names of client keys whose requests are recorded, content and all; ``*``: of all. Empty: nothing is recorded."""
    record_until: str = ""
    """When recording ends by itself, like ``2027-03-01T12:00:00Z``. Empty: never."""
    record_folder: str = ""
    """Where recordings are kept. Empty: ``recordings`` in the folder for what outlives the proxy."""
    record_hours: float = 24.0
    """After which recordings are deleted."""
    record_megabytes: int = 256
    """That recordings may take; the oldest are deleted first."""
    resource_groups: tuple[str, ...] = ()
    """Resource groups that are read, of subaccounts that name none themselves. Empty: all that a key may see."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies whose X-Forwarded-For counts."""
    tls_certificate: str = ""
    """A PEM file with the proxy's own certificate and its chain: then it speaks TLS. Read again when it changes."""
    tls_key: str = ""
    """A PEM file with the certificate's private key. Empty: it stands in the certificate's file."""
    snapshot: bool = True
    """Whether the deployments found last are kept on disk, for a start while SAP's AI API cannot be reached."""
    subaccounts: tuple[SubaccountSettings, ...] = ()
    """The subaccounts. None: service keys are looked for where SAP's own SDKs look."""
    keys: tuple[KeySettings, ...] = ()
    """Keys that clients use."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Names for models: ``{fast: gpt-5-mini}``."""
    models: ModelPatterns = ModelPatterns()
    """Which models are served."""
    routing: RoutingSettings = RoutingSettings()
    """Routing by model, deployment and subaccount."""

    def __repr__(self) -> str:
        return f"Settings(host={self.host!r}, port={self.port}, …)"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def home_of(environ: Mapping[str, str]) -> Path:
    """The user's own folder; the working directory for a user who has none, as in some containers."""
    try:
        return Path(environ.get("HOME") or "~").expanduser()
    except RuntimeError:
        return Path.cwd()


def moment(text: str) -> float | None:
    """Unix seconds of an ISO 8601 time, in UTC where it names no zone; None: it is none."""
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)).timestamp()


def state_folder(environ: Mapping[str, str]) -> Path:
    """Where the proxy keeps what must outlive it: ``$XDG_STATE_HOME/aicore-proxy``."""
    return Path(environ.get("XDG_STATE_HOME") or home_of(environ) / ".local" / "state") / "aicore-proxy"
