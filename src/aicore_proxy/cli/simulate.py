"""``aicore-proxy simulate``: the simulator of SAP AI Core, by itself."""

from aicore_proxy.simulator.cli import simulate

__all__ = ["simulate"]
