"""The OAuth token endpoint and the check of bearer tokens (SAP AI Core wire facts, sections 1.3 and 8.2)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import itertools
import re
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from aicore_proxy.simulator.landscape import Subaccount

_KEY = hashlib.sha256(b"aicore simulator token key").digest()
_CACHED = 10_000
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class Refused(Exception):
    """A token request or a token that is not accepted: the text that the client sees."""


class Tokens:
    """Mints and checks tokens. Stateless but for a cache: the life stands in the token, signed."""

    def __init__(self, subaccounts: Mapping[str, Subaccount]) -> None:
        self._subaccounts = subaccounts
        self._cache: dict[str, tuple[str, float, int]] = {}
        self._serial = itertools.count(1)

    def credentials(
        self, headers: Mapping[str, str], query: Mapping[str, str], body: bytes, certificate: bytes | None = None
    ) -> Subaccount:
        """The subaccount that asks: from the body, HTTP Basic or the query, or by the certificate that the connection
        showed (DER), with the client id in the body. Raises Refused."""
        form = dict(query) | dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        if form.get("grant_type") != "client_credentials":
            raise Refused("Missing grant type" if "grant_type" not in form else "Unauthorized grant type")
        if certificate is not None:
            return self._certified(form.get("client_id", ""), certificate)
        offered = [(form.get("client_id", ""), form.get("client_secret", ""))]
        if headers.get("authorization", "").lower().startswith("basic "):
            offered += _basic(headers["authorization"][6:])
        for client, secret in offered:
            for subaccount in self._subaccounts.values():
                if subaccount.certificate or client != subaccount.client_id:
                    continue
                if hmac.compare_digest(secret.encode(), subaccount.client_secret.encode()):
                    return subaccount
        raise Refused("Bad credentials")

    def _certified(self, client: str, certificate: bytes) -> Subaccount:
        for subaccount in self._subaccounts.values():
            if client == subaccount.client_id and certificate == der_of(subaccount.certificate):
                return subaccount
        raise Refused("Bad credentials")

    def mint(self, subaccount: Subaccount, life: int, issuer: str) -> dict[str, Any]:
        """The token response."""
        now = int(time.time())
        jti = hashlib.sha256(f"{subaccount.name}{now}{next(self._serial)}".encode()).hexdigest()[:32]
        claims = {
            "jti": jti,
            "sub": subaccount.client_id,
            "client_id": subaccount.client_id,
            "cid": subaccount.client_id,
            "azp": subaccount.client_id,
            "scope": ["uaa.resource"],
            "grant_type": "client_credentials",
            "zid": subaccount.zone_id,
            "subaccountid": subaccount.zone_id,
            "iss": f"{issuer}/oauth/token",
            "aud": [subaccount.client_id, "uaa"],
            "iat": now,
            "exp": now + life,
            # Not a claim of SAP's: what makes a token revocable here.
            "simulator": {"subaccount": subaccount.name, "generation": subaccount.generation},
        }
        head = _b64(
            msgspec.json.encode({"alg": "RS256", "jku": f"{issuer}/token_keys", "kid": "default", "typ": "JWT"})
        )
        signed = f"{head}.{_b64(msgspec.json.encode(claims))}"
        token = f"{signed}.{_signature(signed)}"
        return {
            "access_token": token,
            "token_type": "bearer",
            "expires_in": life,
            "scope": "uaa.resource",
            "jti": jti,
        }

    def check(self, authorization: str | None) -> Subaccount:
        """The subaccount of a request's bearer token. Raises Refused with the mesh's text."""
        if not authorization:
            raise Refused("Jwt is missing")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refused("Jwt is missing")
        name, expires, generation = self._cache.get(token) or self._read(token.strip())
        subaccount = self._subaccounts.get(name)
        if subaccount is None:
            raise Refused("Jwt issuer is not configured")
        if expires <= time.time() or generation != subaccount.generation:
            raise Refused("Jwt is expired")
        return subaccount

    def _read(self, token: str) -> tuple[str, float, int]:
        signed, _, signature = token.rpartition(".")
        if signed.count(".") != 1:
            raise Refused("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")
        if not hmac.compare_digest(signature, _signature(signed)):
            raise Refused("Jwt verification fails")
        payload = signed.partition(".")[2]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        found = (claims["simulator"]["subaccount"], float(claims["exp"]), claims["simulator"]["generation"])
        if len(self._cache) >= _CACHED:
            self._cache.clear()
        self._cache[token] = found
        return found


def der_of(chain: str) -> bytes | None:
    """The first certificate of a PEM chain. None where there is none."""
    try:
        return ssl.PEM_cert_to_DER_cert(found[0]) if (found := _PEM.search(chain)) else None
    except ValueError:
        return None


def _basic(encoded: str) -> list[tuple[str, str]]:
    """Both readings of Basic: plain, and form-encoded as RFC 6749 has it."""
    try:
        client, _, secret = base64.b64decode(encoded).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return []
    return [(client, secret), (unquote(client), unquote(secret))]


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _signature(signed: str) -> str:
    return _b64(hmac.digest(_KEY, signed.encode(), "sha256"))
