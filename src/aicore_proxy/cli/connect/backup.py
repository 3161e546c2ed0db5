"""Settings files written so that it can be undone: whole or not at all, with what was there before kept."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

PRIVATE = 0o600


class FileError(Exception):
    """What went wrong with a file, in a sentence."""


class Write(Struct, frozen=True):
    """One write. ``backup``: the name of the file with what was there before, "": there was none; ``mode``: its own.
    ``written``: SHA-256 of what was written; ``tool``: for whom, since several may share a file."""

    backup: str
    mode: int
    written: str
    tool: str = ""


class Written(Struct, frozen=True):
    """What came of a write. ``backup`` None: there was no file before. ``changed``: False: it was so already."""

    path: Path
    backup: Path | None
    changed: bool


class Backups:
    """The state folder's part with what was there before, one stack per file. Owned by one command at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, path: Path, content: bytes, tool: str) -> Written:
        """Puts ``content`` into the file for a tool, readable by its owner alone. Raises FileError."""
        path = real(path)
        with _told(path):
            before = read(path)
            writes = self._writes(path)
            top = writes[-1] if writes else None
            backup = self._folder / top.backup if top is not None and top.backup else None
            if before == content:
                if stat.S_IMODE(path.stat().st_mode) & 0o077:
                    path.chmod(PRIVATE)
                return Written(path, backup, changed=False)
            ours = top is not None and before is not None and _digest(before) == top.written
            if top is not None and ours and top.tool == tool:
                # Nobody but us has touched it: what was there before the first write is what counts
                writes[-1] = msgspec.structs.replace(top, written=_digest(content))
            else:
                backup = self._kept(path, before)
                mode = stat.S_IMODE(path.stat().st_mode) if before is not None else 0
                writes.append(Write(backup.name if backup else "", mode, _digest(content), tool))
            self._note(path, writes)
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, content, PRIVATE)
            return Written(path, backup, changed=True)

    def undo(self, path: Path, tool: str, *, force: bool) -> str:
        """Puts back what was there before the last write for a tool: a sentence that says so. Raises FileError, also
        where the file was changed or written for another tool since, unless ``force``."""
        path = real(path)
        with _told(path):
            writes = self._writes(path)
            if all(write.tool not in ("", tool) for write in writes):
                raise FileError(f"There is nothing to undo: {path} was not written by this command.")
            if (other := writes[-1].tool) not in ("", tool) and not force:
                words = f"{path} was written for {other} since: undo that first (aicore-proxy connect {other} --undo)"
                raise FileError(f"{words}, or take both back with --force.")
            later: list[Write] = []
            while writes[-1].tool not in ("", tool):
                later.append(writes.pop())
            last = writes.pop()
            original = read(self._folder / last.backup) if last.backup else None
            if last.backup and original is None:
                raise FileError(f"The backup {self._folder / last.backup} is gone: {path} stays as it is.")
            current = read(path)
            ours = current is not None and _digest(current) == last.written
            if not ours and current != original and not force:
                state = "was deleted" if current is None else "was changed"
                raise FileError(f"{path} {state} since it was written: --force puts back what was there before.")
            if original is None:
                path.unlink(missing_ok=True)
                words = f"{path} is deleted: there was none before."
            else:
                _replace(path, original, last.mode)
                words = f"{path} is as it was before."
            self._note(path, writes)
            for write in (*later, last):
                if write.backup:
                    (self._folder / write.backup).unlink(missing_ok=True)
            return words

    def _kept(self, path: Path, content: bytes | None) -> Path | None:
        """The backup of what is there: the first of its kind stays when a second one comes."""
        if content is None:
            return None
        self._make_folder()
        backup = self._folder / f"{_name(path)}.{secrets.token_hex(4)}{path.suffix or '.bak'}"
        _replace(backup, content, PRIVATE)
        return backup

    def _writes(self, path: Path) -> list[Write]:
        note = self._folder / f"{_name(path)}.json"
        content = read(note)
        if content is None:
            return []
        try:
            return msgspec.json.decode(content, type=list[Write])
        except msgspec.MsgspecError:
            raise FileError(f"{note} is not readable: what it tells of {path} is lost. Delete it to go on.") from None

    def _note(self, path: Path, writes: list[Write]) -> None:
        note = self._folder / f"{_name(path)}.json"
        if not writes:
            note.unlink(missing_ok=True)
            return
        self._make_folder()
        _replace(note, msgspec.json.encode(writes), PRIVATE)

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def read(path: Path) -> bytes | None:
    """A file's content; None: there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def real(path: Path) -> Path:
    """The file itself, where ``path`` is a link into somebody's collection of settings."""
    return Path(os.path.realpath(path))


def _name(path: Path) -> str:
    return f"{path.stem.lstrip('.') or 'env'}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all: beside its place first."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        beside.chmod(mode)
        with contextlib.suppress(OSError, AttributeError):
            owner = path.stat()
            os.chown(beside, owner.st_uid, owner.st_gid)  # it stays its owner's, also when root runs us
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise FileError(f"{where} cannot be read or written: {error.strerror or error}.") from error
