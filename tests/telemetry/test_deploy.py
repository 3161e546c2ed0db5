"""Dashboard, alert rules and docs name metrics, labels and values that a proxy really tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.telemetry.reading import Numbers

ROOT = Path(__file__).parents[2]
METRIC = re.compile(r"(?<![\w$])((?:aicore_proxy|gen_ai|process)_\w+)\s*(\{[^}]*\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPED = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
WORDS = {
    *("sum", "max", "min", "rate", "increase", "histogram_quantile", "time", "absent", "by", "and", "bool", "le", "or"),
    "__rate_interval",
}
# Only with an X.509 service key
UNSEEN = {"aicore_proxy_credential_expiry_timestamp_seconds": {"subaccount"}}


def labels_of(numbers: Numbers) -> dict[str, set[str]]:
    """Sample name -> its labels, of everything that /metrics tells."""
    found: dict[str, set[str]] = {name: set(labels) for name, labels in UNSEEN.items()}
    for sample in numbers.samples:
        found.setdefault(sample.name, set()).update(sample.labels)
    return found


def problems(expression: str, numbers: Numbers) -> Iterator[str]:
    """What an expression asks for that is not there."""
    known = labels_of(numbers)
    groups = [label.strip() for group in GROUPED.findall(expression) for label in group.split(",") if label.strip()]
    asked = METRIC.findall(GROUPED.sub("", expression))
    if not asked:
        yield "it asks for nothing"
    for name, braces in asked:
        if name not in known:
            yield f"there is no {name}"
            continue
        matchers = MATCHER.findall(braces)
        if braces.strip("{} ") and len(matchers) != braces.count('"') // 2:
            yield f"{braces} is not understood"
        for label, operator, value in matchers:
            if label not in known[name]:
                yield f"{name} has no label {label}"
            elif operator == "=" and name not in UNSEEN and value not in numbers.values(name, label):
                yield f"{name} has no {label}={value!r}, only {numbers.values(name, label)}"
    there = {label for name, _ in asked for label in known.get(name, ())}
    yield from (f"nothing here has the label {label}" for label in groups if label not in there)
    bare = re.sub(r'"[^"]*"', "", METRIC.sub("", GROUPED.sub("", expression)))
    yield from (f"{word} is no function here" for word in re.findall(r"[A-Za-z_]\w*", bare) if word not in WORDS)
    if any(expression.count(opening) != expression.count(closing) for opening, closing in ("()", "[]", "{}")):
        yield "its brackets do not match"


def durations_out(expression: str) -> str:
    return re.sub(r"\[(\d+[smhd]|\$__rate_interval)\]", "[]", expression)


def alerts() -> list[dict[str, Any]]:
    told = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    return [rule for group in told["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((ROOT / "deploy/grafana/aicore-proxy.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_what_is_there(numbers: Numbers, rule: Mapping[str, Any]) -> None:
    # A refused token is not among what went wrong here, and counts as 0
    assert list(problems(durations_out(rule["expr"]), numbers)) == []
    assert {"summary", "action"} == set(rule["annotations"])
    assert rule["labels"]["severity"] in ("critical", "warning")
    named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert named <= {label.strip() for group in GROUPED.findall(rule["expr"]) for label in group.split(",")}


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: str(panel["title"]))
def test_a_panel_asks_for_what_is_there(numbers: Numbers, panel: Mapping[str, Any]) -> None:
    for target in panel["targets"]:
        assert list(problems(durations_out(target["expr"]), numbers)) == []
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert named <= {label.strip() for group in GROUPED.findall(target["expr"]) for label in group.split(",")}


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/aicore-proxy.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) > 30
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(places) == len(set(places))
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "model", "subaccount"}
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in dashboard["panels"])


def test_the_checks_find_what_is_not_there(numbers: Numbers) -> None:
    wrong = {
        "rate(aicore_proxy_no_such_total[])": "there is no aicore_proxy_no_such_total",
        'aicore_proxy_requests_total{model="x"}': "aicore_proxy_requests_total has no label model",
        "sum by (key) (aicore_proxy_requests_total)": "nothing here has the label key",
        "summ(aicore_proxy_requests_total)": "summ is no function here",
        "sum(aicore_proxy_requests_total": "its brackets do not match",
    }
    assert {expression: next(problems(expression, numbers)) for expression in wrong} == wrong
    assert next(problems('aicore_proxy_tokens_total{type="outpt"}', numbers)).startswith(
        "aicore_proxy_tokens_total has"
    )


KINDS = {"counter": "counter", "histogram": "histogram", "gauge": "gauge"}


def documented() -> dict[str, tuple[str, set[str]]]:
    """Metric -> its kind and labels, as docs/metrics.md has them."""
    found = {}
    for row in (ROOT / "docs/metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) == 6 and re.match(r"`(aicore_proxy|gen_ai|process)_", cells[1]):
            for name in re.findall(r"`(\w+)`", cells[1]):
                found[name] = (cells[2].split(",")[0], set(re.findall(r"`(\w+)`", cells[3])))
    return found


def test_the_docs_name_every_metric_with_its_kind_and_labels(numbers: Numbers) -> None:
    told = {}
    for family in numbers.families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} | UNSEEN.get(name, set())
        told[name] = (family.type, labels - {"le"})

    assert documented() == told


def test_a_limit_is_the_sum_over_workers(numbers: Numbers) -> None:
    # 20 in each of two workers, of which one has met a throttle
    assert [numbers.total("deployment_limit_requests", subaccount=name) for name in ("sub-0", "sub-1")] == [34, 34]


@pytest.mark.parametrize(
    "command",
    [("check", "rules", "alerts.yml"), ("check", "config", "--syntax-only", "prometheus.yml"), ("check", "metrics")],
    ids=lambda command: " ".join(command[:2]),
)
def test_prometheus_takes_it(numbers: Numbers, command: tuple[str, ...]) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed")
    place = ROOT / "deploy/prometheus"
    done = subprocess.run(
        [promtool, *command], cwd=place, input=numbers.text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
