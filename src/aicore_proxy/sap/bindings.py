"""Service bindings of the platforms: ``VCAP_SERVICES`` of Cloud Foundry, mounted secrets of Kyma and Kubernetes.

Mounted secrets come in the layouts that SAP's libraries read (``@sap/xsenv``, the Java ServiceBinding libraries, the
SAP Cloud SDK for Python), one file per member of the service key, nested ones as JSON:

- ``<root>/<binding>/``: as servicebinding.io has it, with a file ``type``; SAP BTP's service operator adds
  ``.metadata``, which says of each file whether it is text or JSON, or a container of everything;
- ``<root>/aicore/<instance>/`` and ``<root>/aicore/``: by the folder's name.

In any of them the credentials may also stand whole in one file (the operator's ``secretKey``, ``secretRootKey``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from aicore_proxy.sap.service_key import alias_of, decoded, read, text

LABEL = "aicore"
USER_PROVIDED = "user-provided"
ENTRIES = 500  # folders looked at


class Binding(Struct, frozen=True):
    """The credentials of one bound AI Core instance. ``source``: in words; ``files``: those it was read of."""

    alias: str
    credentials: Mapping[str, Any]
    source: str
    files: tuple[Path, ...] = ()


def cloud_foundry(document: str, source: str, file: Path | None = None) -> list[Binding]:
    """All bindings of ``VCAP_SERVICES`` labelled ``aicore``, whatever the outer member is called, and user-provided
    services that hold a service key of AI Core. Raises CredentialsError where the document is not JSON."""
    found: list[Binding] = []
    for bindings in decoded(document, source).values():
        for binding in bindings if isinstance(bindings, list) else ():
            if not isinstance(binding, dict) or not isinstance(credentials := binding.get("credentials"), dict):
                continue
            label = binding.get("label")
            if label == LABEL or (label == USER_PROVIDED and "AI_API_URL" in str(credentials.get("serviceurls", ""))):
                name = text(binding, "binding_name") or text(binding, "name") or text(binding, "instance_name")
                where = f"{source}: {name}" if name else source
                found.append(Binding(alias_of(name), credentials, where, (file,) if file is not None else ()))
    return found


def mounted(root: Path) -> list[Binding]:
    """All AI Core bindings below ``root``. Raises CredentialsError where one cannot be read."""
    found: list[Binding] = []
    for folder in _folders(root):
        inner = _folders(folder)
        named = folder.name == LABEL
        if (binding := _binding(folder, named=named)) is not None:
            found.append(binding)
        elif inner:
            within = (_binding(instance, named=named) for instance in inner)
            found += [binding for binding in within if binding is not None]
    return found


def _folders(parent: Path) -> list[Path]:
    """Its folders; Kubernetes keeps the versions of a secret in some whose names begin with two dots."""
    try:
        return [p for p in sorted(parent.iterdir()) if not p.name.startswith(".") and p.is_dir()][:ENTRIES]
    except OSError:
        return []


def _binding(folder: Path, *, named: bool) -> Binding | None:
    """The binding in ``folder``, None where it is none of AI Core. ``named``: its place says that it is one."""
    try:
        files = [p for p in sorted(folder.iterdir()) if not p.name.startswith("..") and p.is_file()]
    except OSError:
        return None
    names = {path.name for path in files}
    kind = read(folder / "type").strip() if "type" in names else ""
    if (kind or (LABEL if named else "")) != LABEL and not _labelled(folder, names, kind):
        return None
    metadata = decoded(read(folder / ".metadata"), str(folder / ".metadata")) if ".metadata" in names else {}
    contents = {path.name: read(path) for path in files if not path.name.startswith(".")}
    raw = _credentials(dict(_described(metadata, contents, folder)) or contents)
    if "clientid" not in raw and not kind and "label" not in names:
        return None  # a folder that happens to be called so
    name = text(contents, "instance_name") or text(raw, "instance_name") or folder.name
    return Binding(alias_of(name), raw, str(folder), tuple(files))


def _labelled(folder: Path, names: set[str], kind: str) -> bool:
    """The operator's ``label`` is the service's name; of a secret in one file it stands inside."""
    if "label" in names:
        return read(folder / "label").strip() == LABEL
    visible = [name for name in names if not name.startswith(".")]
    if kind or len(visible) != 1:
        return False
    inside = _object(read(folder / visible[0])) or {}
    return LABEL in (inside.get("type"), inside.get("label"))


def _described(metadata: Mapping[str, Any], contents: Mapping[str, str], folder: Path) -> Iterator[tuple[str, Any]]:
    """The credentials that ``.metadata`` describes: ``{"credentialProperties": [{"name", "format", "container"}]}``."""
    properties = metadata.get("credentialProperties")
    for entry in properties if isinstance(properties, list) else ():
        if not isinstance(entry, dict) or (name := text(entry, "name")) not in contents:
            continue
        if entry.get("format") != "json":
            yield name, contents[name]
        elif entry.get("container") is True:
            yield from decoded(contents[name], str(folder / name)).items()
        else:
            yield name, _object(contents[name]) or contents[name]


def _credentials(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """``raw``, or what is a service key inside it."""
    if "clientid" in raw:
        return raw
    for value in raw.values():
        inner = _object(value) if isinstance(value, str) else value
        if isinstance(inner, dict) and ("clientid" in inner or _nested(inner)):
            return _credentials(inner)
    return raw


def _nested(raw: Mapping[str, Any]) -> bool:
    return any(isinstance(value, dict) and "clientid" in value for value in raw.values())


def _object(document: str) -> dict[str, Any] | None:
    if not document.lstrip().startswith("{"):
        return None
    try:
        value = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def mounts(environ: Mapping[str, str], defaults: tuple[Path, ...]) -> tuple[Path, ...]:
    """Where secrets are mounted: ``SERVICE_BINDING_ROOT``, else where SAP's libraries look."""
    root = environ.get("SERVICE_BINDING_ROOT", "").strip()
    return (Path(root),) if root else defaults
