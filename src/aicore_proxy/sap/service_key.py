"""A subaccount's service key: the JSON that SAP BTP gives out, read into plain values and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from aicore_proxy.sap.certificate import problem_of

FILE_LIMIT = 1024 * 1024  # bytes of a file that holds credentials


class CredentialsError(Exception):
    """What is wrong with the credentials that were found, one problem a line, with file and member, never a value. Fit
    for a terminal and a log line, whatever the file is called."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(each if each.isprintable() else ascii(each)[1:-1] for each in problems)
        super().__init__("\n".join(self.problems))


class Secret(Struct, frozen=True):
    """A text that never shows in logs, tracebacks and representations."""

    value: str = ""

    def __bool__(self) -> bool:
        return bool(self.value)

    def __repr__(self) -> str:
        return "Secret('****')" if self.value else "Secret('')"

    def __str__(self) -> str:
        return "****" if self.value else ""


class ServiceKey(Struct, frozen=True):
    """One subaccount's credentials: a client secret, or an X.509 certificate with its key (PEM).

    ``name``: its alias; ``token_url``: complete, with ``/oauth/token``, at the host that the kind of credentials
    needs; ``api_url``: base of the AI API without ``/v2``; ``resource_group``: that SAP's SDKs would use."""

    name: str
    client_id: str
    client_secret: Secret
    token_url: str
    api_url: str
    identity_zone_id: str = ""
    resource_group: str | None = None
    certificate: str = ""
    key: Secret = Secret()

    @property
    def by_certificate(self) -> bool:
        """Whether tokens are asked for with the certificate instead of a secret."""
        return bool(self.certificate) and not self.client_secret

    def same_subaccount(self, other: ServiceKey) -> bool:
        """Whether ``other`` opens the same subaccount: SAP rotates a service key by making another, with a client id
        and secret of its own in the same identity zone."""
        same_zone = bool(self.identity_zone_id) and self.identity_zone_id == other.identity_zone_id
        return self.api_url == other.api_url and (same_zone or self.client_id == other.client_id)


def service_key(raw: Mapping[str, Any], name: str, source: str, resource_group: str = "") -> ServiceKey:
    """A ServiceKey of the JSON that SAP BTP gives out, also wrapped in ``{"credentials": …}``. Base URLs may end in
    ``/v2``, token URLs in ``/oauth/token``. Raises CredentialsError with all problems; ``source`` is for its words.

    As in SAP's Python SDK a secret or a certificate with its key must be there, and not both; the certificate is shown
    to ``certurl``, or to ``url`` where there is no other."""
    if isinstance(inner := raw.get("credentials"), dict) and "clientid" not in raw:
        raw = inner
    problems: list[str] = []
    urls = raw.get("serviceurls")
    if isinstance(urls, str):  # mounted bindings hold nested values as JSON texts
        urls = decoded(urls, f"{source}: serviceurls")
    api_url = text(urls, "AI_API_URL") if isinstance(urls, dict) else ""
    certificate, private = pem(text(raw, "certificate")), pem(text(raw, "key"))
    secret = text(raw, "clientsecret")
    by_certificate = not secret and bool(certificate or private)
    token_member = "certurl" if by_certificate and text(raw, "certurl") else "url"
    key = ServiceKey(
        name=name,
        client_id=text(raw, "clientid"),
        client_secret=Secret(secret),
        token_url=url_of(text(raw, token_member), "/oauth/token", problems, f"{source}: {token_member}"),
        api_url=url_of(api_url or text(raw, "AI_API_URL"), "/v2", problems, f"{source}: serviceurls.AI_API_URL"),
        identity_zone_id=text(raw, "identityzoneid"),
        resource_group=text(raw, "resourceGroup") or resource_group or None,
        certificate=certificate,
        key=Secret(private),
    )
    if not key.client_id:
        problems.append(f"{source}: clientid is missing")
    problems += [f"{source}: {problem}" for problem in _proof_problems(key)]
    if problems:
        raise CredentialsError(problems)
    return msgspec.structs.replace(key, token_url=key.token_url + "/oauth/token")


def _proof_problems(key: ServiceKey) -> list[str]:
    if key.client_secret:
        both = key.certificate and key.key
        return ["both clientsecret and certificate are given: leave one of them out"] if both else []
    if not key.certificate and not key.key:
        return ["clientsecret is missing (or, of an X.509 key, certificate and key)"]
    if not key.certificate or not key.key:
        return [f"{'key' if key.certificate else 'certificate'} is missing"]
    problem = problem_of(key.certificate, key.key.value)
    insecure = key.token_url.startswith("http:")
    return [*([problem] if problem else []), *(["certurl is not an https URL"] if insecure else [])]


def url_of(value: str, ending: str, problems: list[str], where: str) -> str:
    """``value`` without ``ending`` and slashes at its end; notes a problem where it is no http(s) URL."""
    base = value.strip().rstrip("/").removesuffix(ending).rstrip("/")
    if not base:
        problems.append(f"{where} is missing")
        return ""
    try:
        parts = urlsplit(base)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.username
    except ValueError:
        fine = False
    if not fine:
        problems.append(f"{where} is not an http(s) URL")
    return base


def read(path: Path) -> str:
    """A file of credentials. Raises CredentialsError."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT + 1)
        if len(content) > FILE_LIMIT:
            raise CredentialsError([f"{path} is longer than {FILE_LIMIT} bytes"])
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:  # also a path that is none, and what is not UTF-8
        reason = error.strerror if isinstance(error, OSError) else "not a path of UTF-8"
        # Somebody may have given the key itself in the place of its path
        shown = str(path) if str(path).isprintable() and "-----BEGIN" not in str(path) else "what is given as a path"
        raise CredentialsError([f"{shown} cannot be read: {reason}"]) from None


def path_of(given: str) -> Path:
    """A path that somebody wrote; ``~`` is their home, where that is known."""
    path = Path(given)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def decoded(document: str, source: str) -> Mapping[str, Any]:
    """The JSON object of a text, an empty one of an empty text. Raises CredentialsError."""
    if not document.strip():
        return {}
    try:
        value = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        # the reason would quote nothing, but its position helps nobody either
        raise CredentialsError([f"{source} is not valid JSON"]) from None
    if not isinstance(value, dict):
        raise CredentialsError([f"{source} is not a JSON object"])
    return value


def text(raw: Mapping[str, Any], member: str) -> str:
    value = raw.get(member)
    return value.strip() if isinstance(value, str) else ""


def pem(value: str) -> str:
    """Line ends may arrive as the two characters that stand for them in JSON."""
    return value.replace("\\r", "").replace("\\n", "\n")


def alias_of(name: str) -> str:
    """An alias for metrics, headers and log lines of what somebody called an instance, a file or a folder."""
    return re.sub(r"[^A-Za-z0-9._@-]+", "-", name).strip("-")[:64] or "default"
