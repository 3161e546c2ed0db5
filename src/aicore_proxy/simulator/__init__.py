"""A faithful, scriptable SAP AI Core for development, demos, tests and benchmarks (docs/simulator.md).

A house of its own: it shares no code with the proxy, so that a mistake in one does not hide one in the other.
"""

from aicore_proxy.simulator.app import Simulator
from aicore_proxy.simulator.landscape import DeploymentSpec, Landscape, SubaccountSpec, Switches, demo, simple
from aicore_proxy.simulator.running import Running, in_thread, running

__all__ = [
    "DeploymentSpec",
    "Landscape",
    "Running",
    "Simulator",
    "SubaccountSpec",
    "Switches",
    "demo",
    "in_thread",
    "running",
    "simple",
]
