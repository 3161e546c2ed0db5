"""X.509 credentials: a certificate chain and its private key, as PEM texts.

SAP BTP hands them out inside the service key (SAP AI Core wire facts, section 1.1), valid for seven days by default.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

_FIRST = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


def load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Gives ``context`` a certificate to show. OpenSSL only reads files: it gets one in memory, or for a moment one
    that only this user may read. Raises ssl.SSLError, OSError; ``problem_of`` says why in words."""
    with _as_file(f"{key.strip()}\n{certificate.strip()}\n".encode()) as path:
        # A password, so that an encrypted key is an error and not a question on the terminal
        context.load_cert_chain(path, password="-")  # noqa: S106


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    descriptor, path = tempfile.mkstemp(prefix="aicore-proxy-", suffix=".pem")  # mode 600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        yield path
    finally:
        Path(path).unlink(missing_ok=True)


def problem_of(certificate: str, key: str) -> str:
    """What is wrong with the pair, in words that quote nothing of it; empty where nothing is."""
    if "-----BEGIN CERTIFICATE-----" not in certificate:
        return "certificate is not a PEM certificate"
    if "ENCRYPTED" in key:
        return "key is encrypted: a private key without a password is needed"
    if "PRIVATE KEY-----" not in key:
        return "key is not a PEM private key"
    try:
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return "key does not belong to the certificate"
        return "certificate and key cannot be read as PEM"
    except OSError as error:
        return f"certificate and key cannot be given to OpenSSL: {error.strerror}"
    return ""


def validity(certificate: str) -> tuple[datetime.datetime, datetime.datetime] | None:
    """From when to when the first certificate of a chain is valid (UTC); None where that cannot be read."""
    if (first := _FIRST.search(certificate)) is None:
        return None
    try:
        return _validity(ssl.PEM_cert_to_DER_cert(first[0]))
    except (ValueError, IndexError):
        return None


def _validity(der: bytes) -> tuple[datetime.datetime, datetime.datetime]:
    """RFC 5280, section 4.1: the certificate's body is [version,] serial, algorithm, issuer, validity, ..."""
    _, body, _ = _element(der, 0)
    _, at, _ = _element(der, body)
    tag, _, after = _element(der, at)
    if tag == _VERSION:
        _, _, after = _element(der, after)
    for _ in range(2):
        _, _, after = _element(der, after)
    tag, at, _ = _element(der, after)
    if tag != _SEQUENCE:
        raise ValueError("no validity where it must be")
    times = []
    for _ in range(2):
        kind, start, at = _element(der, at)
        times.append(_time(kind, der[start:at].decode("ascii")))
    return times[0], times[1]


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the content of the DER element at ``at``."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[start : start + size], "big"), start + size
    return tag, start, start + length


def _time(kind: int, text: str) -> datetime.datetime:
    if kind not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("not a time")
    form = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.datetime.strptime(text, form).replace(tzinfo=datetime.UTC)
