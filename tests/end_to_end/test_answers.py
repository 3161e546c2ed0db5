"""What every answer carries, what none shows, and what is for whom."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import httpx2
import pytest
from tests.edge.raw import Raw
from tests.end_to_end.asking import MODELS, PATHS, PROTOCOLS, body, simulate
from tests.end_to_end.configuring import Configured, serving, until
from tests.end_to_end.conftest import KEY, Proxy, Simulator, running_proxy, running_simulator

EVIL = "<script>alert(1)</script>"


def assert_guarded(answer: httpx2.Response) -> None:
    """Each once: kept by nobody, taken for nothing else, and no word on what serves."""
    for name, value in (("cache-control", "no-store"), ("x-content-type-options", "nosniff")):
        assert answer.headers.get_list(name) == [value], (answer.request.url, answer.headers)
    assert not {"server", "x-powered-by", "via"} & answer.headers.keys()
    assert "uvicorn" not in str(answer.headers)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_i18_every_answer_of_a_model_is_guarded(proxy: Proxy, protocol: str, model: str) -> None:
    scripts: list[dict[str, object]] = [
        {}, {"events": 3}, {"status": 429}, {"status": 400}, {"status": 500}, {"status": 404}, {"empty": True},
        {"garbage": "html"}, {"reset": True}, {"error_after": 2, "events": 4}, {"refuse": "content_filter"},
        {"headers": {"cache-control": "public, max-age=600", "server": "envoy/1.2", "x-content-type-options": "x"}},
    ]  # fmt: skip
    statuses = set()
    for script in scripts:
        for stream in (False, True):
            asked = body(protocol, model, simulate(**script), stream=stream)
            answer = proxy.http.post(PATHS[protocol], json=asked)
            assert_guarded(answer)
            statuses.add(answer.status_code)
    assert {200, 429, 400, 502} <= statuses


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200), ("HEAD", "/v1/models", 200), ("GET", "/v1/models/gpt-5", 200),
        ("GET", "/v1/models/none", 404), ("GET", "/v1/none", 404), ("DELETE", "/v1/messages", 405),
        ("POST", "/v1/messages", 400), ("POST", "/v1/embeddings", 400), ("OPTIONS", "/v1/messages", 405),
        ("GET", "/health", 200), ("GET", "/health/ready", 200), ("POST", "/health", 405), ("GET", "/metrics", 200),
        ("GET", "/docs", 200), ("GET", "/openapi.json", 200), ("GET", "/why/none", 404), ("GET", "/why/a/b", 404),
    ],
)  # fmt: skip
def test_i18_every_other_answer_too(proxy: Proxy, method: str, path: str, status: int) -> None:
    answer = proxy.http.request(method, path)
    assert answer.status_code == status
    assert_guarded(answer)


@pytest.fixture(scope="module")
def guessed(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One of its own for wrong keys: too many of them are slowed."""
    with running_proxy(tmp_path_factory.mktemp("guessed"), simulator) as proxy:
        yield proxy


def test_i18_also_where_a_key_is_wrong_or_what_came_is_no_request(guessed: Proxy) -> None:
    for path in (*PATHS.values(), "/v1/models", "/v1/none"):
        for key in ("", "Bearer sk-wrong-for-i18"):
            assert_guarded(guessed.http.post(path, headers={"Authorization": key}))
    for line in (b"GET /v1/models HTTP/1.1\r\n\r\n", b"hello\r\n\r\n", b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n"):
        with Raw(guessed.port) as client:
            client.send(line)
            refused = client.answer()
        assert refused.status in (400, 414)
        assert [refused.field("cache-control"), refused.field("x-content-type-options")] == ["no-store", "nosniff"]
        assert refused.field("server") is None


def test_i19_markup_is_never_live(guessed: Proxy) -> None:
    """Whatever it stands in comes back as JSON or text, which no browser takes for HTML."""
    headers = {"User-Agent": EVIL, "x-request-id": EVIL, "x-aicore-proxy-timeout": EVIL, "Referer": EVIL}
    answers = []
    for protocol in PROTOCOLS:
        for model, text, role in ((EVIL, "Hello!", "user"), ("gpt-5", EVIL, "user"), ("gpt-5", "Hello!", EVIL)):
            asked = body(protocol, model, text)
            asked["messages"][0]["role"] = role
            for more in ({}, headers, {"Authorization": f"Bearer {EVIL}"}):
                answers.append(guessed.http.post(PATHS[protocol], json=asked, headers=more))
        echoed = body(protocol, "gpt-5", simulate(text=EVIL))
        answers += [guessed.http.post(PATHS[protocol], json={**echoed, "stream": stream}) for stream in (False, True)]
        failed = body(protocol, "gpt-5", simulate(status=400, message=EVIL, layer="proxy", content_type="text/html"))
        answers.append(guessed.http.post(PATHS[protocol], json=failed))
        page = body(protocol, "gpt-5", simulate(status=502, body=f"<html>{EVIL}</html>", content_type="text/html"))
        answers.append(guessed.http.post(PATHS[protocol], json=page))
    for path in (f"/{EVIL}", f"/v1/models/{EVIL}", f"/why/{EVIL}", f"/v1/models?key={EVIL}", f"/health?{EVIL}"):
        answers += [guessed.http.get(path), guessed.http.post(path)]
    answers += [
        guessed.http.get(path, headers=headers) for path in ("/metrics", "/v1/models", "/openapi.json", "/health")
    ]
    with Raw(guessed.port) as client:
        client.send(f"GET /{EVIL} HTTP/1.1\r\nHost: {EVIL}\r\n\r\n".encode())
        refused = client.answer()
    assert refused.field("content-type") == "application/json"

    for answer in answers:
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in ("application/json", "text/event-stream", "text/plain"), (answer.request.url, kind)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not [value for name, value in answer.headers.items() if "<" in value]
    assert sum(EVIL in answer.text for answer in answers) >= 8  # it does come back
    page_of_docs = guessed.http.get("/docs", headers=headers)
    assert page_of_docs.headers["content-type"].startswith("text/html")
    assert EVIL not in page_of_docs.text
    assert not re.search("<script", guessed.http.get("/metrics").text)


METRICS_KEY = "sk-of-prometheus"


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Configured]:
    """A proxy as one would have it that others reach."""
    home = tmp_path_factory.mktemp("public")
    (home / "metrics.key").write_text(METRICS_KEY)
    with running_simulator(home, landscape={"subaccounts": {"eu": ["gpt-5"]}}) as simulator:
        made = Configured(home, simulator.service_keys())
        made.write(made.settings("eu", openapi=False, metrics_key_file="metrics.key"))
        with serving(made):
            yield made


def test_i21_the_openapi_page_can_be_switched_off(public: Configured, proxy: Proxy) -> None:
    for path in ("/docs", "/openapi.json", "/redoc"):
        answer = public.proxy.http.get(path)
        assert answer.status_code == 404
        assert "openapi" not in answer.text.lower().replace(path, "")
    assert {proxy.http.get(path, headers={"Authorization": ""}).status_code for path in ("/docs", "/openapi.json")} == {
        200
    }


def test_i21_metrics_have_a_key_of_their_own(public: Configured) -> None:
    http = httpx2.Client(base_url=public.proxy.url, trust_env=False)

    def seen(**headers: bytes) -> int:
        answer = http.get("/metrics", headers=[(name.encode(), value) for name, value in headers.items()])
        assert ("aicore_proxy_" in answer.text) == (answer.status_code == 200)
        return answer.status_code

    def bearer(key: str) -> int:
        return seen(authorization=f"Bearer {key}".encode())

    assert [bearer(METRICS_KEY), seen(**{"x-api-key": METRICS_KEY.encode()})] == [200, 200]
    assert [seen(), bearer(KEY), bearer(METRICS_KEY + "x"), bearer(METRICS_KEY[:-1]), bearer("ü")] == [401] * 5
    assert public.ask("gpt-5", METRICS_KEY).status_code == 401, "it opens nothing else"
    assert http.get("/health").json() == {"status": "ok"}

    (public.home / "metrics.key").write_text("sk-another-of-prometheus")
    until(lambda: bearer("sk-another-of-prometheus") == 200, 5)
    assert bearer(METRICS_KEY) == 401
    public.logged("Reloaded: metrics_key")
    assert METRICS_KEY not in public.log
    assert "sk-another" not in public.log


OUT = ("..", "%2e%2e", "%2E%2e", ".%2e", "%252e%252e", "..%2f..", "..%5c..", "....", "..;", "\\..")
PRIVATE = (
    "admin",
    "dashboard",
    "debug",
    "config",
    ".env",
    "service-keys",
    "etc/passwd",
    "proc/self/environ",
    "_simulator",
)
MOUNTS = ("", "v1/", "v1/models/", "docs/", "health/", "metrics/", "why/", "v1beta/", "static/", "admin/")


@pytest.mark.parametrize("keyed", [False, True])
def test_i16_no_path_leads_out_of_what_is_served(proxy: Proxy, keyed: bool) -> None:
    """Byte for byte as a raw client sends it: libraries take `..` out by themselves."""
    key = f"Authorization: Bearer {KEY}\r\n" if keyed else ""
    targets = [
        *(f"/{mount}{out}/{out}/{place}" for mount in MOUNTS for out in OUT for place in ("etc/passwd", "metrics")),
        *(f"/{mount}{place}" for mount in MOUNTS for place in PRIVATE),
        *("//etc/passwd", "/./metrics/../../etc/passwd", "/docs//", "/openapi.json/..", "/metrics%00"),
    ]  # fmt: skip
    found: Counter[int] = Counter()
    for target in targets:
        with Raw(proxy.port) as client:
            client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n{key}Connection: close\r\n\r\n".encode())
            answer = client.answer()
        assert answer.status in (400, 401, 403, 404), target
        assert b"root:" not in answer.body
        assert answer.field("content-type") == "application/json", target
        found[answer.status] += 1
    assert found[404] > 100
