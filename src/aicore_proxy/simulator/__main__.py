"""``python -m aicore_proxy.simulator``."""

from aicore_proxy.simulator.cli import simulate

if __name__ == "__main__":
    simulate()
