"""The client's address behind proxies that the operator trusts.

Only ``X-Forwarded-For`` counts, and only from a trusted peer: a proxy that adds to one field passes the others on as
the client wrote them, so reading ``Forwarded`` as well would let the client choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

HOPS = 32
"""Addresses of the field that are looked at, from the right."""
LONGEST = 64


class TrustedProxies:
    """The networks whose ``X-Forwarded-For`` is believed. Immutable."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def client(self, peer: str, fields: Sequence[tuple[bytes, bytes]]) -> str:
        """The address of the client: the rightmost one that no trusted proxy has, as text.

        ``peer``: the connection's other end; ``fields``: the request's, names in lower case. What cannot be read ends
        the search: the client is then the last proxy before it. Raises nothing.
        """
        hop = address_of(peer)
        if hop is None or not self._trusts(hop):
            return peer
        given = b",".join(value for name, value in fields if name == b"x-forwarded-for").decode("latin-1")
        for entry in reversed(given.rsplit(",", HOPS)[-HOPS:]):
            before = address_of(entry)
            if before is None:
                break
            hop = before
            if not self._trusts(hop):
                break
        return str(hop)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def trusted_proxies(entries: Iterable[str]) -> TrustedProxies:
    """Of addresses and networks (``10.0.0.0/8``, ``::1``). Raises ValueError that names the entry."""
    networks = []
    for entry in entries:
        try:
            networks.append(ip_network(entry.strip(), strict=False))
        except ValueError:
            raise ValueError(f"'{entry}' is neither an IP address nor a network such as 10.0.0.0/8") from None
    return TrustedProxies(networks)


def address_of(entry: str) -> Address | None:
    """An address as proxies write it: alone, with a port, in brackets, with a zone; an IPv4-mapped one as IPv4."""
    text = entry.strip()
    if len(text) > LONGEST:
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        # Only IPv6 has zones
        parsed = ip_address(text.partition("%")[0] if ":" in text else text)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed
