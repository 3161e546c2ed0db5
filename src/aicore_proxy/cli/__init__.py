"""The command ``aicore-proxy``: one module per command."""

from __future__ import annotations

import click

from aicore_proxy import __version__
from aicore_proxy.cli.bench import bench
from aicore_proxy.cli.chat import chat
from aicore_proxy.cli.completion import completion
from aicore_proxy.cli.config import config
from aicore_proxy.cli.connect.command import connect
from aicore_proxy.cli.doctor.command import doctor
from aicore_proxy.cli.health import health
from aicore_proxy.cli.models import models
from aicore_proxy.cli.serve import run, serve
from aicore_proxy.cli.simulate import simulate
from aicore_proxy.cli.why import why


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="aicore-proxy")
def main() -> None:
    """An LLM proxy for SAP AI Core: OpenAI and Anthropic clients on every model family."""


main.add_command(run)
main.add_command(serve)
main.add_command(simulate)
main.add_command(doctor)
main.add_command(models)
main.add_command(config)
main.add_command(health)
main.add_command(completion)
main.add_command(chat)
main.add_command(bench)
main.add_command(why)
main.add_command(connect)
