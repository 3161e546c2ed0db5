"""TLS of our own: one certificate for the listener, replaced while it serves."""

from __future__ import annotations

import asyncio
import logging
import ssl
from hashlib import sha256
from pathlib import Path

from aicore_proxy.config.settings import Settings

log = logging.getLogger("aicore_proxy.edge")

INTERVAL = 5.0
"""Seconds between two looks at the files."""


class CertificateError(Exception):
    """The certificate cannot be used: which file, and why, in a sentence."""


class Certificate:
    """A certificate chain and its key, in PEM files. Owns the listener's context; lives in one event loop.

    The listener keeps one ``context`` for ever; each handshake is turned to the newest certificate by the server-name
    callback, which OpenSSL calls whether or not the client named a server. Connections that are open stay as they are.
    """

    def __init__(self, certificate: Path, key: Path | None = None) -> None:
        """``key``: None where it stands in the certificate's file. Raises CertificateError."""
        self._certificate = certificate
        self._key = key
        self._newest, self._seen = self._load()
        self._refused = b""
        self.context = self._newest
        self.context.sni_callback = self._turn

    def reload(self) -> bool:
        """Takes what the files hold now for new connections; whether that is another certificate than before.

        Raises CertificateError, and goes on with what it had, where they hold no pair that fits. Reads files: not for
        the event loop.
        """
        newest, seen = self._load()
        if seen == self._seen:
            return False
        self._newest, self._seen = newest, seen
        return True

    async def watch(self, interval: float = INTERVAL) -> None:
        """Reloads on change, for ever: work for a Supervisor. What cannot be used is logged once."""
        while True:
            await asyncio.sleep(interval)
            try:
                changed = await asyncio.to_thread(self.reload)
            except CertificateError as error:
                refused = str(error).encode()
                if refused != self._refused:
                    self._refused = refused
                    log.error("The certificate stays the one before: %s", error)
                continue
            self._refused = b""
            if changed:
                log.info("New connections get the new certificate of %s", self._certificate)

    def _load(self) -> tuple[ssl.SSLContext, bytes]:
        """A context with the files' certificate, and a hash of what they held."""
        key = self._key or self._certificate
        held = b"".join(sha256(_read(path)).digest() for path in (self._certificate, key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            why = getattr(error, "reason", None) or str(error)
            both = f"{self._certificate} and {key} are no" if key != self._certificate else f"{key} is no"
            raise CertificateError(f"{both} certificate with its key in PEM ({why}).") from None
        except OSError as error:
            raise CertificateError(f"{self._certificate} and {key} cannot be read: {error.strerror}.") from None
        return context, held

    def _turn(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._newest


def certificate_of(settings: Settings) -> Certificate | None:
    """The proxy's own certificate, None where it speaks plain HTTP. Raises CertificateError."""
    if not settings.tls_certificate:
        return None
    return Certificate(Path(settings.tls_certificate), Path(settings.tls_key) if settings.tls_key else None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}.") from None


def _no_password() -> str:
    """A key with a password is refused: OpenSSL would ask the terminal."""
    raise ValueError("the key is encrypted: give one without a password")
