"""``python -m aicore_proxy``."""

from aicore_proxy.cli import main

main()
