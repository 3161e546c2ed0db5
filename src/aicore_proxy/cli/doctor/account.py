"""One subaccount from its key to its models' answers. Each step is left out where the one before it failed."""

from __future__ import annotations

import asyncio
import datetime
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from aicore_proxy.cli.accounts import Account, unserved_listed
from aicore_proxy.cli.doctor import advice
from aicore_proxy.cli.doctor.calls import Asking, Called, askings, call
from aicore_proxy.cli.doctor.finding import Section, counted
from aicore_proxy.cli.doctor.hosts import CONNECTING, Reached, reach, variable_of
from aicore_proxy.cli.doctor.machine import tell_validity
from aicore_proxy.landscape import Deployment, admitted
from aicore_proxy.sap.ai_api import AiApiError
from aicore_proxy.sap.certificate import validity
from aicore_proxy.sap.scope import Pin, chosen, missing
from aicore_proxy.sap.survey import GroupSurvey, Listed, Survey, Version, survey
from aicore_proxy.upstream import Proxies

SKEW = 30.0
"""Seconds between two clocks that are worth a word."""
SOON = 90
"""Days before a model's end from which on it is worth a word."""
ENDED = ("STOPPED", "STOPPING", "COMPLETED")


class Looking(Struct, frozen=True):
    """How a subaccount is looked at. ``seconds``: for one step; ``calls``: bounds model calls over all subaccounts,
    None: none are made; ``models``: patterns of the models that are told of and called, none: all; ``source``: where
    the keys are from."""

    environ: Mapping[str, str]
    proxies: Proxies
    source: str
    seconds: float
    calls: asyncio.Semaphore | None
    models: tuple[str, ...] = ()

    def concerns(self, model: str) -> bool:
        """Whether a model is one of those that are asked about."""
        return not self.models or admitted((model,), self.models, ())


async def examine(section: Section, account: Account, looking: Looking) -> Sequence[Deployment]:
    """Tells ``section`` what is; gives the deployments that can be served."""
    _tell_key(section, account)
    if not await _tell_hosts(section, account, looking):
        return ()
    seen = await survey(account.api, account.tokens, account.scope)
    if not _tell_token(section, account, looking, seen):
        return ()
    await _tell_groups(section, account, seen)
    running = _tell_deployments(section, account, looking, seen)
    _tell_retirement(section, [deployment for deployment in running if looking.concerns(deployment.model)], seen)
    _tell_names(section, account, running, seen)
    served = [deployment for deployment in running if account.scope.admits(deployment)]
    if looking.calls is not None:
        await _tell_calls(section, account, served, looking, looking.calls)
    return served


def _tell_key(section: Section, account: Account) -> None:
    key = account.key
    kind = "X.509 certificate" if key.by_certificate else "client secret"
    section.ok("service_key", "Service key", f"well formed, {kind}, {key.client_id}", client_id=key.client_id)
    if key.by_certificate:
        tell_validity(section, "certificate", "Certificate", validity(key.certificate), advice.NEW_KEY)


# The way there


async def _tell_hosts(section: Section, account: Account, looking: Looking) -> bool:
    """Whether both hosts can be reached."""
    tls = {"Token host": account.tls}
    urls = dict(account.hosts)
    reached = await asyncio.gather(
        *(reach(account.upstream, url, looking.proxies, looking.seconds, tls.get(role)) for role, url in urls.items())
    )
    for (role, url), one in zip(urls.items(), reached, strict=True):
        _tell_host(section, role, one, variable_of(looking.environ, url))
    _tell_clock(section, reached)
    return all(one.phase is None for one in reached)


def _tell_host(section: Section, role: str, reached: Reached, variable: str) -> None:
    check = role.lower().replace(" ", "_")
    through = f" through the proxy {reached.proxy} ({variable})" if reached.proxy else ""
    data = {"host": reached.host, "proxy": reached.proxy, "seconds": round(reached.seconds, 3)}
    if reached.phase is None:
        section.ok(check, role, f"{reached.host} answers{through} in {milliseconds(reached.seconds)}", **data)
        return
    steps = advice.unreachable(reached.phase, reached.host, reached.words, reached.proxy, variable, known=reached.known)
    words = reached.words.rstrip(".")
    if reached.proxy and reached.phase in CONNECTING:
        words = f"{reached.host} is not reached{through}: {words.rpartition(': ')[2]}"
    section.fail(check, role, words, steps, **data, stage="dns" if not reached.known else reached.phase.value)


def _tell_clock(section: Section, reached: Iterable[Reached]) -> None:
    skews = [one.skew for one in reached if one.skew is not None]
    if not skews:
        return
    skew = min(skews, key=abs)
    data = {"seconds": round(skew, 1)}
    if abs(skew) < SKEW:
        section.ok("clock", "Clock", "agrees with SAP's", **data)
        return
    words = f"this machine's clock is {duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} SAP's"
    section.warn("clock", "Clock", words, (advice.CLOCK,), **data)


# The account


def _tell_token(section: Section, account: Account, looking: Looking, seen: Survey) -> bool:
    if seen.grant is None:
        problem = seen.token_problem.removeprefix(f"{account.key.name}: ")
        steps = advice.no_token(
            problem, refused=seen.token_refused, by_certificate=account.key.by_certificate, source=looking.source
        )
        section.fail("token", "Token", problem.rstrip("."), steps, refused=seen.token_refused)
        return False
    grant = seen.grant
    scopes = counted(len(grant.scopes), "scope")
    data = {"life": round(grant.life), "scopes": list(grant.scopes)}
    if grant.life < 300:
        words = f"obtained, but it lives for {duration(grant.life)} only"
        step = "Raise the token validity of the client (a few minutes mean a token request every few minutes)."
        section.warn("token", "Token", words, (step,), **data)
    else:
        section.ok("token", "Token", f"obtained, lives {duration(grant.life)}, {scopes}", **data)
    return True


async def _tell_groups(section: Section, account: Account, seen: Survey) -> None:
    names = [group.name for group in seen.groups]
    configured = bool(account.scope.resource_groups)
    if seen.groups_forbidden:
        words = f"this key may not list them, so only {', '.join(names)} is read"
        step = "To read others, name them: resource_groups in the configuration file, or AICORE_RESOURCE_GROUP."
        section.note("resource_groups", "Resource groups", words, (step,), names=names, configured=configured)
    elif seen.groups_problem:
        words = _without(account, seen.groups_problem)
        section.fail("resource_groups", "Resource groups", words, advice.ai_api(None, words), names=names)
    else:
        how = "configured" if configured else "all that this key sees"
        section.ok(
            "resource_groups", "Resource groups", f"{', '.join(names)} ({how})", names=names, configured=configured
        )
    wrong = any(group.status in (403, 404) for group in seen.groups)
    others = await _other_groups(account) if configured and wrong else []
    for group in seen.groups:
        if group.problem:
            words = _without(account, group.problem)
            steps = advice.ai_api(group.status, words, group.name, others)
            section.fail("ai_api", f"Group {group.name}", words, steps, resource_group=group.name, status=group.status)
    if seen.models_problem and not all(group.problem for group in seen.groups):
        words = _without(account, seen.models_problem)
        step = "Retirement dates cannot be told. Everything else works without SAP's catalogue of models."
        section.warn("catalogue", "Model catalogue", words, (step,))


async def _other_groups(account: Account) -> list[str]:
    """Resource groups that the key sees, for one that was named wrongly."""
    try:
        return await account.api.resource_groups()
    except AiApiError:
        return []


def _without(account: Account, problem: str) -> str:
    return problem.removeprefix(f"{account.key.name}: ").rstrip(".")


def _tell_deployments(section: Section, account: Account, looking: Looking, seen: Survey) -> list[Deployment]:
    """Gives those that run and can be served, by model."""
    for group in seen.groups:
        if not group.problem:
            _tell_statuses(section, group)
    running: list[Deployment] = []
    for listed in seen.deployments:
        if listed.status == "RUNNING":
            deployment = account.deployment(listed, seen)
            why = unserved_listed(listed, deployment)
            if deployment is not None and not why:
                running.append(deployment)
            elif looking.concerns(listed.model):
                subject = listed.model or listed.scenario or listed.id
                section.note("deployment", subject, f"{listed.id} is not served: {why}", deployment=listed.id)
        elif looking.concerns(listed.model) and (listed.status not in ENDED or listed.target_status == "RUNNING"):
            _tell_not_running(section, listed)
    if not running and not any(group.problem for group in seen.groups):
        words = "nothing that could be served runs in this subaccount"
        steps = advice.no_deployments(", ".join(group.name for group in seen.groups))
        section.fail("deployments", "Deployments", words, steps, served=0)
    return sorted(running, key=lambda deployment: (deployment.model, deployment.resource_group, deployment.id))


def _tell_statuses(section: Section, group: GroupSurvey) -> None:
    statuses = Counter(listed.status or "UNKNOWN" for listed in group.deployments)
    words = ", ".join(f"{count} {status}" for status, count in statuses.most_common()) or "no deployments"
    tell = section.ok if statuses["RUNNING"] else section.note
    tell("deployments", f"Group {group.name}", words, resource_group=group.name, statuses=dict(statuses))


def _tell_not_running(section: Section, listed: Listed) -> None:
    status = listed.status or "UNKNOWN"
    words = f"{listed.id} in {listed.resource_group} is {status}"
    data = {"deployment": listed.id, "resource_group": listed.resource_group, "status": status}
    section.warn("deployment", listed.model or listed.id, words, advice.not_running(status, listed.message), **data)


def _tell_retirement(section: Section, running: Iterable[Deployment], seen: Survey) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    told: set[tuple[str, str]] = set()
    for deployment in running:
        entry = seen.models.get(deployment.model)
        version = entry.version(deployment.version) if entry is not None else None
        if version is None or (deployment.model, version.name) in told:
            continue
        told.add((deployment.model, version.name))
        _tell_end(section, deployment, version, today)


def _tell_end(section: Section, deployment: Deployment, version: Version, today: datetime.date) -> None:
    try:
        ends = datetime.date.fromisoformat(version.retires[:10])
    except ValueError:
        ends = None
    pinned = deployment.version not in ("", "latest")
    data = {"model": deployment.model, "version": version.name, "retires": version.retires}
    if ends is None:
        if version.deprecated:
            steps = advice.retirement(version.replacements, pinned=pinned)
            section.note("retirement", deployment.model, "is deprecated; SAP names no date yet", steps, **data)
        return
    days = (ends - today).days
    steps = advice.retirement(version.replacements, pinned=pinned)
    if days < 0:
        section.warn("retirement", deployment.model, f"version {version.name} was retired on {ends}", steps, **data)
    elif days <= SOON:
        words = f"version {version.name} retires on {ends}, in {days} days"
        section.warn("retirement", deployment.model, words, steps, **data)
    else:
        section.note("retirement", deployment.model, f"version {version.name} retires on {ends}", steps, **data)


def _tell_names(section: Section, account: Account, running: Sequence[Deployment], seen: Survey) -> None:
    """What the configuration says of this subaccount and its deployments do not bear out."""
    scope = account.scope
    pins = [Pin(name, d) for name, ids in scope.pinned.items() for wanted in ids for d in running if d.id == wanted]
    groups = [group.name for group in seen.groups]
    said = [*chosen(pins)[1], *missing(account.key.name, scope, [d.id for d in running], groups)]
    for words in said:
        step = "Correct subaccounts[].deployments in the configuration file; aicore-proxy models lists what runs."
        section.warn("pinned", "Names", words.removeprefix(f"{account.key.name}: ").rstrip("."), (step,))
    for kind, patterns in (("include", scope.include), ("exclude", scope.exclude)):
        for pattern in patterns:
            if not any(admitted((deployment.model,), (pattern,), ()) for deployment in running):
                words = f"{kind} '{pattern}' meets none of the models that run here"
                section.warn("patterns", "Names", words, ("aicore-proxy models lists what runs.",), pattern=pattern)


# The models


async def _tell_calls(
    section: Section, account: Account, served: Sequence[Deployment], looking: Looking, calls: asyncio.Semaphore
) -> None:
    async def one(deployment: Deployment, asking: Asking) -> Called:
        async with calls:
            return await call(account.upstream, account.tokens, deployment, asking, looking.seconds)

    wanted = [(d, asking) for d in served if looking.concerns(d.model) for asking in askings(d.model)]
    made: list[Called] = []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(deployment, asking)) for deployment, asking in wanted]
        for task in tasks:
            made.append(await task)
            _tell_call(section, made[-1])
    _tell_all_alike(section, made)


def _tell_all_alike(section: Section, made: Sequence[Called]) -> None:
    """That no deployment answers, where all fail in one way: then it is none of them."""
    deployments = {called.deployment for called in made}
    ways = {(called.status, called.phase) for called in made}
    if len(deployments) < 2 or len(ways) > 1 or not all(called.problem for called in made):
        return
    status = made[0].status
    said = f"with {status}" if status is not None else "in the same way"
    groups = ", ".join(sorted({deployment.resource_group for deployment in deployments}))
    words = f"all {len(deployments)} deployments fail {said}"
    tell = section.warn if status == 429 else section.fail
    tell("model_calls", "All models", words, advice.all_failed(status, groups), status=status)


def _tell_call(section: Section, called: Called) -> None:
    deployment = called.deployment
    data = {
        "model": deployment.model,
        "deployment": deployment.id,
        "resource_group": deployment.resource_group,
        "protocol": called.asking.name,
        "stream": called.asking.stream,
        "seconds": round(called.seconds, 3),
        "status": called.status,
    }
    if not called.problem:
        section.ok("model_call", deployment.model, f"{called.asking.name} {milliseconds(called.seconds)}", **data)
        return
    words = f"{called.asking.name}: {called.problem.rstrip('.')}"
    steps = advice.failed_call(called.status, called.phase, called.problem, deployment.resource_group)
    tell = section.warn if called.status == 429 else section.fail
    tell("model_call", deployment.model, words, steps, **data)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"


def duration(seconds: float) -> str:
    """Roughly, in the largest unit that says enough."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (size < 86400 and seconds >= size):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
