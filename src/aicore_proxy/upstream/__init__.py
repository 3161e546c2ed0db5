"""The HTTP client behind one Protocol: ``send(UpstreamRequest) -> UpstreamResponse``.

HTTP/1.1 with a pool, proxies and CA bundles of the environment, one repeat on a fresh connection when a pooled one was
already dead (whatever the method), a deadline for the head and one between bytes, and connections that end at once when
nobody wants their answer any more.
"""

from __future__ import annotations

from aicore_proxy.upstream.client import PooledUpstream
from aicore_proxy.upstream.routes import CA_VARIABLES, Proxies, Target, target_of, tls_context, without_credentials
from aicore_proxy.upstream.seam import Phase, Timeouts, Upstream, UpstreamError, UpstreamRequest, UpstreamResponse

__all__ = [
    "CA_VARIABLES",
    "Phase",
    "PooledUpstream",
    "Proxies",
    "Target",
    "Timeouts",
    "Upstream",
    "UpstreamError",
    "UpstreamRequest",
    "UpstreamResponse",
    "target_of",
    "tls_context",
    "without_credentials",
]
