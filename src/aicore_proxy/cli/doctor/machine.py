"""What of this machine the proxy depends on: settings, variables, files, the port. Everything blocks, nothing hangs."""

from __future__ import annotations

import datetime
import http.client
import socket
import ssl
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from aicore_proxy.cli.doctor.finding import Section
from aicore_proxy.cli.here import address_of, readiness
from aicore_proxy.config.settings import Settings
from aicore_proxy.sap.certificate import validity
from aicore_proxy.server.keyfile import FILE_NAME
from aicore_proxy.upstream import CA_VARIABLES, Proxies, tls_context, without_credentials

ENOUGH_DESCRIPTORS = 4096
"""Every stream takes two."""
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def look_at_keys(section: Section, settings: Settings, state: Path) -> None:
    """Clients' keys, as far as they let the proxy start."""
    configured = len(settings.keys) + bool(settings.api_key)
    kept = state / FILE_NAME
    if configured:
        section.ok("client_keys", "Client keys", f"{configured} configured", configured=configured)
    elif kept.is_file():
        section.ok("client_keys", "Client keys", f"the one kept in {kept}", configured=0)
    else:
        section.ok("client_keys", "Client keys", f"none yet: one is made at the first start, in {kept}", configured=0)


def look_at_state(section: Section, state: Path, *, needed: bool) -> None:
    """Whether the state folder can be written. ``needed``: the clients' key must be kept there."""
    existing = state
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        words = f"{state} cannot be written: {error.strerror or error}"
        tell = section.fail if needed else section.warn
        consequence = "the clients' key cannot be kept" if needed else "a start without SAP will know no deployments"
        advice = (f"Give the proxy's user the right to write {existing}, or set XDG_STATE_HOME ({consequence}).",)
        tell("state_folder", "State folder", words, advice, path=str(state))
        return
    section.ok("state_folder", "State folder", f"{state} can be written", path=str(state))


def look_at_descriptors(section: Section) -> None:
    """How many connections this process may have."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = soft if hard == resource.RLIM_INFINITY else max(soft, hard)
    if resource.RLIM_INFINITY in (soft, most):
        section.ok("descriptors", "Open files", "as many as wanted", limit=None)
    elif most < ENOUGH_DESCRIPTORS:
        advice = ("Raise it: ulimit -n 65536, LimitNOFILE=65536 in a systemd unit, --ulimit nofile=65536 in Docker.",)
        words = f"at most {most}, so about {most // 2} streams at a time"
        section.warn("descriptors", "Open files", words, advice, limit=most)
    else:
        section.ok("descriptors", "Open files", f"at most {most}", limit=most)


def look_at_port(section: Section, settings: Settings) -> None:
    """Whether ``serve`` could listen, or does already."""
    where = f"{settings.port} on {settings.host}"
    if settings.port == 0:
        section.ok("port", "Port", "any free one", port=0)
        return
    try:
        _bind(settings.host, settings.port)
    except OSError as error:
        if error.errno is not None and _is_ours(settings):
            section.ok("port", "Port", f"{where}: an aicore-proxy is running there", port=settings.port, running=True)
            return
        advice = (
            f"Another process has it (which: ss -ltnp 'sport = :{settings.port}'). End it, or choose another: --port",
        )
        if isinstance(error, socket.gaierror):
            advice = ("AICORE_PROXY_HOST must be an address of this machine; 127.0.0.1 is its own, 0.0.0.0 means all.",)
        elif error.errno == 13:
            advice = ("Ports below 1024 are the system's: choose another, or give the process CAP_NET_BIND_SERVICE.",)
        elif error.errno == 99:
            advice = (f"{settings.host} is no address of this machine: 127.0.0.1 is its own, 0.0.0.0 means all.",)
        section.fail("port", "Port", f"{where} cannot be opened: {error.strerror or error}", advice, port=settings.port)
        return
    section.ok("port", "Port", f"{where} is free", port=settings.port, running=False)


def _bind(host: str, port: int) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen(1)  # two may bind with that option, but only one listens


def _is_ours(settings: Settings) -> bool:
    """Whether what listens there answers as this proxy does."""
    tls = bool(settings.tls_certificate)
    try:
        with readiness(address_of(settings.host), settings.port, tls=tls, timeout=3) as answer:
            return answer.status in (200, 503) and b'ready"}' in answer.read(4096)
    except (OSError, http.client.HTTPException):
        return False


def look_at_certificate(section: Section, settings: Settings) -> None:
    """The proxy's own certificate, where it has one."""
    if not settings.tls_certificate:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password="-")  # noqa: S106 - none is asked for
        between = validity(Path(settings.tls_certificate).read_text(encoding="ascii", errors="replace"))
    except OSError as error:  # ssl.SSLError is one
        advice = ("tls_certificate and tls_key must be PEM files that belong together, the key without a password.",)
        section.fail("own_certificate", "Own certificate", f"cannot be used: {error.strerror or error}", advice)
        return
    tell_validity(
        section, "own_certificate", "Own certificate", between, "Renew it: the proxy reads it again by itself."
    )


def look_at_ca_variables(section: Section, environ: Mapping[str, str]) -> ssl.SSLContext | None:
    """CA bundles; None where one cannot be read, which keeps the proxy from starting."""
    given = {name: environ[name].strip() for name in CA_VARIABLES if environ.get(name, "").strip()}
    try:
        context = tls_context(environ)
    except ValueError as error:
        variable = next((name for name in given if name in str(error)), "that variable")
        advice = (
            f"Correct the path, or unset {variable}: it must be a file of PEM certificates, or a folder of them.",
        )
        section.fail("ca_bundle", "Trusted CAs", str(error), advice, variables=given)
        return None
    if not given and not context.get_ca_certs() and not ssl.get_default_verify_paths().capath:
        advice = ("Install the system's CA certificates (package ca-certificates), or name a bundle in SSL_CERT_FILE.",)
        section.warn("ca_bundle", "Trusted CAs", "this machine trusts none", advice, variables={})
        return context
    more = f", and {', '.join(f'{name}={value}' for name, value in given.items())}" if given else ""
    section.ok("ca_bundle", "Trusted CAs", f"the system's{more}", variables=given)
    return context


def look_at_proxies(section: Section, environ: Mapping[str, str]) -> Proxies | None:
    """HTTP proxies of the environment; None where they keep the proxy from starting."""
    try:
        proxies = Proxies.from_environ(environ)
    except ValueError as error:
        advice = ("Only HTTP proxies are spoken to: set HTTPS_PROXY=http://host:port, or unset the variable.",)
        section.fail("http_proxy", "HTTP proxies", str(error), advice)
        return None
    given = (("http", proxies.http), ("https", proxies.https))
    shown = {scheme: without_credentials(proxy) for scheme, proxy in given if proxy}
    both = [name for name in PROXY_VARIABLES if _differ(environ, name)]
    for name in both:
        words = f"{name} and {name.upper()} differ: {name} counts here, other programs take the other"
        section.warn("http_proxy", "HTTP proxies", words, (f"Unset one of them: unset {name.upper()}",))
    if odd := list(_not_understood(proxies.bypass)):
        advice = ("Write host names or their endings (.corp.example), separated by commas.",)
        words = f"NO_PROXY: {', '.join(odd)} means nothing here: hosts are compared by name, not by network"
        section.warn("http_proxy", "HTTP proxies", words, advice)
    if not shown:
        section.ok("http_proxy", "HTTP proxies", "none are set", **shown)
        return proxies
    ways = "; ".join(f"{scheme}: {proxy}" for scheme, proxy in shown.items())
    but = f"; not for {proxies.bypass}" if proxies.bypass else ""
    section.ok("http_proxy", "HTTP proxies", f"{ways}{but}", **shown, bypass=proxies.bypass)
    return proxies


def _differ(environ: Mapping[str, str], name: str) -> bool:
    lower, upper = environ.get(name, "").strip(), environ.get(name.upper(), "").strip()
    return bool(lower and upper and lower != upper)


def _not_understood(bypass: str) -> Iterable[str]:
    for entry in (part.strip() for part in bypass.split(",")):
        if "/" in entry or " " in entry or ("*" in entry and entry != "*" and not entry.startswith("*.")):
            yield entry


def tell_validity(
    section: Section, check: str, subject: str, between: tuple[datetime.datetime, datetime.datetime] | None, advice: str
) -> None:
    """How long a certificate is still good: a warning in its last days."""
    if between is None:
        section.note(check, subject, "its dates cannot be read")
        return
    begins, ends = between
    now = datetime.datetime.now(datetime.UTC)
    data = {"not_before": begins.isoformat(), "not_after": ends.isoformat()}
    when = f"{ends:%Y-%m-%d %H:%M} UTC"
    if now < begins:
        section.fail(check, subject, f"is not valid before {begins:%Y-%m-%d %H:%M} UTC", (advice,), **data)
    elif now > ends:
        section.fail(check, subject, f"expired on {when}", (advice,), **data)
    elif (left := ends - now) < datetime.timedelta(days=2):
        section.warn(check, subject, f"expires on {when}, in {left.total_seconds() / 3600:.0f} h", (advice,), **data)
    else:
        section.ok(check, subject, f"valid until {when}, {left.days} days", **data)
