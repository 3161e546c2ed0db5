"""Service keys laid down where each platform and each SDK of SAP's puts them, in the very shape of SAP's documents.

A layout takes a folder and a service key and gives the environment that leads there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Key = Mapping[str, Any]
Layout = Callable[[Path, Key], dict[str, str]]


def service_key_variable(folder: Path, key: Key) -> dict[str, str]:
    return {"AICORE_SERVICE_KEY": json.dumps(key)}


def settings_of(key: Key) -> dict[str, str]:
    """SAP AI Core SDK for Python: credentials as single settings."""
    found = {
        "AICORE_CLIENT_ID": key["clientid"],
        "AICORE_CLIENT_SECRET": key.get("clientsecret"),
        "AICORE_AUTH_URL": f"{key['url']}/oauth/token",
        "AICORE_BASE_URL": f"{key['serviceurls']['AI_API_URL']}/v2",
        "AICORE_CERT_URL": key.get("certurl"),
        "AICORE_CERT_STR": key.get("certificate"),
        "AICORE_KEY_STR": key.get("key"),
        "AICORE_RESOURCE_GROUP": "default",
    }
    return {name: value for name, value in found.items() if value}


def variables(folder: Path, key: Key) -> dict[str, str]:
    """Line ends of a certificate as the two characters that stand for them, as shells and .env files leave them."""
    return {name: value.replace("\n", "\\n") for name, value in settings_of(key).items()}


def certificate_files(folder: Path, key: Key) -> dict[str, str]:
    found = settings_of(key)
    for name in ("CERT", "KEY"):
        if content := found.pop(f"AICORE_{name}_STR", None):
            path = folder / f"{name.lower()}.pem"
            path.write_text(content)
            found[f"AICORE_{name}_FILE_PATH"] = str(path)
    return found


def configuration(folder: Path, key: Key) -> dict[str, str]:
    (folder / "config.json").write_text(json.dumps(settings_of(key)))
    return {"AICORE_HOME": str(folder)}


def profile(folder: Path, key: Key) -> dict[str, str]:
    (folder / "config_team.json").write_text(json.dumps(certificate_files(folder, key)))
    return {"AICORE_HOME": str(folder), "AICORE_PROFILE": "team"}


def vcap_document(key: Key) -> str:
    """Cloud Foundry, with a binding of another service beside it."""
    aicore = {
        "label": "aicore",
        "provider": None,
        "plan": "extended",
        "name": "my-aicore",
        "tags": [],
        "instance_guid": "00000000-0000-4000-8000-00000000000a",
        "instance_name": "my-aicore",
        "binding_guid": "00000000-0000-4000-8000-00000000000b",
        "binding_name": None,
        "credentials": key,
        "syslog_drain_url": None,
        "volume_mounts": [],
    }
    return json.dumps(
        {"xsuaa": [{"label": "xsuaa", "name": "x", "credentials": {"clientid": "x"}}], "aicore": [aicore]}
    )


def vcap(folder: Path, key: Key) -> dict[str, str]:
    return {"VCAP_SERVICES": vcap_document(key)}


def vcap_file(folder: Path, key: Key) -> dict[str, str]:
    (folder / "vcap").write_text(vcap_document(key))
    return {"VCAP_SERVICES_FILE_PATH": str(folder / "vcap")}


def user_provided(folder: Path, key: Key) -> dict[str, str]:
    binding = {"label": "user-provided", "name": "key-of-aicore", "credentials": key}
    return {"VCAP_SERVICES": json.dumps({"user-provided": [binding]})}


METADATA = {"type": "aicore", "label": "aicore", "plan": "extended", "tags": '["aicore"]',
            "instance_name": "my-aicore", "instance_guid": "00000000-0000-4000-8000-00000000000a"}  # fmt: skip


def texts(key: Key) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in key.items()}


def mount(folder: Path, contents: Mapping[str, str]) -> None:
    """As Kubernetes mounts a secret: each file a link into a folder that is swapped when the secret changes."""
    version = folder / "..2026_11_25_08_00_00.1"
    version.mkdir(parents=True)
    (folder / "..data").symlink_to(version.name)
    for name, content in contents.items():
        (version / name).write_text(content)
        (folder / name).symlink_to(f"..data/{name}")


def properties(names: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "format": "json" if value[:1] in "[{" else "text"} for name, value in names.items()]


def service_binding(folder: Path, key: Key) -> dict[str, str]:
    """servicebinding.io: one folder per binding, with its type."""
    mount(folder / "some-database", {"type": "postgresql", "host": "x"})
    mount(folder / "models", {"type": "aicore", "provider": "sap", **texts(key)})
    return {"SERVICE_BINDING_ROOT": str(folder)}


def btp_operator(folder: Path, key: Key) -> dict[str, str]:
    """SAP BTP service operator: with ``.metadata``."""
    metadata = {"metaDataProperties": properties(METADATA), "credentialProperties": properties(texts(key))}
    mount(folder / "models", {**METADATA, **texts(key), ".metadata": json.dumps(metadata)})
    return {"SERVICE_BINDING_ROOT": str(folder)}


def btp_operator_secret_key(folder: Path, key: Key) -> dict[str, str]:
    """The operator's ``secretKey``: all credentials in one file, a container."""
    container = [{"name": "credentials", "format": "json", "container": True}]
    metadata = {"metaDataProperties": properties(METADATA), "credentialProperties": container}
    mount(folder / "models", {**METADATA, "credentials": json.dumps(key), ".metadata": json.dumps(metadata)})
    return {"SERVICE_BINDING_ROOT": str(folder)}


def btp_operator_root_key(folder: Path, key: Key) -> dict[str, str]:
    """The operator's ``secretRootKey``: everything in one file."""
    mount(folder / "models", {"root": json.dumps({**METADATA, **key})})
    return {"SERVICE_BINDING_ROOT": str(folder)}


def layered(folder: Path, key: Key) -> dict[str, str]:
    """``@sap/xsenv`` and the SAP Cloud SDKs: <root>/<service>/<instance>/."""
    mount(folder / "xsuaa" / "auth", {"clientid": "x"})
    mount(folder / "aicore" / "my-aicore", texts(key))
    return {"SERVICE_BINDING_ROOT": str(folder)}


def flat(folder: Path, key: Key) -> dict[str, str]:
    """SAP Cloud SDK for Python: <root>/<service>/."""
    mount(folder / "aicore", texts(key))
    return {"SERVICE_BINDING_ROOT": str(folder)}


def key_folder(folder: Path, key: Key) -> dict[str, str]:
    (folder / "prod.json").write_text(json.dumps({"credentials": key}))
    return {"AICORE_PROXY_SERVICE_KEYS": str(folder)}


MOUNTED: tuple[Layout, ...] = (
    service_binding, btp_operator, btp_operator_secret_key, btp_operator_root_key, layered, flat,
)  # fmt: skip
LAYOUTS: tuple[Layout, ...] = (
    service_key_variable, variables, certificate_files, configuration, profile, vcap, vcap_file, user_provided,
    *MOUNTED, key_folder,
)  # fmt: skip
