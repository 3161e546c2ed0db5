"""``aicore-proxy completion``: the script that lets a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

COMMAND = "aicore-proxy"
VARIABLE = "_AICORE_PROXY_COMPLETE"
"""Set by the script when it asks the command for completions; click derives the same name from the command's."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash: aicore-proxy completion bash > ~/.local/share/bash-completion/completions/aicore-proxy
    zsh:  aicore-proxy completion zsh > "${fpath[1]}/_aicore-proxy"
    fish: aicore-proxy completion fish > ~/.config/fish/completions/aicore-proxy.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells of the choice"
    click.echo(kind(context.find_root().command, {}, COMMAND, VARIABLE).source())
