"""``python -m aicore_proxy.bench``: the comparison (``make bench``)."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import click
import msgspec

from aicore_proxy.bench.comparison import Comparison, Results
from aicore_proxy.bench.page import placed, rendered
from aicore_proxy.bench.peers import Stage
from aicore_proxy.bench.scenarios import FULL, QUICK


@click.command()
@click.option("--quick", is_flag=True, help="A few minutes: fewer and shorter rounds.")
@click.option(
    "--only", multiple=True, type=click.Choice(["requests", "events", "clean", "silent", "sick"]), help="Parts of it."
)
@click.option("--page", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file that gets the results.")
@click.option(
    "--cache", type=click.Path(file_okay=False, path_type=Path), help="Where LiteLLM is installed and results are kept."
)
def main(quick: bool, only: tuple[str, ...], page: Path | None, cache: Path | None) -> None:
    """Measure this proxy, nginx and LiteLLM on the same stub upstream."""
    if not sys.platform.startswith("linux"):
        raise click.ClickException("The comparison reads /proc: it runs on Linux.")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = cache or base / "aicore-proxy-bench"
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / "results.json"

    def keep(results: Results) -> None:
        kept.write_bytes(msgspec.json.encode(results))
        if page is not None:
            page.write_text(placed(page.read_text() if page.exists() else "# Benchmarks\n", rendered(results)))

    with tempfile.TemporaryDirectory(prefix="aicore-proxy-bench-") as work:
        stage = Stage(Path(work), cache)
        pace = QUICK if quick else FULL
        comparison = Comparison(stage, pace, lambda line: click.echo(line, err=True), earlier(kept) if only else None)
        try:
            comparison.run(only, keep)
        finally:
            stage.close()
    click.echo(rendered(comparison.results))


def earlier(kept: Path) -> Results | None:
    """What was measured last, if it can be read."""
    try:
        return msgspec.json.decode(kept.read_bytes(), type=Results)
    except (OSError, msgspec.MsgspecError):
        return None


if __name__ == "__main__":
    main()
