"""Every place where SAP puts credentials, of both kinds, up to the models that they open at the simulator."""

from __future__ import annotations

import datetime
import gc
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from tests.sap import sources
from tests.sap.sources import LAYOUTS, MOUNTED, Key, Layout

from aicore_proxy.sap.ai_api import AiApi
from aicore_proxy.sap.certificate import problem_of, validity
from aicore_proxy.sap.credentials import CredentialsError, Secret, ServiceKey, find_service_keys, service_key
from aicore_proxy.sap.survey import survey
from aicore_proxy.sap.token import TokenError, TokenProvider, client_tls
from aicore_proxy.simulator import Running, in_thread
from aicore_proxy.simulator.landscape import simple
from aicore_proxy.tasks import Supervisor
from aicore_proxy.upstream import PooledUpstream

pytestmark = pytest.mark.timed


class Certificates:
    """A CA that the simulator trusts, and what it issued."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.file)

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert("127.0.0.1").configure_cert(context)
        context.load_verify_locations(self.file)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def pair(self, **more: Any) -> tuple[str, str]:
        """Chain and private key, as SAP makes them: RSA."""
        issued = self.ca.issue_cert("client@example.test", key_type=trustme.KeyType.RSA, **more)
        chain = "".join(pem.bytes().decode() for pem in (*issued.cert_chain_pems, self.ca.cert_pem))
        return chain, issued.private_key_pem.bytes().decode()

    @property
    def environ(self) -> dict[str, str]:
        return {"SSL_CERT_FILE": str(self.file)}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def simulator(certificates: Certificates) -> Iterator[Running]:
    with in_thread(simple(["gpt-5", "anthropic--claude-4.5-sonnet"], 2), certified=certificates.server()) as running:
        yield running


@pytest.fixture(scope="module")
def keys(simulator: Running, certificates: Certificates) -> Mapping[str, Key]:
    """By kind: of ``sub-1`` with a secret, of ``sub-2`` with a certificate."""
    chain, private = certificates.pair()
    simulator.call("PATCH", "subaccounts/sub-2", {"certificate": chain})
    given = simulator.service_keys()
    assert "clientsecret" not in given["sub-2"]
    return {"secret": given["sub-1"], "x509": {**given["sub-2"], "key": private}}


def provider(key: ServiceKey, upstream: PooledUpstream, supervisor: Supervisor, trust: Certificates) -> TokenProvider:
    return TokenProvider(key, upstream, supervisor, tls=client_tls(key, trust.environ))


@pytest.mark.parametrize("kind", ["secret", "x509"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
async def test_credentials_of_every_source_open_the_models(
    keys: Mapping[str, Key],
    certificates: Certificates,
    upstream: PooledUpstream,
    supervisor: Supervisor,
    tmp_path: Path,
    layout: Layout,
    kind: str,
) -> None:
    found = find_service_keys(layout(tmp_path, keys[kind]), tmp_path / "nobody", defaults=())
    (key,) = found.keys
    assert key.by_certificate == (kind == "x509")
    assert (key.client_id, found.notes) == (keys[kind]["clientid"], ())
    assert found.source
    tokens = provider(key, upstream, supervisor, certificates)
    seen = await survey(AiApi(key, upstream, tokens), tokens)
    assert sorted(d.model for d in seen.deployments) == ["anthropic--claude-4.5-sonnet", "gpt-5"]
    assert seen.grant is not None
    assert (seen.grant.scopes, seen.grant.life) == (("uaa.resource",), 43199.0)
    assert all(path.exists() for path in found.files)
    unwatched = {"service_key_variable", "variables", "vcap", "user_provided"}
    if kind == "secret":
        unwatched.add("certificate_files")
    assert bool(found.files) == (layout.__name__ not in unwatched)


def test_the_order_of_all_sources(keys: Mapping[str, Key], tmp_path: Path) -> None:
    """The Python SDK's order, then mounts; a folder of keys comes before all."""
    order = [
        sources.key_folder, sources.service_key_variable, sources.variables, sources.configuration, sources.vcap,
        sources.service_binding,
    ]  # fmt: skip
    environs = []
    for layout in order:
        folder = tmp_path / layout.__name__
        folder.mkdir()
        environs.append(layout(folder, {**keys["secret"], "clientid": layout.__name__}))
    won = []
    for first in range(len(order)):
        environ = {name: value for layer in environs[first:] for name, value in layer.items()}
        won.append(find_service_keys(environ, tmp_path / "nobody", defaults=()).keys[0].client_id)
    assert won == [layout.__name__ for layout in order]


def test_several_bindings_are_several_subaccounts(keys: Mapping[str, Key], tmp_path: Path) -> None:
    given = [
        {"label": "aicore", "name": name, "credentials": {**keys["secret"], "clientid": client}}
        for name, client in (("eu prod", "a"), ("us", "b"), ("us", "c"), ("again", "a"))
    ]
    found = find_service_keys({"VCAP_SERVICES": msgspec.json.encode({"aicore": given}).decode()}, tmp_path)
    assert [(key.name, key.client_id) for key in found.keys] == [("eu-prod", "a"), ("us", "b"), ("us-2", "c")]
    (note,) = found.notes
    assert "the same service key as eu-prod" in note
    for name in ("one", "two"):
        sources.mount(tmp_path / name, {"type": "aicore", **sources.texts({**keys["secret"], "clientid": name})})
    mounted = find_service_keys({}, tmp_path, defaults=(tmp_path,))
    assert [key.name for key in mounted.keys] == ["one", "two"]


@pytest.mark.parametrize("layout", MOUNTED, ids=lambda layout: layout.__name__)
def test_a_rotated_mount_shows_in_the_files_to_watch(keys: Mapping[str, Key], tmp_path: Path, layout: Layout) -> None:
    environ = layout(tmp_path, keys["secret"])
    before = find_service_keys(environ, tmp_path)
    targets = {path: path.resolve() for path in before.files}
    folders = [link.parent for link in tmp_path.rglob("..data")]
    assert folders
    for folder in folders:
        renewed = folder / "..2026_11_25_09_00_00.2"
        renewed.mkdir()
        for path in (folder / "..data").iterdir():
            (renewed / path.name).write_text(path.read_text().replace(keys["secret"]["clientsecret"], "renewed"))
        (folder / "..data").unlink()
        (folder / "..data").symlink_to(renewed.name)
    assert any(path.resolve() != target for path, target in targets.items())
    assert find_service_keys(environ, tmp_path).keys[0].client_secret.value == "renewed"


def test_a_root_without_ai_core_says_so(tmp_path: Path) -> None:
    sources.mount(tmp_path / "database", {"type": "postgresql"})
    found = find_service_keys({"SERVICE_BINDING_ROOT": str(tmp_path)}, tmp_path)
    assert found.keys == ()
    assert "no binding of type aicore" in found.notes[0]


def test_a_configuration_that_may_not_be_read_is_passed_over(keys: Mapping[str, Key], tmp_path: Path) -> None:
    """As the SDK does; root may read everything, so a folder stands in for what cannot be opened."""
    (tmp_path / ".aicore").mkdir()
    (tmp_path / ".aicore" / "config.json").mkdir()
    environ = sources.service_key_variable(tmp_path, keys["secret"])
    assert find_service_keys(environ, tmp_path).keys[0].client_id == keys["secret"]["clientid"]


# X.509: what may be wrong


async def test_a_connection_without_a_certificate_is_refused(
    keys: Mapping[str, Key], certificates: Certificates, supervisor: Supervisor
) -> None:
    """By the handshake, before any request."""
    client = PooledUpstream(tls=ssl.create_default_context(cafile=str(certificates.file)))
    bare = msgspec.structs.replace(
        service_key(keys["x509"], "one", "x"), certificate="", key=Secret(), client_secret=Secret("guess")
    )
    with pytest.raises(TokenError) as caught:
        await TokenProvider(bare, client, supervisor).token()
    assert not caught.value.refused
    await client.close()


@pytest.mark.parametrize("wrong", ["certificate", "authority", "client"])
async def test_a_wrong_certificate_is_refused_as_xsuaa_does(
    keys: Mapping[str, Key],
    certificates: Certificates,
    upstream: PooledUpstream,
    supervisor: Supervisor,
    tmp_path: Path,
    wrong: str,
) -> None:
    """One of the right CA but of nobody, or for another client id: 401. One of another CA: no handshake."""
    issuer = Certificates(tmp_path) if wrong == "authority" else certificates
    chain, private = issuer.pair()
    changed = {"clientid": "sb-other"} if wrong == "client" else {"certificate": chain, "key": private}
    key = service_key({**keys["x509"], **changed}, "one", "x")
    with pytest.raises(TokenError) as caught:
        await provider(key, upstream, supervisor, certificates).token()
    assert caught.value.refused == (wrong != "authority")
    assert ("Bad credentials" in caught.value.message) == (wrong != "authority")
    assert "PRIVATE" not in caught.value.message


async def test_t14_an_expired_certificate_is_named(
    keys: Mapping[str, Key], certificates: Certificates, upstream: PooledUpstream, supervisor: Supervisor
) -> None:
    """SAP makes them for seven days: what an operator must read at once."""
    past = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
    chain, private = certificates.pair(not_before=datetime.datetime(2025, 12, 26, tzinfo=datetime.UTC), not_after=past)
    between = validity(chain)
    assert between is not None
    assert between[1] == past
    key = service_key({**keys["x509"], "certificate": chain, "key": private}, "one", "x")
    with pytest.raises(TokenError, match="expired on 2026-01-02 03:04 UTC: create a new key"):
        await provider(key, upstream, supervisor, certificates).token()


def test_the_validity_is_read_of_any_certificate(certificates: Certificates) -> None:
    far = datetime.datetime(2055, 5, 5, 5, 5, 5, tzinfo=datetime.UTC)  # from 2050 on another kind of time
    chain, _ = certificates.pair(not_after=far)
    between = validity(chain)
    assert between is not None
    assert between[1] == far
    assert between[0] < datetime.datetime.now(datetime.UTC)
    for broken in ("", "no PEM", chain.replace("A", "B", 3), chain[:300] + "-----END CERTIFICATE-----"):
        validity(broken)


def test_a_private_key_is_never_left_behind(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither where the system has files in memory nor where it has not."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    chain, private = certificates.pair()
    for without in (False, True):
        if without:
            monkeypatch.delattr("os.memfd_create", raising=False)
        assert problem_of(chain, private) == ""
        assert problem_of(chain, certificates.pair()[1]) == "key does not belong to the certificate"
        gc.collect()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line_ends", ["\n", "\\n"])
def test_a_key_given_in_the_place_of_its_path_is_not_shown(
    keys: Mapping[str, Key], tmp_path: Path, line_ends: str
) -> None:
    environ = sources.certificate_files(tmp_path, keys["x509"])
    environ["AICORE_KEY_FILE_PATH"] = keys["x509"]["key"].replace("\n", line_ends)
    with pytest.raises(CredentialsError, match="what is given as a path cannot be read") as caught:
        find_service_keys(environ, tmp_path)
    assert "BEGIN" not in str(caught.value)


def test_a_certificate_given_twice_is_an_error_as_in_the_sdk(keys: Mapping[str, Key], tmp_path: Path) -> None:
    environ = sources.variables(tmp_path, keys["x509"]) | sources.certificate_files(tmp_path, keys["x509"])
    with pytest.raises(CredentialsError, match="both AICORE_CERT_STR and AICORE_CERT_FILE_PATH are given"):
        find_service_keys(environ, tmp_path)


ENCRYPTED = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"key": ""}, "one: key is missing"),
        ({"certificate": ""}, "one: certificate is missing"),
        ({"key": "", "certificate": ""}, "one: clientsecret is missing (or, of an X.509 key, certificate and key)"),
        ({"clientsecret": "s"}, "one: both clientsecret and certificate are given: leave one of them out"),
        ({"certificate": "x"}, "one: certificate is not a PEM certificate"),
        ({"key": "x"}, "one: key is not a PEM private key"),
        ({"key": ENCRYPTED}, "one: key is encrypted: a private key without a password is needed"),
        ({"certurl": "http://x"}, "one: certurl is not an https URL"),
    ],
)
def test_what_is_wrong_with_an_x509_key_is_said(keys: Mapping[str, Key], change: Key, problem: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        service_key({**keys["x509"], **change}, "one", "one")
    assert caught.value.problems == (problem,)


def test_the_certificate_goes_to_url_where_there_is_no_certurl(keys: Mapping[str, Key]) -> None:
    """As in the Python SDK, whose users set AICORE_AUTH_URL to that host."""
    raw = {**keys["x509"], "url": "https://acme.authentication.cert.eu10.example.com", "certurl": ""}
    assert service_key(raw, "one", "x").token_url == f"{raw['url']}/oauth/token"
