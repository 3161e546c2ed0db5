"""The tools that can be connected: one entry each. Sources: the tools' own documentation and recorded requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from aicore_proxy.cli.connect.choice import Choice, context_of, output_of, profile
from aicore_proxy.cli.connect.edit import Edit
from aicore_proxy.config.settings import home_of


class Plan(Struct, frozen=True):
    """What a tool is told. ``url``: the proxy's, without ``/v1``."""

    url: str
    key: str
    models: Choice


class Tool(Struct, frozen=True):
    """One tool.

    ``protocol``: what it speaks to its main model, a name in ``chat_protocols``; ``query``: what it adds to the path.
    ``file``: its settings file, of environment and working directory; None: it keeps settings where only it can write
    them, and ``steps`` tell a person what to do. ``form``: the file's format. ``edits``: what the file must hold.
    ``roles``: the models that it asks, and what for. ``before``: variables of the environment that come before the
    file; ``nearer``: other files that do, of the working directory or of the machine. ``public``: its requests come
    from its maker's servers, which cannot reach this machine's own addresses.
    """

    name: str
    title: str
    protocol: Callable[[Choice], str]
    edits: Callable[[Plan], list[Edit]]
    roles: Callable[[Choice], dict[str, str]]
    file: Callable[[Mapping[str, str], Path], Path] | None = None
    form: str = ""
    query: str = ""
    steps: Callable[[Plan], list[str]] = lambda _: []
    before: tuple[str, ...] = ()
    nearer: tuple[str, ...] = ()
    public: bool = False


# --- Claude Code


def _claude_code(plan: Plan) -> list[Edit]:
    models = plan.models
    variables = {
        "ANTHROPIC_BASE_URL": plan.url,
        "ANTHROPIC_AUTH_TOKEN": plan.key,
        "ANTHROPIC_MODEL": models.main,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": models.opus,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": models.sonnet,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": models.haiku,
        "ANTHROPIC_DEFAULT_FABLE_MODEL": models.opus,
        # The name that versions before 2.0 know for the model of titles and summaries
        "ANTHROPIC_SMALL_FAST_MODEL": models.haiku,
        "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1",
    }
    # Each of these would send requests elsewhere, or another key along: empty here counts more than set in a shell
    elsewhere = (
        "ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY",
        "CLAUDE_CODE_SUBAGENT_MODEL",
    )  # fmt: skip
    edits = [Edit(("env", name), value) for name, value in (variables | dict.fromkeys(elsewhere, "")).items()]
    return [*edits, Edit(("apiKeyHelper",), None)]


def _claude_code_file(environ: Mapping[str, str], _: Path) -> Path:
    folder = environ.get("CLAUDE_CONFIG_DIR")
    return (Path(folder) if folder else home_of(environ) / ".claude") / "settings.json"


def _claude_code_roles(models: Choice) -> dict[str, str]:
    return {
        "work": models.main,
        "titles, summaries, web pages": models.haiku,
        "opus": models.opus,
        "sonnet": models.sonnet,
        "haiku": models.haiku,
    }


# --- opencode


def _opencode(plan: Plan) -> list[Edit]:
    """Claude over Messages, where prompt caches and thinking survive; everything else over Chat Completions."""
    claude = [name for name in plan.models.all if _is_claude(name)]
    others = [name for name in plan.models.all if not _is_claude(name)]
    options = {"baseURL": f"{plan.url}/v1", "apiKey": plan.key}
    providers = {
        "aicore-claude": {"npm": "@ai-sdk/anthropic", "name": "SAP AI Core (Claude)", "models": claude},
        "aicore": {"npm": "@ai-sdk/openai-compatible", "name": "SAP AI Core", "models": others},
    }
    edits: list[Edit] = []
    for name, provider in providers.items():
        entries = {model: _opencode_model(model) for model in provider["models"]}
        value = {"npm": provider["npm"], "name": provider["name"], "options": options, "models": entries}
        edits.append(Edit(("provider", name), value if entries else None))
    main, small = _opencode_name(plan.models.main), _opencode_name(plan.models.small)
    return [*edits, Edit(("model",), main), Edit(("small_model",), small)]


def _is_claude(name: str) -> bool:
    return profile(name).family == "claude"


def _opencode_name(model: str) -> str:
    return f"{'aicore-claude' if _is_claude(model) else 'aicore'}/{model}"


def _opencode_model(name: str) -> dict[str, Any]:
    """Without limits opencode neither compacts a conversation nor bounds an answer as the model needs it; without
    modalities it sends no images."""
    of = profile(name)
    seen = ["text", "image"] if of.family in ("claude", "gpt", "gemini") else ["text"]
    return {
        "name": name,
        "limit": {"context": context_of(name), "output": output_of(name)},
        "tool_call": True,
        "reasoning": of.thinking is not None,
        "attachment": len(seen) > 1,
        "modalities": {"input": seen, "output": ["text"]},
    }


def _opencode_file(environ: Mapping[str, str], _: Path) -> Path:
    if named := environ.get("OPENCODE_CONFIG"):
        return Path(named)
    folder = Path(environ.get("XDG_CONFIG_HOME") or home_of(environ) / ".config") / "opencode"
    commented = folder / "opencode.jsonc"
    return commented if commented.is_file() else folder / "opencode.json"


# --- aider


def _aider(plan: Plan) -> list[Edit]:
    models = plan.models
    return [
        Edit(("openai-api-base",), f"{plan.url}/v1"),
        Edit(("openai-api-key",), plan.key),
        Edit(("model",), f"openai/{models.main}"),
        Edit(("weak-model",), f"openai/{models.small}"),
        Edit(("editor-model",), f"openai/{models.main}"),
        # It knows prices and sizes of its own list only, and stops to ask about every other name
        Edit(("show-model-warnings",), value=False),
    ]


# --- SDKs


def _openai(plan: Plan) -> list[Edit]:
    # The second name is litellm's and aider's
    values = {"OPENAI_BASE_URL": f"{plan.url}/v1", "OPENAI_API_BASE": f"{plan.url}/v1", "OPENAI_API_KEY": plan.key}
    return [Edit((name,), value) for name, value in values.items()]


def _anthropic(plan: Plan) -> list[Edit]:
    # The token of another login would come before the key
    values = {"ANTHROPIC_BASE_URL": plan.url, "ANTHROPIC_API_KEY": plan.key, "ANTHROPIC_AUTH_TOKEN": None}
    return [Edit((name,), value) for name, value in values.items()]


def _dotenv(_: Mapping[str, str], cwd: Path) -> Path:
    return cwd / ".env"


# --- tools that live in an editor


def _cline_steps(plan: Plan) -> list[str]:
    models = plan.models
    sizes = f"context window {context_of(models.main)}, max output tokens {output_of(models.main)}"
    anthropic = (
        f"For Claude: 'Anthropic', tick 'Use custom base URL': {plan.url}, the same key, and choose a model that the "
        "proxy serves under the name that Cline lists."
    )
    return [
        "In VS Code open Cline, then its settings (the gear), 'API Configuration'.",
        "API Provider: OpenAI Compatible",
        f"Base URL: {plan.url}/v1",
        f"API Key: {plan.key}",
        f"Model ID: {models.main}",
        f"Model Configuration: {sizes}, supports images",
        f"With 'Use different models for Plan and Act' give both a model of the proxy: {models.main}, {models.small}.",
        anthropic,
    ]


def _cursor_steps(plan: Plan) -> list[str]:
    models = plan.models
    return [
        "In Cursor open Settings, Cursor Settings, Models.",
        f"Add the models by hand (+ Add model): {models.main}, {models.small}",
        "Switch off the models that the proxy does not serve.",
        "Under API Keys, OpenAI API Key, switch on 'Override OpenAI Base URL'.",
        f"Base URL: {plan.url}/v1",
        f"OpenAI API Key: {plan.key}",
        "Verify, and leave the keys of other vendors switched off, or Cursor sends their models there.",
        "Tab completion, 'auto' and the agents in the cloud stay on Cursor's own models: they never come to the proxy.",
    ]


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            name="claude-code",
            title="Claude Code",
            protocol=lambda _: "messages",
            edits=_claude_code,
            roles=_claude_code_roles,
            file=_claude_code_file,
            form="json",
            query="?beta=true",
            nearer=(".claude/settings.json", ".claude/settings.local.json", "/etc/claude-code/managed-settings.json"),
        ),
        Tool(
            name="opencode",
            title="opencode",
            protocol=lambda models: "messages" if _is_claude(models.main) else "chat",
            edits=_opencode,
            roles=lambda models: {"model": models.main, "small_model (titles)": models.small},
            file=_opencode_file,
            form="jsonc",
            nearer=("opencode.json", "opencode.jsonc"),
        ),
        Tool(
            name="aider",
            title="aider",
            protocol=lambda _: "chat",
            edits=_aider,
            roles=lambda models: {
                "model": models.main,
                "weak-model (commit messages, summaries)": models.small,
                "editor-model (architect mode)": models.main,
            },
            file=lambda environ, _: home_of(environ) / ".aider.conf.yml",
            form="yaml",
            nearer=(".aider.conf.yml",),
            before=(
                "AIDER_MODEL", "AIDER_WEAK_MODEL", "AIDER_EDITOR_MODEL", "AIDER_OPENAI_API_BASE",
                "AIDER_OPENAI_API_KEY",
            ),
        ),
        Tool(
            name="cline",
            title="Cline",
            protocol=lambda _: "chat",
            edits=lambda _: [],
            roles=lambda models: {"Plan and Act": models.main},
            steps=_cline_steps,
        ),
        Tool(
            name="cursor",
            title="Cursor",
            protocol=lambda _: "chat",
            edits=lambda _: [],
            roles=lambda models: {"chat": models.main},
            steps=_cursor_steps,
            public=True,
        ),
        Tool(
            name="openai",
            title="OpenAI's SDKs",
            protocol=lambda _: "chat",
            edits=_openai,
            roles=lambda models: {"a model to name": models.main},
            file=_dotenv,
            form="env",
        ),
        Tool(
            name="anthropic",
            title="Anthropic's SDKs",
            protocol=lambda _: "messages",
            edits=_anthropic,
            roles=lambda models: {"a model to name": models.main},
            file=_dotenv,
            form="env",
        ),
    )
}  # fmt: skip
"""By the name on the command line. To add one: its entry, and nothing else."""
