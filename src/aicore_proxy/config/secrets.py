"""Secrets that stand in files of their own: keys and service keys, read into the settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from aicore_proxy.config.document import printable, read_text
from aicore_proxy.config.settings import KeySettings, Settings, SettingsError, SubaccountSettings
from aicore_proxy.config.shape import Tell, plain
from aicore_proxy.config.yaml_values import Place, too_deep

FILES = ("tls_certificate", "tls_key")
KEYS = ("api_key", "metrics_key")
"""Settings that a file may hold, which another one names."""
FOLDERS = ("service_keys", "record_folder")
"""Settings that are paths, and stay so. Folders are looked into by those who use them."""


class SecretFiles:
    """Reads what the settings name. ``base``: the folder that a setting's relative path starts from. ``files``: all
    that were named, also those that are not there."""

    def __init__(self, base: Callable[[str], Path], tell: Tell) -> None:
        self.files: list[Path] = []
        self._base = base
        self._tell = tell

    def resolved(self, settings: Settings) -> Settings:
        """The settings with every secret in its place, and with absolute paths."""
        changed: dict[str, Any] = {
            name: self._path(settings, name) for name in (*FILES, *FOLDERS) if getattr(settings, name)
        }
        for name in KEYS:
            if file := getattr(settings, f"{name}_file"):
                if getattr(settings, name):
                    self._tell((name,), f"and {name}_file: one of them, not both")
                else:
                    changed[name] = self._read(path_of(self._base(f"{name}_file"), file), (f"{name}_file",))
        changed["keys"] = tuple(self._key(key, number) for number, key in enumerate(settings.keys))
        subaccounts = enumerate(settings.subaccounts)
        changed["subaccounts"] = tuple(self._subaccount(one, number) for number, one in subaccounts)
        return msgspec.structs.replace(settings, **changed)

    def _path(self, settings: Settings, name: str) -> str:
        path = path_of(self._base(name), getattr(settings, name))
        if name in FILES:
            self.files.append(path)
            try:
                with path.open("rb"):
                    pass
            except (OSError, ValueError) as error:
                self._tell((name,), f"cannot be read: {printable(str(path))}: {_why(error)}")
        return str(path)

    def _key(self, key: KeySettings, number: int) -> KeySettings:
        if not key.key_file:
            return key
        place: Place = ("keys", number)
        if key.key or key.hash:
            self._tell(place, "needs one of key, key_file and hash")
            return key
        text = self._read(path_of(self._base("keys"), key.key_file), (*place, "key_file"))
        return msgspec.structs.replace(key, key=text)

    def _subaccount(self, one: SubaccountSettings, number: int) -> SubaccountSettings:
        if not one.service_key_file:
            return one
        place: Place = ("subaccounts", number, "service_key_file")
        if one.service_key is not None:
            self._tell(place, "and service_key: one of them, not both")
            return one
        path = path_of(self._base("subaccounts"), one.service_key_file)
        if not (text := self._read(path, place)):
            return one
        try:
            key = json.loads(text)
        except (ValueError, RecursionError):
            key = None
        if not isinstance(key, dict) or too_deep(key):
            self._tell(place, f"is not a service key, which is a JSON object: {printable(str(path))}")
            key = {}
        return msgspec.structs.replace(one, service_key=plain(key, place, self._tell))

    def _read(self, path: Path, place: Place) -> str:
        self.files.append(path)
        try:
            text = read_text(path).strip()
        except SettingsError as error:
            self._tell(place, f"is no use: {error.problems[0].rstrip('.')}")
            return ""
        if not text:
            self._tell(place, f"is no use: {printable(str(path))} is empty")
        return text


def path_of(base: Path, name: str) -> Path:
    """A path as a person writes it, from ``base``."""
    try:
        return base / Path(name).expanduser()
    except RuntimeError:  # ~ of somebody who is not there
        return base / name


def _why(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "no file can be called so"
