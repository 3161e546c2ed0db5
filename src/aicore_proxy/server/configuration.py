"""What a proxy is built from, as one value: the parent of several workers hands it to each."""

from __future__ import annotations

from msgspec import Struct

from aicore_proxy.config.settings import Settings
from aicore_proxy.sap.credentials import ServiceKey
from aicore_proxy.server.compose import Proxy
from aicore_proxy.server.peers import Peers


class Configuration(Struct, frozen=True):
    """``api_key``: the clients' one. ``direct``: the upstream is on this machine. Holds secrets: never logged."""

    settings: Settings
    api_key: str
    service_keys: tuple[ServiceKey, ...]
    direct: bool = False

    def __repr__(self) -> str:
        return "Configuration(…)"

    def proxy(self, peers: Peers) -> Proxy:
        """A Proxy of it."""
        return Proxy(self.settings, self.api_key, self.service_keys, direct=self.direct, peers=peers)
