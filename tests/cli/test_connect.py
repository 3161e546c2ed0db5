"""``aicore-proxy connect``: settings printed, written, undone and tried, for every tool."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.terminal import COMMAND, terminal
from tests.end_to_end.conftest import KEY, Proxy, Simulator, environment, running_proxy, running_simulator

from aicore_proxy.cli.connect.choice import choice_of
from aicore_proxy.cli.connect.tools import TOOLS

FILES = {
    "claude-code": ".claude/settings.json",
    "opencode": ".config/opencode/opencode.json",
    "aider": ".aider.conf.yml",
    "openai": "work/.env",
    "anthropic": "work/.env",
}


class Person:
    """Somebody with a home of their own, on the proxy's machine."""

    def __init__(self, home: Path, proxy: Proxy) -> None:
        self.home = home
        self.here = home / "work"
        self.here.mkdir()
        self.url = proxy.url
        self.environ = environment(home, AICORE_PROXY_PORT=str(proxy.port), AICORE_PROXY_API_KEY=KEY)
        for name in ("XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "OPENCODE_CONFIG", *TOOLS["aider"].before):
            self.environ.pop(name, None)

    def connect(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "connect", *arguments]
        return subprocess.run(
            command, env={**self.environ, **environ}, cwd=self.here, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip

    def file(self, tool: str) -> Path:
        return self.home / FILES[tool]

    def tree(self) -> dict[str, bytes]:
        """Every file but the state folder's."""
        return {
            str(path.relative_to(self.home)): path.read_bytes()
            for path in sorted(self.home.rglob("*"))
            if path.is_file() and "state" not in path.parts
        }


@pytest.fixture
def person(tmp_path: Path, proxy: Proxy) -> Person:
    return Person(tmp_path, proxy)


def ask(proxy: Proxy, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> int:
    return proxy.http.post(path, json=dict(body), headers=dict(headers)).status_code


def test_claude_code_s_models_are_all_served(person: Person, proxy: Proxy) -> None:
    done = person.connect("claude-code", "--write")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "Test passed: POST /v1/messages?beta=true with claude-sonnet-5-5: an answer from demo-" in done.stderr
    env = json.loads(person.file("claude-code").read_text())["env"]
    assert env["ANTHROPIC_BASE_URL"] == person.url
    assert env["ANTHROPIC_AUTH_TOKEN"] == KEY
    named = {value for name, value in env.items() if name.endswith("_MODEL") and value}
    assert named == {"claude-sonnet-5-5", "claude-opus-5-5", "claude-haiku-5-5"}
    for model in named:
        body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
        assert ask(proxy, "/v1/messages?beta=true", body, {"Authorization": f"Bearer {KEY}"}) == 200


def test_opencode_asks_claude_over_messages_and_others_over_chat(person: Person, proxy: Proxy) -> None:
    done = person.connect("opencode", "--write", "--small-model", "gpt-5-mini")
    assert done.returncode == 0, done.stderr
    config = json.loads(person.file("opencode").read_text())
    assert (config["model"], config["small_model"]) == ("aicore-claude/claude-sonnet-5-5", "aicore/gpt-5-mini")
    claude, others = config["provider"]["aicore-claude"], config["provider"]["aicore"]
    assert (claude["npm"], others["npm"]) == ("@ai-sdk/anthropic", "@ai-sdk/openai-compatible")
    assert claude["options"] == others["options"] == {"baseURL": f"{person.url}/v1", "apiKey": KEY}
    assert all(name.startswith("claude-") for name in claude["models"])
    assert {"gpt-5", "gemini-2.5-pro", "o3"} <= set(others["models"])
    assert not [name for name in others["models"] if "embedding" in name or "--" in name]
    assert others["models"]["gpt-4o"]["limit"] == {"context": 128_000, "output": 16_384}
    listed = {entry["id"] for entry in proxy.http.get("/v1/models").json()["data"]}
    assert {*claude["models"], *others["models"]} <= listed


def test_aider_s_three_models(person: Person) -> None:
    done = person.connect("aider", "--write", "--model", "gpt-5")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(person.file("aider").read_text()) == {
        "openai-api-base": f"{person.url}/v1",
        "openai-api-key": KEY,
        "model": "openai/gpt-5",
        "weak-model": "openai/claude-haiku-5-5",
        "editor-model": "openai/gpt-5",
        "show-model-warnings": False,
    }


@pytest.mark.parametrize("tool", list(TOOLS))
def test_what_is_printed_shows_no_key(person: Person, tool: str) -> None:
    printed = person.connect(tool)
    assert KEY not in printed.stdout + printed.stderr
    assert person.tree() == {}, "nothing is written"
    shown = person.connect(tool, "--show-key", "--no-test")
    assert KEY in shown.stdout
    assert printed.returncode == (1 if tool == "cursor" else 0), printed.stderr
    assert "passed: POST /v1/" in printed.stderr
    assert "Test" not in shown.stderr


@pytest.mark.parametrize("tool", ["openai", "anthropic"])
def test_exports_work_in_a_shell_as_they_are_printed(person: Person, tool: str) -> None:
    printed = person.connect(tool, "--no-test").stdout
    script = f'ANTHROPIC_AUTH_TOKEN=other; {printed}\necho "${tool.upper()}_API_KEY|$ANTHROPIC_AUTH_TOKEN"'
    said = subprocess.run(["sh", "-c", script], env=person.environ, capture_output=True, text=True, check=True).stdout
    assert said == (f"{KEY}|\n" if tool == "anthropic" else f"{KEY}|other\n")


ASKED = "messages=[{'role': 'user', 'content': 'Hi'}]"
SDKS = {
    "openai": "import openai; c = openai.OpenAI(); "
    f"print(c.chat.completions.create(model='gpt-5', {ASKED}).choices[0].message.content)",
    "anthropic": "import anthropic; c = anthropic.Anthropic(); "
    f"print(c.messages.create(model='gpt-5', max_tokens=4096, {ASKED}).content[-1].text)",
}


@pytest.mark.parametrize("tool", list(SDKS))
@pytest.mark.parametrize("how", ["printed", "written"])
def test_the_sdks_need_nothing_else(person: Person, tool: str, how: str) -> None:
    if how == "written":
        assert person.connect(tool, "--write").returncode == 0
        lines = f"set -a; {person.file(tool).read_text()}"
    else:
        lines = person.connect(tool).stdout
    command = ["sh", "-c", f'{lines}\nexec "$0" -c "$1"', sys.executable, SDKS[tool]]
    done = subprocess.run(command, env=person.environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "This is gpt-5, simulated. You said: Hi\n", done.stderr


def test_the_kept_key_is_read_by_the_shell_not_printed(person: Person) -> None:
    folder = person.home / "state" / "aicore-proxy"
    folder.mkdir(parents=True)
    (folder / "api-key").write_text(KEY + "\n")
    del person.environ["AICORE_PROXY_API_KEY"]
    done = person.connect("openai")
    assert done.returncode == 0, done.stderr
    assert f'export OPENAI_API_KEY="$(cat {folder}/api-key)"' in done.stdout.splitlines()


SETTINGS = b"""{
    "theme": "dark",\r
    "apiKeyHelper": "vault read key",
    "env": {
        "ANTHROPIC_MODEL": "opus", "MY_OWN": "1",
        "ANTHROPIC_API_KEY": "sk-ant-other"
    },
    "permissions": {"allow": ["Bash(ls:*)"]}
}
"""


def test_what_was_there_is_kept_and_undone_byte_for_byte(person: Person) -> None:
    path = person.file("claude-code")
    path.parent.mkdir()
    path.write_bytes(SETTINGS)
    path.chmod(0o644)
    done = person.connect("claude-code", "--write")
    assert done.returncode == 0, done.stderr
    assert "Switched off, since it would lead elsewhere: env.ANTHROPIC_API_KEY, apiKeyHelper" in done.stderr
    assert "sk-ant-other" not in done.stderr
    written = json.loads(path.read_text())
    assert (written["theme"], written["permissions"]) == ("dark", {"allow": ["Bash(ls:*)"]})
    assert written["env"]["MY_OWN"] == "1"
    assert written["env"]["ANTHROPIC_API_KEY"] == "", "it counts more than one that is set in a shell"
    assert written["env"]["ANTHROPIC_MODEL"] == "claude-sonnet-5-5"
    assert "apiKeyHelper" not in written
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (backup,) = [Path(word.rstrip(".")) for word in done.stderr.split() if word.startswith(str(person.home / "state"))]
    assert backup.read_bytes() == SETTINGS
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600

    again = person.connect("claude-code", "--write")
    assert "holds these settings already" in again.stderr
    other = person.connect("claude-code", "--write", "--model", "gpt-5")
    assert other.returncode == 0, other.stderr
    assert json.loads(path.read_text())["env"]["ANTHROPIC_MODEL"] == "gpt-5"

    undone = person.connect("claude-code", "--undo")
    assert (undone.returncode, undone.stderr) == (0, f"{path} is as it was before.\n")
    assert path.read_bytes() == SETTINGS
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert not backup.exists()
    nothing = person.connect("claude-code", "--undo")
    assert nothing.returncode == 1
    assert "There is nothing to undo" in nothing.stderr


@pytest.mark.parametrize("tool", list(FILES))
def test_a_file_that_was_not_there_is_gone_after_undo(person: Person, tool: str) -> None:
    assert person.connect(tool, "--write").returncode == 0
    assert list(person.tree()) == [FILES[tool]]
    assert stat.S_IMODE(person.file(tool).stat().st_mode) == 0o600
    undone = person.connect(tool, "--undo")
    assert undone.stderr == f"{person.file(tool)} is deleted: there was none before.\n"
    assert person.tree() == {}


def test_undo_does_not_throw_away_what_somebody_changed_since(person: Person) -> None:
    path = person.file("aider")
    path.write_text("dark-mode: true\n")
    assert person.connect("aider", "--write").returncode == 0
    path.write_text(path.read_text() + "pretty: false\n")
    refused = person.connect("aider", "--undo")
    assert refused.returncode == 1
    assert "was changed since it was written: --force puts back what was there before." in refused.stderr
    assert "pretty" in path.read_text()

    mine = path.read_text()
    assert person.connect("aider", "--write", "--model", "gpt-5").returncode == 0
    assert person.connect("aider", "--undo").returncode == 0
    assert path.read_text() == mine, "the second write is undone first"
    forced = person.connect("aider", "--undo", "--force")
    assert forced.returncode == 0, forced.stderr
    assert path.read_text() == "dark-mode: true\n"


def test_two_tools_that_share_a_file_are_undone_one_by_one(person: Person) -> None:
    path = person.file("openai")
    assert path == person.file("anthropic")
    path.write_text("MINE=1\n")
    assert person.connect("openai", "--write").returncode == 0
    first = path.read_text()
    assert person.connect("anthropic", "--write").returncode == 0
    both = path.read_text()

    refused = person.connect("openai", "--undo")
    assert refused.returncode == 1
    assert "undo that first (aicore-proxy connect anthropic --undo)" in refused.stderr
    assert path.read_text() == both
    assert person.connect("anthropic", "--undo").returncode == 0
    assert path.read_text() == first
    assert "There is nothing to undo" in person.connect("anthropic", "--undo").stderr
    assert person.connect("anthropic", "--write").returncode == 0
    assert person.connect("openai", "--undo", "--force").returncode == 0
    assert path.read_text() == "MINE=1\n"
    assert [*(person.home / "state" / "aicore-proxy" / "connect").iterdir()] == []


def test_undo_after_a_crash_or_a_hand_has_put_the_file_back(person: Person) -> None:
    path = person.file("aider")
    path.write_text("pretty: false\n")
    assert person.connect("aider", "--write").returncode == 0
    path.write_text("pretty: false\n")
    undone = person.connect("aider", "--undo")
    assert (undone.returncode, undone.stderr) == (0, f"{path} is as it was before.\n")
    assert "There is nothing to undo" in person.connect("aider", "--undo").stderr


def test_another_file_and_places_that_cannot_be_written(person: Person) -> None:
    other = person.here / "sub" / "my conf.yml"
    done = person.connect("aider", "--write", "--file", "sub/my conf.yml")
    assert done.returncode == 0, done.stderr
    assert "To undo: aicore-proxy connect aider --file 'sub/my conf.yml' --undo" in done.stderr
    assert yaml.safe_load(other.read_text())["openai-api-key"] == KEY
    assert not person.file("aider").exists()
    assert person.connect("aider", "--undo").returncode == 1, "the tool's own file was not written"
    assert person.connect("aider", "--undo", "--file", str(other)).returncode == 0
    assert not other.exists()
    for place in ("/proc/none/conf.yml", "/dev/null/conf.yml"):
        done = person.connect("aider", "--write", "--file", place)
        assert done.returncode == 1
        assert "cannot be read" in done.stderr
        assert "Traceback" not in done.stderr
    folder = person.connect("aider", "--write", "--file", str(person.here))
    assert folder.returncode == 2
    assert "is a directory" in folder.stderr


def test_a_link_into_somebody_s_dotfiles_stays_a_link(person: Person) -> None:
    dotfiles = person.home / "dotfiles"
    dotfiles.mkdir()
    (dotfiles / "aider.yml").write_text("pretty: false\n")
    person.file("aider").symlink_to(dotfiles / "aider.yml")
    assert person.connect("aider", "--write").returncode == 0
    assert person.file("aider").is_symlink()
    assert "openai-api-base" in (dotfiles / "aider.yml").read_text()
    assert person.connect("aider", "--undo").returncode == 0
    assert (dotfiles / "aider.yml").read_text() == "pretty: false\n"


@pytest.mark.parametrize(
    ("tool", "content", "words"),
    [
        ("claude-code", b'{"env": {"A": "1",}}', "is not valid JSON: a name in double quotes is missing in line 1"),
        ("claude-code", b"\xff\xfe{}", "is not UTF-8. It stays as it is."),
        ("claude-code", b'{"env": []}', "holds something else than settings at env. It stays as it is."),
        ("opencode", b'{"provider": /* {}', "is not valid JSON with comments"),
        ("aider", b"model: [x", "is not valid YAML"),
    ],
)
def test_a_file_that_is_not_valid_is_not_touched(person: Person, tool: str, content: bytes, words: str) -> None:
    path = person.file(tool)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    done = person.connect(tool, "--write")
    assert done.returncode == 1
    assert f"Error: {path} {words}" in done.stderr
    assert path.read_bytes() == content


def test_opencode_s_commented_file_is_the_one_that_is_changed(person: Person) -> None:
    path = person.file("opencode").with_suffix(".jsonc")
    path.parent.mkdir(parents=True)
    path.write_text('{\n  // mine\n  "theme": "x",\n}\n')
    assert person.connect("opencode", "--write").returncode == 0
    assert path.read_text().startswith('{\n  // mine\n  "theme": "x",\n  "provider": {\n')
    assert person.connect("opencode", "--undo").returncode == 0
    assert path.read_text() == '{\n  // mine\n  "theme": "x",\n}\n'


def test_what_else_has_a_say_is_told(person: Person) -> None:
    (person.here / ".claude").mkdir()
    (person.here / ".claude" / "settings.local.json").write_text("{}")
    claude = person.connect("claude-code", "--no-test")
    assert f"Note: {person.here}/.claude/settings.local.json comes before, where it sets the same." in claude.stderr
    aider = person.connect("aider", "--no-test", AIDER_OPENAI_API_KEY="sk-secret")
    assert "Note: AIDER_OPENAI_API_KEY is set in this shell: unset it, or it may come first." in aider.stderr
    assert "sk-secret" not in aider.stderr


def test_cursor_needs_a_public_address(person: Person) -> None:
    done = person.connect("cursor")
    assert done.returncode == 1
    assert f"Cursor will not work with {person.url}" in done.stderr
    assert "Test from this machine passed" in done.stderr
    assert f"Base URL: {person.url}/v1" in done.stdout


@pytest.mark.parametrize("tool", ["cline", "cursor"])
def test_editors_keep_their_settings_themselves(person: Person, tool: str) -> None:
    for option in ("--write", "--undo"):
        done = person.connect(tool, option)
        assert done.returncode == 2
        assert "keeps its settings inside the editor" in done.stderr


def test_mistakes_are_told_before_anything_is_written(person: Person) -> None:
    unknown = person.connect("aider", "--write", "--model", "gpt-9")
    assert unknown.stderr.startswith("Error: The proxy does not serve 'gpt-9'. It serves: claude-sonnet-4, ")
    wrong = person.connect("aider", "--write", "--key", "sk-wrong")
    assert wrong.stderr.startswith("Error: The proxy answered 401: The API key is not valid.")
    away = person.connect("aider", "--write", "--url", "http://127.0.0.1:1")
    assert away.stderr.startswith("Error: No answer from http://127.0.0.1:1: Connection refused.")
    for done in (unknown, wrong, away):
        assert done.returncode == 1
    both = person.connect("aider", "--write", "--undo")
    assert both.returncode == 2
    assert person.tree() == {}


def test_settings_that_do_not_work_are_an_exit_code(person: Person, simulator: Simulator) -> None:
    simulator.script({"status": 403, "message": "quota of the tenant"}, "anthropic--claude-5.5-sonnet")
    try:
        done = person.connect("claude-code", "--write")
    finally:
        simulator.clear()
    assert done.returncode == 1
    assert "Test FAILED: POST /v1/messages?beta=true with claude-sonnet-5-5: The proxy answered" in done.stderr
    assert "aicore-proxy connect claude-code --undo takes them back" in done.stderr


def test_where_only_one_model_is_deployed_it_does_everything(tmp_path: Path) -> None:
    landscape = {"subaccounts": [{"name": "only", "models": ["gpt-4o", "text-embedding-3-small"]}]}
    with (
        running_simulator(tmp_path, landscape=landscape) as simulator,
        running_proxy(tmp_path, simulator) as proxy,
    ):
        person = Person(tmp_path, proxy)
        done = person.connect("claude-code", "--write")
        assert done.returncode == 0, done.stderr
        assert "Only one model is deployed, so it makes titles and summaries too." in done.stderr
        env = json.loads(person.file("claude-code").read_text())["env"]
        assert {value for name, value in env.items() if name.endswith("_MODEL") and value} == {"gpt-4o"}
        opencode = person.connect("opencode", "--write")
        assert opencode.returncode == 0, opencode.stderr
        assert list(json.loads(person.file("opencode").read_text())["provider"]) == ["aicore"]


@pytest.mark.parametrize(
    ("listed", "main", "small", "aliases"),
    [
        (["gpt-5", "gpt-5-mini", "gpt-5.2", "gpt-4.1", "o3"], "gpt-5.2", "gpt-5-mini", ("gpt-5.2", "gpt-5.2")),
        (["gemini-2.5-pro", "gemini-2.5-flash"], "gemini-2.5-pro", "gemini-2.5-flash", ("gemini-2.5-pro",) * 2),
        (["claude-haiku-4-5", "gpt-5"], "gpt-5", "claude-haiku-4-5", ("gpt-5", "gpt-5")),
        (["claude-opus-4-8", "claude-haiku-4-5", "claude-opus-4-6"], "claude-opus-4-8", "claude-haiku-4-5",
         ("claude-opus-4-8", "claude-opus-4-8")),
        (["claude-sonnet-4-6", "anthropic--claude-4.6-sonnet"], "claude-sonnet-4-6", "claude-sonnet-4-6",
         ("claude-sonnet-4-6", "claude-sonnet-4-6")),
        (["my-own-name", "text-embedding-3-small"], "my-own-name", "my-own-name", ("my-own-name", "my-own-name")),
    ],
)  # fmt: skip
def test_models_are_chosen_from_what_is_served(
    listed: list[str], main: str, small: str, aliases: tuple[str, str]
) -> None:
    choice = choice_of(listed)
    assert (choice.main, choice.small, (choice.opus, choice.sonnet)) == (main, small, aliases)
    assert {choice.opus, choice.sonnet, choice.haiku, *choice.all} <= set(listed)


def test_a_proxy_without_models_is_an_error_in_words() -> None:
    with pytest.raises(LookupError, match="serves no model that could answer"):
        choice_of(["text-embedding-3-small"])


def test_in_a_terminal(person: Person) -> None:
    with terminal([*COMMAND, "connect", "claude-code", "--write"], person.environ, cwd=person.here) as screen:
        assert screen.ended() == 0, screen.text
    assert "\x1b[32mpassed\x1b[0m" in screen.raw
    assert KEY not in screen.raw


# --- the real tools, where they are installed


def real(tool: str) -> str:
    """The tool's command; skips where it is not installed. ``TEST_TOOLS``: folders to look in first."""
    folders = os.pathsep.join((os.environ.get("TEST_TOOLS", ""), os.environ.get("PATH", "")))
    found = shutil.which(tool, path=folders)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    return found


def driven(person: Person, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {**person.environ, "IS_SANDBOX": "1", "TERM": "dumb", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    for name in ("AICORE_PROXY_API_KEY", "AICORE_PROXY_PORT"):
        environ.pop(name)
    return subprocess.run(
        command, env=environ, cwd=person.here, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=100,
        check=False,
    )  # fmt: skip


REAL = {
    "claude": ("claude-code", ["-p", "Say hello", "--dangerously-skip-permissions"]),
    "opencode": ("opencode", ["run", "Say hello"]),
    "aider": ("aider", ["--yes-always", "--no-git", "--no-check-update", "--analytics-disable", "--message", "Hello"]),
}


@pytest.mark.sdk
@pytest.mark.parametrize("command", list(REAL))
@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "gpt-5", "gemini-2.5-pro"])
def test_the_real_tool_works_with_what_was_written(
    person: Person, proxy: Proxy, simulator: Simulator, command: str, model: str
) -> None:
    program = real(command)
    tool, arguments = REAL[command]
    assert person.connect(tool, "--write", "--model", model).returncode == 0
    before = len(proxy.lines)
    done = driven(person, program, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    sap = "anthropic--claude-5.5-sonnet" if model.startswith("claude") else model
    assert f"This is {sap}, simulated." in " ".join(done.stdout.split()), done.stdout + done.stderr
    answers = [json.loads(line) for line in proxy.lines[before:] if '"request"' in line]
    assert answers
    assert {answer["status"] for answer in answers} == {200}, "every call that the tool makes by itself is answered"


@pytest.mark.sdk
def test_claude_code_s_own_names_are_all_served_where_one_model_is_deployed(tmp_path: Path) -> None:
    program = real("claude")
    landscape = {"subaccounts": [{"name": "only", "models": ["gpt-4o"]}]}
    with running_simulator(tmp_path, landscape=landscape) as simulator, running_proxy(tmp_path, simulator) as proxy:
        person = Person(tmp_path, proxy)
        assert person.connect("claude-code", "--write").returncode == 0
        person.environ |= {"ANTHROPIC_API_KEY": "sk-ant-other", "CLAUDE_CODE_USE_BEDROCK": "1"}
        before = len(proxy.lines)
        for name in ("default", "opus", "sonnet", "haiku", "fable", "opusplan"):
            done = driven(person, program, "-p", "Hello", "--model", name, "--dangerously-skip-permissions")
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
            assert "This is gpt-4o, simulated." in done.stdout
        answers = [json.loads(line) for line in proxy.lines[before:] if '"request"' in line]
        assert {answer["status"] for answer in answers} == {200}
