"""Every setting stands in docs/configuration.md, with its default."""

from pathlib import Path

import msgspec

from aicore_proxy.config.settings import PREFIX, Settings

DOC = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_every_setting_is_documented_with_its_default() -> None:
    rows = {
        row.split("|")[1].strip(" `"): row.split("|")[2].strip(" `")
        for row in DOC.read_text().splitlines()
        if row.startswith(f"| `{PREFIX}")
    }
    shown = {}
    for field in msgspec.structs.fields(Settings):
        if field.name in ("subaccounts", "keys", "aliases", "models", "routing"):
            continue  # of the file alone
        default = "" if field.default == () else field.default
        text = (
            str(default).lower()
            if isinstance(default, bool)
            else f"{default:g}"
            if isinstance(default, float)
            else str(default)
        )
        shown[PREFIX + field.name.upper()] = text or "none"

    assert rows == shown
