"""``aicore-proxy chat``: try a model in the terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from aicore_proxy.cli.chat_protocols import PROTOCOLS, Piece, Protocol, Turn, Usage
from aicore_proxy.cli.connect.choice import choice_of
from aicore_proxy.cli.connection import (
    Answer,
    Connection,
    ProxyError,
    asked,
    connection_of,
    connection_options,
    models_of,
)

HELP = """/model NAME  ask another model from now on     /models  list them
/clear       forget the conversation           /exit    end (Ctrl-D too)
A line that ends with \\ goes on in the next one. Ctrl-C stops an answer."""
INTERRUPTED = 130


@click.command()
@click.argument("model", required=False)
@click.argument("prompt", required=False)
@click.option(
    "--protocol", type=click.Choice(list(PROTOCOLS)), default="chat", show_default=True, help="What to speak."
)
@click.option("--system", default="", help="A system prompt.")
@click.option("--max-tokens", type=click.IntRange(1), default=None, help="Most tokens of one answer.")
@connection_options
def chat(
    model: str | None,
    prompt: str | None,
    protocol: str,
    system: str,
    max_tokens: int | None,
    url: str | None,
    key: str | None,
    config: Path | None,
) -> None:
    """Try a MODEL of a running proxy: one PROMPT (or what stands on the standard input), else a conversation.

    Without a MODEL a large one is chosen. The answer goes to the standard output, everything else to the standard
    error.
    """
    talk = Conversation(connection_of(url, key, config), PROTOCOLS[protocol], system, max_tokens or 0)
    try:
        talk.model = model or choice_of(models_of(talk.connection)).main
    except (ProxyError, LookupError) as error:
        raise click.ClickException(str(error)) from None
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
        if not prompt.strip():
            raise click.UsageError("There is no prompt: nothing stands on the standard input.")
    if prompt is None:
        _converse(talk)
        return
    try:
        talk.say(prompt)
    except ProxyError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


class Conversation:
    """The turns so far, and what is needed to go on. ``model`` may change between two turns."""

    def __init__(self, connection: Connection, protocol: Protocol, system: str, max_tokens: int) -> None:
        """``max_tokens`` 0: no bound of ours."""
        self.connection = connection
        self.model = ""
        self._protocol = protocol
        self._system = system
        self._max_tokens = max_tokens
        self._turns: list[Turn] = []

    def clear(self) -> None:
        self._turns = []

    def say(self, text: str) -> None:
        """Asks, and shows the answer while it comes. What came before Ctrl-C stays in the conversation, and so does
        nothing of a turn that failed. Raises ProxyError and KeyboardInterrupt."""
        self._turns.append(Turn("user", text))
        shown = _Shown()
        try:
            with self._asked() as answer:
                for piece in self._protocol.pieces(answer):
                    shown.add(piece)
                headers = answer.headers
            shown.end()
            click.echo(_dim(shown.summary(headers.get("x-aicore-proxy-model") or self.model, headers)), err=True)
        except BaseException:
            shown.end()
            raise
        finally:
            if shown.text:
                self._turns.append(Turn("assistant", shown.text))
            else:
                self._turns.pop()

    @contextlib.contextmanager
    def _asked(self) -> Iterator[Answer]:
        body = self._protocol.body(self.model, self._turns, self._system, self._max_tokens)
        headers = self._protocol.headers(self.connection.key.value)
        with asked(self.connection, self._protocol.path, headers, body) as answer:
            yield answer


class _Shown:
    """An answer as it appears on the terminal."""

    def __init__(self) -> None:
        self.text = ""
        self._usage: Usage | None = None
        self._finish = ""
        self._thinking = False
        self._started = time.monotonic()
        self._first: float | None = None

    def add(self, piece: Piece) -> None:
        self._usage = piece.usage or self._usage
        self._finish = piece.finish or self._finish
        if piece.thought and sys.stderr.isatty():
            self._thinking = True
            click.echo(_dim(_harmless(piece.thought)), err=True, nl=False)
        if piece.text:
            if self._first is None:
                self._first = time.monotonic()
            self._leave_thinking()
            self.text += piece.text
            click.echo(_harmless(piece.text) if sys.stdout.isatty() else piece.text, nl=False)
            sys.stdout.flush()

    def end(self) -> None:
        """A line of its own for whatever comes next."""
        self._leave_thinking()
        if self.text and not self.text.endswith("\n"):
            click.echo()

    def _leave_thinking(self) -> None:
        if self._thinking:
            self._thinking = False
            click.echo("\n", err=True)

    def summary(self, model: str, headers: Mapping[str, str]) -> str:
        """One line: model, tokens, times, and who answered."""
        parts = [model]
        if usage := self._usage:
            cached = f" ({usage.cached} cached)" if usage.cached else ""
            thought = f" ({usage.thought} thinking)" if usage.thought else ""
            parts.append(f"{usage.sent} tokens in{cached}, {usage.made} out{thought}")
        took = f"{time.monotonic() - self._started:.2f} s"
        parts.append(took if self._first is None else f"first word after {self._first - self._started:.2f} of {took}")
        if deployment := headers.get("x-aicore-proxy-deployment"):
            parts.append(f"{deployment} in {headers.get('x-aicore-proxy-subaccount')}")
        if self._finish in ("length", "max_tokens"):
            parts.append("cut: --max-tokens was reached")
        elif not self.text:
            parts.append(f"no text came (finish: {self._finish or 'none'})")
        return " · ".join(parts)


def _converse(talk: Conversation) -> None:
    """Until Ctrl-D."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - it makes input() edit lines and remember them; Windows has none
    click.echo(_dim(f"{talk.model} at {talk.connection.url} · /help for commands, Ctrl-D ends"), err=True)
    while True:
        try:
            line = _line()
        except KeyboardInterrupt:
            click.echo(err=True)
            continue
        except EOFError:
            click.echo(err=True)
            return
        if line.startswith("/"):
            if _command(talk, *line.split(maxsplit=1)):
                return
        elif line.strip():
            _turn(talk, line)


def _line() -> str:
    """What the person typed, over several lines where they end with a backslash."""
    line = input("> ")
    while line.endswith("\\"):
        line = f"{line[:-1]}\n{input('… ')}"
    return line


def _turn(talk: Conversation, text: str) -> None:
    try:
        talk.say(text)
    except ProxyError as error:
        click.echo(click.style(f"Error: {error}", fg="red"), err=True)
    except KeyboardInterrupt:
        click.echo(_dim("stopped"), err=True)


def _command(talk: Conversation, word: str, rest: str = "") -> bool:
    """Carries out a command. Returns whether it ends the conversation."""
    if word in ("/exit", "/quit", "/bye"):
        return True
    if word == "/clear":
        talk.clear()
        click.echo(_dim("forgotten"), err=True)
    elif word == "/model" and rest:
        talk.model = rest.strip()
        click.echo(_dim(f"{talk.model} from now on"), err=True)
    elif word == "/models":
        try:
            click.echo(", ".join(models_of(talk.connection)), err=True)
        except ProxyError as error:
            click.echo(click.style(f"Error: {error}", fg="red"), err=True)
    else:
        click.echo(HELP, err=True)
    return False


def _dim(text: str) -> str:
    return click.style(text, dim=True)


def _harmless(text: str) -> str:
    """A text without what a terminal obeys: a model's answer must not move the cursor or set the clipboard."""
    return "".join(char if char in "\n\t" or char.isprintable() else "\ufffd" for char in text)
