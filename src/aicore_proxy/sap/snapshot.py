"""The last known good discovery, on disk: a start survives an AI API that cannot be reached.

One JSON file for all subaccounts, readable by its owner only, without secrets. Several workers may write it: each
replaces it whole and takes over what it knows nothing newer of.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from aicore_proxy.landscape import Deployment
from aicore_proxy.sap.service_key import ServiceKey

FORMAT = 1
SIZE_LIMIT = 16 * 1024 * 1024  # bytes
OLD = 3600.0  # seconds after which an entry is written anew though nothing changed


class SnapshotError(Exception):
    """Why the file cannot be used or written, in words."""


class Kept(Struct, frozen=True):
    """What was last known of a subaccount. ``read_at``: Unix seconds; ``groups``: resource group -> deployments."""

    alias: str
    read_at: float
    groups: dict[str, tuple[Deployment, ...]]


class _Content(Struct, frozen=True):
    format: int
    subaccounts: dict[str, Kept]


def identity(key: ServiceKey) -> str:
    """Tells subaccounts apart whatever they are called: another key never gets foreign deployments back."""
    return hashlib.sha256(f"{key.client_id}\n{key.api_url}".encode()).hexdigest()[:32]


def load(path: Path) -> dict[str, Kept]:
    """By ``identity``; nothing where there is no file. Blocks. Raises SnapshotError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            body = file.read(SIZE_LIMIT + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o022:
        raise SnapshotError(f"{path} may be written by others than its owner")
    if len(body) > SIZE_LIMIT:
        raise SnapshotError(f"{path} is longer than {SIZE_LIMIT} bytes")
    try:
        content = msgspec.json.decode(body, type=_Content)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise SnapshotError(f"{path} is not a snapshot: {error}") from None
    if content.format != FORMAT:
        raise SnapshotError(f"{path} has the format {content.format} instead of {FORMAT}")
    return content.subaccounts


def save(path: Path, known: Mapping[str, Kept | None]) -> bool:
    """Writes what is ``known`` of the subaccounts that are configured (None: nothing by this process), by their
    identity. What another process has read since stays. Whether anything was written. Blocks. Raises SnapshotError."""
    try:
        before = load(path)
    except SnapshotError:
        before = {}
    after = {name: newer for name, kept in known.items() if (newer := _newer(kept, before.get(name))) is not None}
    if after == before:
        return False
    body = msgspec.json.format(msgspec.json.encode(_Content(FORMAT, after)), indent=1)
    if len(body) > SIZE_LIMIT:
        raise SnapshotError(f"what is deployed does not fit into {SIZE_LIMIT} bytes")
    try:
        _replace(path, body)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be written: {error.strerror}") from None
    return True


def _newer(ours: Kept | None, theirs: Kept | None) -> Kept | None:
    if ours is None or theirs is None:
        return ours or theirs
    if ours.read_at < theirs.read_at:
        return theirs
    same = ours.groups == theirs.groups and ours.alias == theirs.alias
    return theirs if same and ours.read_at - theirs.read_at < OLD else ours


def _replace(path: Path, body: bytes) -> None:
    """As a whole or not at all. ``mkstemp`` makes files that only their owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
