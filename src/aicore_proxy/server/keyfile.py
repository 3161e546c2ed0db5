"""The client key of an installation that was given none: made once, kept in the state folder."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from msgspec import Struct

PREFIX = "sk-aicp-"
FILE_NAME = "api-key"


class KeyFileError(Exception):
    """The key can be neither read nor kept: what is wrong, in a sentence."""


class ClientKey(Struct, frozen=True):
    """The key that clients use. ``path``: where it is kept; None: it was given. ``made_now``: nobody knows it yet."""

    key: str
    path: Path | None
    made_now: bool


def obtain_key(given: str, folder: Path) -> ClientKey:
    """The key that was ``given``, else the one kept in ``folder``, else a new one, kept there from now on.

    File mode 600, folder mode 700. Several processes that start at once agree on one key. Raises KeyFileError.
    """
    if given:
        return ClientKey(given, None, made_now=False)
    path = folder / FILE_NAME
    try:
        if (key := _kept(path)) is not None:
            return ClientKey(key, path, made_now=False)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        made = PREFIX + secrets.token_urlsafe(32)
        if _keep(made, path):
            return ClientKey(made, path, made_now=True)
        if (key := _kept(path)) is not None:
            return ClientKey(key, path, made_now=False)
    except (OSError, UnicodeDecodeError) as error:
        words = (
            f"The client key at {path} cannot be read or kept ({error}): set AICORE_PROXY_API_KEY, or XDG_STATE_HOME."
        )
        raise KeyFileError(words) from error
    raise KeyFileError(f"The client key file {path} is empty: delete it, or set AICORE_PROXY_API_KEY.")


def _kept(path: Path) -> str | None:
    """The key in the file, whose mode is set right if it is not; None: no file, or nothing in it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, encoding="ascii") as file:
        if os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
        return file.read().strip() or None


def _keep(key: str, path: Path) -> bool:
    """Writes the key beside its place and links it there: the file is whole from the start. False: there was one."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(key + "\n")
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
            return True
        return False
    finally:
        beside.unlink()
