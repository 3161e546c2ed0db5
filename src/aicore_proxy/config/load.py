"""Where settings come from: command line before variables before the file before defaults.

One result, complete: files that hold secrets are read, references to variables are resolved. Every problem is told at
once, with its place in the file and what would be right; no value is shown.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

import msgspec
from msgspec import Struct

from aicore_proxy.config import legacy
from aicore_proxy.config.checks import unfit
from aicore_proxy.config.document import Document, read_document, shown, written
from aicore_proxy.config.references import resolved
from aicore_proxy.config.secrets import KEYS, SecretFiles, path_of
from aicore_proxy.config.settings import PREFIX, Settings, SettingsError, home_of
from aicore_proxy.config.shape import Given, kinds_of, shaped, suggestion
from aicore_proxy.config.yaml_values import Place

FILE_VARIABLE = f"{PREFIX}CONFIG"
NAMES = ("aicore-proxy.yaml", "aicore-proxy.yml", "aicore-proxy.json")
LEGACY_NAME = "config.json"
FOREIGN = frozenset(PREFIX + name for name in ("URL", "KEY", "CA_BUNDLE"))
"""Variables with our prefix that are no settings: SAP's Cloud SDK and our clients' commands find a proxy by the first
two, and what trusts certificate authorities reads the third."""
AFTER_ALL = 10**9
"""The line of a problem that is not in the file."""
EITHER = {name: f"{name}_file" for name in KEYS} | {f"{name}_file": name for name in KEYS}
"""Two ways to give the same: the one that is given nearer replaces the other."""


class Loaded(Struct, frozen=True):
    """``file``: the configuration file, None: there is none. ``origins``: a setting -> where its value is from, for all
    that are not defaults. ``key_places``: where in the file each subaccount's service key stands. ``files``: everything
    that was read: a change calls for another look. ``notes``: one log line each."""

    settings: Settings
    file: Path | None = None
    key_places: tuple[str, ...] = ()
    origins: Mapping[str, str] = msgspec.field(default_factory=dict)
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Loaded({self.file}, …)"


class LoadError(SettingsError):
    """``so_far``: what is left without the problems, for those who look for more of them; None: nothing that leads to
    the service keys."""

    def __init__(self, problems: list[str], so_far: Loaded | None) -> None:
        super().__init__(problems)
        self.so_far = so_far


def load(
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
    *,
    cwd: Path | None = None,
    home: Path | None = None,
    file: Path | None = None,
) -> Loaded:
    """The settings of an environment. ``overrides``: command-line options, None: not given; ``file``: ``--config``.

    Reads files: not for the event loop. Raises SettingsError, a LoadError where the file can be read at all.
    """
    here = cwd or Path.cwd()
    path = found_file(environ, here, home or home_of(environ)) if file is None else path_of(here, str(file))
    return _Loading(environ, here).load(path, overrides or {})


def found_file(environ: Mapping[str, str], cwd: Path, home: Path) -> Path | None:
    """The configuration file that counts: the variable's, one in the working directory, the user's own, or a
    ``config.json`` of the older proxies in the working directory."""
    if named := environ.get(FILE_VARIABLE, "").strip():
        return path_of(cwd, named)
    own = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "aicore-proxy"
    places = [*(cwd / name for name in NAMES), own / "config.yaml", own / "config.yml", own / "config.json"]
    if (found := next((place for place in places if _is_there(place)), None)) is not None:
        return found
    older = cwd / LEGACY_NAME
    return older if legacy.looks_like_it(older) else None


def _is_there(path: Path) -> bool:
    """Also where it may not be looked at, unlike Path.is_file."""
    return os.path.isfile(path)  # noqa: PTH113


class _Loading:
    """One load. Gathers problems, origins, notes and files on the way."""

    def __init__(self, environ: Mapping[str, str], cwd: Path) -> None:
        self._environ = environ
        self._cwd = cwd
        self._problems: list[tuple[int, str]] = []
        self._told: set[Place] = set()
        self._origins: dict[str, str] = {}
        self._of_the_file: set[str] = set()
        self._files: list[Path] = []
        self._notes: list[str] = []
        self._document: Document | None = None
        self._legacy: legacy.Read | None = None

    def load(self, path: Path | None, overrides: Mapping[str, Any]) -> Loaded:
        values = self._file(path) if path is not None else {}
        self._over(values, self._variables())
        self._over(values, {name: (given, _option(name)) for name, given in overrides.items() if given is not None})
        secrets = SecretFiles(self._base, self._tell)
        settings = secrets.resolved(Settings(**values))
        self._files += secrets.files
        for place, words in unfit(settings):
            if not self._is_told(place):
                self._tell(place, words)
        if self._problems:
            in_order = sorted(self._problems, key=lambda problem: problem[0])
            raise LoadError(list(dict.fromkeys(text for _, text in in_order)), self._so_far(settings, path))
        self._note_of_public(settings)
        files, notes = tuple(dict.fromkeys(self._files)), tuple(self._notes)
        return Loaded(settings, path, self._key_places(settings), self._origins, files, notes)

    def _key_places(self, settings: Settings) -> tuple[str, ...]:
        places: list[Place] = [
            ("subaccounts", number, "service_key_file" if one.service_key_file else "service_key")
            for number, one in enumerate(settings.subaccounts)
        ]
        return tuple(f"{self._where(place)}: {written(self._named(place))}" for place in places)

    def _so_far(self, settings: Settings, path: Path | None) -> Loaded | None:
        """What was loaded, without the keys and the certificate of which something was told."""
        if ("subaccounts",) in self._told or ("service_keys",) in self._told:
            return None
        fit = tuple(
            msgspec.structs.replace(one, service_key=None)
            if any(self._is_told(("subaccounts", number, name)) for name in ("service_key", "service_key_file"))
            else one
            for number, one in enumerate(settings.subaccounts)
        )
        rest = msgspec.structs.replace(settings, subaccounts=fit)
        if self._is_told(("tls_certificate",)) or self._is_told(("tls_key",)):
            rest = msgspec.structs.replace(rest, tls_certificate="")
        return Loaded(rest, path, self._key_places(settings), self._origins)

    def _over(self, values: dict[str, Any], nearer: Mapping[str, tuple[Any, str]]) -> None:
        """Lays what is ``nearer`` over the values, with where it is from."""
        for name, (value, origin) in nearer.items():
            other = EITHER.get(name)
            if other is not None and other not in nearer:
                values.pop(other, None)
                self._origins.pop(other, None)
            values[name] = value
            self._origins[name] = origin
            self._of_the_file.discard(name)

    # --- the file

    def _file(self, path: Path) -> dict[str, Any]:
        self._files.append(path)
        document = read_document(path)
        if legacy.is_legacy(document.value):
            read = self._legacy = legacy.converted(document.value, path.parent, self._cwd)
            self._document = document
            self._notes += [f"{path}: {note}" for note in read.notes]
            value = read.settings
        else:
            self._document = document
            value = resolved(document.value, self._environ, self._tell_of_file)
        kinds = kinds_of(Settings)
        fit: dict[str, Any] = {}
        for name, given in value.items():
            if name not in kinds:
                if name != "$schema":
                    self._tell_of_file((name,), f"is not a setting{suggestion(name, kinds)}")
            elif given is not None:
                fit[name] = shaped(given, kinds[name], (name,), self._tell_of_file)
                self._origins[name] = self._where((name,))
        self._of_the_file = set(fit)
        return {name: given for name, given in fit.items() if given is not None}

    def _where(self, place: Place) -> str:
        assert self._document is not None, "places are of the file"
        line = self._line(place)
        return f"{self._document.path}:{line}" if line else str(self._document.path)

    def _line(self, place: Place) -> int:
        """The line of a place in the file, or of what it is in; 0 where the format tells none."""
        lines = self._document.lines if self._document is not None else {}
        place = self._named(place)
        return next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), 0)

    def _add(self, problem: str, line: int = AFTER_ALL) -> None:
        self._problems.append((line, problem if problem.endswith("?") else f"{problem}."))

    def _tell_of_file(self, place: Place, words: str) -> None:
        if place in self._told:
            return  # it follows: a text of a variable that is not set is no number either
        self._told.add(place)
        named = written(self._named(place))
        self._add(f"{self._where(place)}: {f'{named} ' if named else ''}{words}", self._line(place))

    def _named(self, place: Place) -> Place:
        """A place in the words of the file, which may be an older proxy's."""
        return place if self._legacy is None else self._legacy.place(place)

    def _tell(self, place: Place, words: str) -> None:
        """A problem of a value, wherever that came from."""
        name = str(place[0])
        if name in self._of_the_file:
            self._tell_of_file(place, words)
        else:
            self._told.add(place)
            origin = self._origins.get(name)
            self._add(f"{f'{origin}: ' if origin else ''}{written(place)} {words}")

    def _is_told(self, place: Place) -> bool:
        """Whether a problem there follows from one that has been told: of the same value, of what it is in or of what
        is in it."""
        if place == ("host",) and any(told[0] in ("api_key", "api_key_file", "keys") for told in self._told):
            return True
        return any(told[: len(place)] == place[: len(told)] for told in self._told)

    def _base(self, name: str) -> Path:
        """Paths are relative to the file that names them; in variables and options, to the working directory."""
        in_file = name in self._of_the_file and self._document is not None
        return self._document.path.parent if in_file and self._document is not None else self._cwd

    # --- variables

    def _variables(self) -> dict[str, tuple[Any, str]]:
        kinds = kinds_of(Settings)
        values: dict[str, tuple[Any, str]] = {}
        for variable, text in self._environ.items():
            if not variable.startswith(PREFIX) or not text or variable == FILE_VARIABLE or variable in FOREIGN:
                continue
            name = variable.removeprefix(PREFIX).lower()
            if name in variables():
                self._take(values, variable, name, text)
            elif name in kinds:
                self._add(f"{variable}: {name} can only be set in the configuration file")
            else:
                near = difflib.get_close_matches(name, variables(), 1)
                hint = f": did you mean {PREFIX}{near[0].upper()}?" if near else " (docs/configuration.md has them all)"
                self._add(f"{shown(variable)} is not a setting{hint}")
        if port := self._environ.get("PORT"):
            self._take(values, "PORT", "port", port)
        return values

    def _take(self, values: dict[str, tuple[Any, str]], variable: str, name: str, text: str) -> None:
        def tell(_: Place, words: str) -> None:
            self._told.add((name,))
            self._add(f"{variable} {words}")

        value = shaped(Given(text.strip()), kinds_of(Settings)[name], (name,), tell)
        if value is not None:
            values[name] = value, variable

    def _note_of_public(self, settings: Settings) -> None:
        """A file with secrets that everybody on the machine may read."""
        if self._document is None or os.name == "nt":
            return
        given = [name for name in KEYS if getattr(settings, name) and not getattr(settings, f"{name}_file")]
        secret = any(name in self._of_the_file for name in given)
        secret = secret or any(key.key and not key.key_file for key in settings.keys)
        secret = secret or any(one.service_key and not one.service_key_file for one in settings.subaccounts)
        path = self._document.path
        try:
            public = bool(path.stat().st_mode & 0o004)
        except OSError:
            return
        if secret and public:
            self._notes.append(f"{path}: everybody on this machine may read it, and what it holds: chmod 600 {path}")


def variables() -> list[str]:
    """The settings that are variables too: those of one value, and lists of texts."""
    return [
        name
        for name, kind in kinds_of(Settings).items()
        if kind in (str, int, float, bool) or (get_origin(kind) is tuple and name not in ("subaccounts", "keys"))
    ]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
