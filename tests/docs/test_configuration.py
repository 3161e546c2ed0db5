"""docs/configuration.md and the published JSON Schema say what the settings are."""

import json
from pathlib import Path

import msgspec
import pytest

from aicore_proxy.config.load import load, variables
from aicore_proxy.config.schema import field_docs, schema
from aicore_proxy.config.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "configuration.md"
SCHEMA = DOCS / "aicore-proxy.schema.json"


def rows() -> list[str]:
    """The table of all settings of one value, as it stands in the page: paste what a failure shows."""
    docs = field_docs(Settings)
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    made = []
    for name in variables():
        default = fields[name].default
        shown = f"{default:g}" if isinstance(default, float) else json.dumps(default) if default != () else "[]"
        shown = "none" if shown in ('""', "[]") else f"`{shown.strip(chr(34))}`"
        made.append(f"| `{name}` | {shown} | {docs[name].replace('``', '`')} |")
    return made


def test_every_setting_is_documented_with_its_default() -> None:
    table = PAGE.read_text().partition("## Settings of one value")[2].partition("\n## ")[0]
    assert [row for row in table.splitlines() if row.startswith("| `")] == rows()


def test_every_section_is_documented() -> None:
    page = PAGE.read_text()
    for name in set(Settings.__struct_fields__) - set(variables()):
        assert f"### `{name}`" in page


def test_the_schema_is_the_published_one() -> None:
    made = json.loads(json.dumps(schema()))
    assert json.loads(SCHEMA.read_text()) == made, "aicore-proxy config schema > docs/aicore-proxy.schema.json"


def test_every_field_of_the_schema_is_described() -> None:
    found = schema()
    for struct in (found, *(inner for inner in found["$defs"].values() if "properties" in inner)):
        for name, given in struct["properties"].items():
            assert name == "$schema" or given["description"], name
        assert struct["additionalProperties"] is False


def test_the_example_is_a_good_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = PAGE.read_text().split("```yaml\n")[1:]
    example = max((block.split("```")[0] for block in blocks), key=len)
    for name in ("aicore-eu.json", "team-b.key", "tls.crt", "tls.key"):
        (tmp_path / name).write_text('{"clientid": "a"}' if name.endswith("json") else "a-key-of-a-file")
    (tmp_path / "aicore-proxy.yaml").write_text(example)
    environ = {"AICORE_US_SECRET": "b", "TEAM_A_KEY": "a-key-of-a-variable", "OPS_KEY": "another-key"}

    settings = load(environ, cwd=tmp_path, home=tmp_path).settings

    assert [one.name for one in settings.subaccounts] == ["eu", "us"]
    assert [key.name for key in settings.keys] == ["team-a", "team-b", "ops"]
    # Everything that may be set is shown, but for what has one value and stands in the table
    for name in set(Settings.__struct_fields__) - set(variables()):
        assert f"\n{name}:" in example
