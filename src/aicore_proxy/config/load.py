"""Where settings come from: command line before variables before the file before defaults.

One result, complete: files that hold secrets are read, references to variables are resolved. Every problem is told at
once, with its place in the file and what would be right; no value is shown.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_origin

import msgspec
from msgspec import Struct

from aicore_proxy.config import legacy
from aicore_proxy.config.document import Document, Place, read_document, written
from aicore_proxy.config.references import resolved
from aicore_proxy.config.settings import PREFIX, Settings, SettingsError, SubaccountSettings, unfit
from aicore_proxy.config.shape import Given, kinds_of, shaped, suggestion

FILE_VARIABLE = f"{PREFIX}CONFIG"
NAMES = ("aicore-proxy.yaml", "aicore-proxy.yml", "aicore-proxy.json")
LEGACY_NAME = "config.json"
FOREIGN = frozenset({f"{PREFIX}URL", f"{PREFIX}KEY"})
"""Variables with our prefix that are not settings: SAP's Cloud SDK points its client at a proxy with the first."""
LARGEST_SECRET = 1024 * 1024


class Loaded(Struct, frozen=True):
    """``file``: the configuration file, None: there is none. ``origins``: a setting's place -> where its value is from,
    for all that are not defaults. ``files``: everything that was read: a change calls for another look. ``notes``: one
    log line each."""

    settings: Settings
    file: Path | None = None
    origins: Mapping[str, str] = msgspec.field(default_factory=dict)
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Loaded({self.file}, …)"


def load(
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
    *,
    cwd: Path | None = None,
    home: Path | None = None,
    file: Path | None = None,
) -> Loaded:
    """The settings of an environment. ``overrides``: command-line options, None: not given; ``file``: ``--config``.

    Reads files: not for the event loop. Raises SettingsError.
    """
    here = cwd or Path.cwd()
    path = found_file(environ, here, home or Path.home()) if file is None else here / file.expanduser()
    return _Loading(environ, here).load(path, overrides or {})


def from_environment(environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings alone. Raises SettingsError."""
    return load(environ, overrides).settings


def found_file(environ: Mapping[str, str], cwd: Path, home: Path) -> Path | None:
    """The configuration file that counts: the variable's, one in the working directory, the user's own, or a
    ``config.json`` of the older proxies in the working directory."""
    if named := environ.get(FILE_VARIABLE, "").strip():
        return cwd / Path(named).expanduser()
    own = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "aicore-proxy"
    places = [*(cwd / name for name in NAMES), own / "config.yaml", own / "config.yml", own / "config.json"]
    if (found := next((place for place in places if place.is_file()), None)) is not None:
        return found
    older = cwd / LEGACY_NAME
    return older if older.is_file() and legacy.looks_like_it(older) else None


class _Loading:
    """One load. Gathers problems, origins, notes and files on the way."""

    def __init__(self, environ: Mapping[str, str], cwd: Path) -> None:
        self._environ = environ
        self._cwd = cwd
        self._problems: list[str] = []
        self._origins: dict[str, str] = {}
        self._files: list[Path] = []
        self._notes: list[str] = []
        self._document: Document | None = None

    def load(self, path: Path | None, overrides: Mapping[str, Any]) -> Loaded:
        values = self._of_file(path) if path is not None else {}
        values |= self._of_variables()
        for name, value in overrides.items():
            if value is not None:
                values[name] = value
                self._origins[name] = f"--{name.replace('_', '-')}"
        values = {name: value for name, value in values.items() if value is not None}
        settings = self._with_secrets(Settings(**values))
        if not self._problems:
            self._problems += [f"{self._source(place)}{place} {words}." for place, words in unfit(settings)]
        if self._problems:
            raise SettingsError(list(dict.fromkeys(self._problems)))
        self._warn_of_public(settings)
        return Loaded(settings, path, self._origins, tuple(dict.fromkeys(self._files)), tuple(self._notes))

    # --- the file

    def _of_file(self, path: Path) -> dict[str, Any]:
        self._files.append(path)
        document = read_document(path)
        if legacy.is_legacy(document.value):
            converted, notes = legacy.converted(document.value, path.parent)
            document = Document(path, converted, {})
            self._notes += [f"{path}: {note}" for note in notes]
        self._document = document
        value = resolved(document.value, self._environ, self._tell)
        for name in value:
            self._origins[str(name)] = self._where((str(name),))
        fit: dict[str, Any] = {}
        kinds = kinds_of(Settings)
        for name, given in value.items():
            if name not in kinds:
                self._tell((name,), f"is not a setting{suggestion(name, kinds)}")
            elif given is not None:
                fit[name] = shaped(given, kinds[name], (name,), self._tell)
        return fit

    def _where(self, place: Place) -> str:
        assert self._document is not None, "places are of the file"
        lines, at = self._document.lines, place
        while at and at not in lines:
            at = at[:-1]
        return f"{self._document.path}:{lines[at]}" if at else str(self._document.path)

    def _tell(self, place: Place, words: str) -> None:
        self._problems.append(f"{self._where(place)}: {written(place)} {words}.")

    def _source(self, place: str) -> str:
        """Where the value at ``place`` came from, as the beginning of a sentence."""
        name = place.partition(".")[0].partition("[")[0]
        origin = self._origins.get(name, "")
        if self._document is not None and origin.startswith(str(self._document.path)):
            steps = tuple(
                int(step) if step.isdigit() else step for step in place.replace("[", ".").replace("]", "").split(".")
            )
            return f"{self._where(steps)}: "
        return f"{origin}: " if origin else ""

    # --- variables

    def _of_variables(self) -> dict[str, Any]:
        kinds = kinds_of(Settings)
        simple = {name for name, kind in kinds.items() if kind in (str, int, float, bool) or get_origin(kind) is tuple}
        simple -= {"subaccounts", "keys"}
        values: dict[str, Any] = {}
        for variable, text in self._environ.items():
            if not variable.startswith(PREFIX) or not text or variable == FILE_VARIABLE or variable in FOREIGN:
                continue
            name = variable.removeprefix(PREFIX).lower()
            if name in simple:
                self._take(values, variable, name, text)
            elif name in kinds:
                self._problems.append(f"{variable}: {name} can only be set in the configuration file.")
            else:
                near = difflib.get_close_matches(name, simple, 1)
                hint = f" Did you mean {PREFIX}{near[0].upper()}?" if near else ""
                self._problems.append(f"{variable} is not a setting.{hint}")
        if port := self._environ.get("PORT"):
            self._take(values, "PORT", "port", port)
        return values

    def _take(self, values: dict[str, Any], variable: str, name: str, text: str) -> None:
        def tell(_: Place, words: str) -> None:
            self._problems.append(f"{variable} {words}.")

        values[name] = shaped(Given(text.strip()), kinds_of(Settings)[name], (name,), tell)
        self._origins[name] = variable

    # --- files with secrets

    def _with_secrets(self, settings: Settings) -> Settings:
        base = self._document.path.parent if self._document is not None else self._cwd
        if settings.api_key_file and not settings.api_key:
            settings = msgspec.structs.replace(
                settings, api_key=self._secret(self._base("api_key_file", base), settings.api_key_file, "api_key_file")
            )
        keys = tuple(
            msgspec.structs.replace(key, key=self._secret(base, key.key_file, f"keys[{number}].key_file"))
            if key.key_file and not key.key
            else key
            for number, key in enumerate(settings.keys)
        )
        subaccounts = tuple(self._with_key(one, number, base) for number, one in enumerate(settings.subaccounts))
        for name in ("tls_certificate", "tls_key"):
            if text := getattr(settings, name):
                path = self._base(name, base) / Path(text).expanduser()
                self._files.append(path)
                if not path.is_file():
                    self._problems.append(f"{self._source(name)}{name}: there is no file {path}.")
                settings = msgspec.structs.replace(settings, **{name: str(path)})
        return msgspec.structs.replace(settings, keys=keys, subaccounts=subaccounts)

    def _base(self, name: str, base: Path) -> Path:
        """Paths are relative to the file that names them; in variables and options, to the working directory."""
        in_file = self._document is not None and self._origins.get(name, "").startswith(str(self._document.path))
        return base if in_file else self._cwd

    def _with_key(self, subaccount: SubaccountSettings, number: int, base: Path) -> SubaccountSettings:
        place = f"subaccounts[{number}].service_key_file"
        if not subaccount.service_key_file:
            return subaccount
        if subaccount.service_key is not None:
            self._problems.append(f"{self._source(place)}{place} and service_key: one of them, not both.")
            return subaccount
        text = self._secret(base, subaccount.service_key_file, place)
        try:
            key = msgspec.json.decode(text) if text else {}
        except (msgspec.DecodeError, RecursionError):
            key = None
        if not isinstance(key, dict):
            self._problems.append(f"{self._source(place)}{place}: the file is not a service key, which is JSON.")
            key = {}
        return msgspec.structs.replace(subaccount, service_key=key)

    def _secret(self, base: Path, name: str, place: str) -> str:
        path = base / Path(name).expanduser()
        self._files.append(path)
        try:
            if path.stat().st_size > LARGEST_SECRET:
                raise ValueError("it is larger than 1 MiB")
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            why = (
                error.strerror
                if isinstance(error, OSError)
                else "it is not a text"
                if isinstance(error, UnicodeDecodeError)
                else error
            )
            self._problems.append(f"{self._source(place)}{place}: {path} cannot be read: {why}.")
            return ""
        if not text:
            self._problems.append(f"{self._source(place)}{place}: {path} is empty.")
        return text

    def _warn_of_public(self, settings: Settings) -> None:
        """A file with secrets that everybody on the machine may read."""
        if self._document is None or os.name == "nt":
            return
        secret = settings.api_key or any(key.key and not key.key_file for key in settings.keys)
        secret = secret or any(one.service_key and not one.service_key_file for one in settings.subaccounts)
        path = self._document.path
        if secret and path.stat().st_mode & 0o004:
            self._notes.append(f"{path}: everybody on this machine may read the secrets in it: chmod 600 {path}")


def masked(settings: Settings) -> dict[str, Any]:
    """The settings as plain values, without any secret: what is set shows as ``****``."""
    from aicore_proxy.config.settings import SECRETS  # noqa: PLC0415

    def mask(value: Any, name: str) -> Any:
        if name in SECRETS and value:
            return "****"
        if isinstance(value, dict):
            return {key: mask(inner, key) for key, inner in value.items()}
        return (
            [mask(item, "") for item in value] if isinstance(value, Iterable) and not isinstance(value, str) else value
        )

    plain: dict[str, Any] = mask(msgspec.to_builtins(settings), "")
    return plain
