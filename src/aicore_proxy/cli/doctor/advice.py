"""What to do about what the doctor found, in SAP's terms. Pure.

Sources: SAP AI Core wire facts, sections 1 (credentials), 2 (AI API) and 8 (which layer says what); SAP Help for the
places in SAP BTP cockpit and SAP AI Launchpad.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from aicore_proxy.upstream import Phase

Steps = tuple[str, ...]

INSTANCE = "SAP BTP cockpit > your subaccount > Services > Instances and Subscriptions > your SAP AI Core instance"
DEPLOYMENTS = "SAP AI Launchpad > ML Operations > Deployments"
GROUPS = "SAP AI Launchpad > SAP AI Core Administration > Resource Groups"
STATUS = "https://www.sap.com/about/trust-center/cloud-service-status.html"
NEW_KEY = f"Create a new service key ({INSTANCE} > Service Keys > Create) and put it in the old one's place."
CLOCK = "Set this machine's clock (timedatectl, chronyc tracking): certificates count only between their dates."
ENTITLEMENT = """The subaccount needs the entitlement SAP AI Core with the service plan 'extended' (SAP BTP cockpit >
    Entitlements > Entity Assignments) and an instance of that plan: 'free' and 'standard' have no generative AI hub."""


def steps(text: str) -> Steps:
    """The paragraphs of ``text``, each on one line."""
    return tuple(" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip())


# Credentials


def no_key() -> Steps:
    """For an environment without any service key."""
    return steps(f"""
        Create one: {INSTANCE} > Service Keys > Create. Give it in one of these ways:

        AICORE_SERVICE_KEY='<its JSON>'

        AICORE_CLIENT_ID, AICORE_CLIENT_SECRET, AICORE_AUTH_URL, AICORE_BASE_URL, or ~/.aicore/config.json, as for
        SAP's own SDKs

        AICORE_PROXY_SERVICE_KEYS=<a folder with one JSON file per subaccount>

        subaccounts in the configuration file

        To see what this command tells without an account: aicore-proxy doctor --demo""")


def unusable_key(problem: str) -> Steps:
    """For one problem of a service key that cannot be used."""
    if "not valid JSON" in problem or "not a JSON object" in problem:
        return steps("""
            Give the service key whole, from { to }. A shell eats quotes and $ unless all of it stands in 'single
            quotes'; safer is a file in the folder that AICORE_PROXY_SERVICE_KEYS names.""")
    if "cannot be read" in problem:
        return steps("Correct the path, or give the user that runs the proxy the right to read that file.")
    if "no *.json file" in problem:
        return steps("Put a file for each subaccount there: the service key as SAP gave it, <your name for it>.json.")
    if "URL" in problem or "url" in problem:
        return steps(f"This is not a whole service key of SAP AI Core: copy it from {INSTANCE} > Service Keys > View.")
    return steps(f"Copy the whole service key again ({INSTANCE} > Service Keys > View), or create a new one.")


def no_token(problem: str, *, refused: bool, by_certificate: bool, source: str) -> Steps:
    """For a token service that was reached and gives none."""
    status = int(match[1]) if (match := re.search(r"status (\d{3})", problem)) else None
    if "certificate of the service key" in problem:
        return steps(f"""
            {NEW_KEY}

            X.509 keys live for seven days unless created with a longer life: {{"xsuaa": {{"credential-type": "x509",
            "x509": {{"key-length": 2048, "validity": 365, "validity-type": "DAYS"}}}}}}""")
    if status == 429:
        return steps("Too many token requests of this client: wait a minute, and let fewer processes use this key.")
    if refused:
        what = "certificate" if by_certificate else "secret"
        return steps(f"""
            Client id and {what} do not count (any more): the key was deleted or rotated, was not copied whole, or is of
            another subaccount than its token URL. It came from {source}.

            {NEW_KEY}""")
    if status is not None and status >= 500:
        return steps(f"SAP's token service has trouble, nothing here is to be changed. See {STATUS}")
    if "did not answer" in problem:
        return steps(f"The token service hangs: try again, then see {STATUS}")
    if status is None and "the token service failed:" in problem:
        return steps("The connection broke: try again. If it stays, a firewall or TLS inspection on the way does it.")
    return steps("""
        That host is no token service. The member url of the service key (certurl of an X.509 key) must be as SAP gave
        it: https://<zone>.authentication.<region>.hana.ondemand.com""")


# The way to SAP


def unreachable(phase: Phase, host: str, words: str, proxy: str, variable: str, *, known: bool = True) -> Steps:
    """For a host that was not reached. ``proxy``: through which (without credentials), ``variable``: that names it;
    ``known``: whether the name of the host (of the proxy, where there is one) is known to the resolver."""
    if phase is Phase.TLS:
        return (*_untrusted(host, words), *(steps(f"The way goes through the proxy {proxy}.") if proxy else ()))
    if proxy:
        return _behind_proxy(host, proxy, variable, words, known=known)
    if not known:
        return steps(f"""
            This machine cannot resolve the name: getent hosts {host.partition(":")[0]}. Compare it with the service
            key; or the resolver (/etc/resolv.conf, the VPN) knows no names of the internet.

            If this network reaches the internet only through an HTTP proxy: HTTPS_PROXY=http://<host>:<port>""")
    match phase:
        case Phase.CONNECT_TIMEOUT:
            return steps(f"""
                Nothing comes back: a firewall drops the packets. Have it let out connections to {host}, or name
                this network's HTTP proxy: HTTPS_PROXY=http://<host>:<port>""")
        case Phase.CONNECT:
            return steps("""
                The name is known, but nothing takes connections there. Compare the URL with the service key; then the
                firewall; then whether this network wants an HTTP proxy: HTTPS_PROXY=http://<host>:<port>""")
        case Phase.FIRST_BYTE_TIMEOUT | Phase.BETWEEN_BYTES_TIMEOUT:
            return steps(f"It takes the connection and then says nothing: try again, then see {STATUS}")
    return steps(
        "Something on the way (firewall, TLS inspection, load balancer) breaks the connection: ask your network."
    )


def _behind_proxy(host: str, proxy: str, variable: str, words: str, *, known: bool) -> Steps:
    name = host.partition(":")[0]
    bypass = f"If {name} can be reached without a proxy, say so: NO_PROXY={name}"
    if not known:
        return steps(f"""
            The proxy {proxy} of {variable} has a name that this machine cannot resolve: correct or unset {variable}.

            {bypass}""")
    if "status 407" in words:
        return steps(f"""
            The proxy {proxy} wants a user and a password, or others than it gets:
            {variable}=http://<user>:<password>@<host>:<port>, special characters written as %40 and the like.

            {bypass}""")
    return steps(f"""
        {variable} sends this through the proxy {proxy}, which is not there or does not let it pass: correct or unset
        {variable}, or have the proxy allow CONNECT to {host}.

        {bypass}""")


def _untrusted(host: str, words: str) -> Steps:
    look = f"See whose it is: openssl s_client -connect {host if ':' in host else host + ':443'} -showcerts </dev/null"
    if "expired" in words or "not yet valid" in words:
        return steps(f"""
            Either that certificate is out of its time, or this machine's clock is wrong. {CLOCK}

            {look}""")
    if "wrong version" in words.lower() or "record layer" in words.lower():
        return steps("""
            What answers there does not speak TLS: compare scheme and port of the URL with the service key. If a proxy
            is on the way, its own URL mostly begins with http://, also for HTTPS_PROXY.""")
    if "match" in words or "not valid for" in words:
        return steps(f"""
            Another host answers under that name: compare the URL with the service key.

            {look}""")
    return steps(f"""
        If your company inspects TLS: put its CA certificate (PEM) into a file and name that file in
        AICORE_PROXY_CA_BUNDLE. It is trusted beside the system's; nothing is to be switched off.

        {look}""")


# The account


def ai_api(status: int | None, words: str, group: str = "", others: Sequence[str] = ()) -> Steps:
    """For an AI API that was reached and does not answer as it should; ``group``: the resource group asked for;
    ``others``: those that the key sees, where ``group`` was configured and is refused."""
    if others and group not in others:
        near = difflib.get_close_matches(group, others, 1)
        meant = f"Did you mean {near[0]}?" if near else ""
        return steps(f"""
            The key sees the resource groups {", ".join(others)}. {meant} Correct resource_groups or
            AICORE_RESOURCE_GROUP; names are compared exactly. All of them: {GROUPS}.""")
    where = f"the resource group '{group}'" if group else "what was asked for"
    match status:
        case None:
            return steps(f"Try again; if it stays, see {STATUS}")
        case 401:
            return steps(f"""
                The token was given, but the AI API does not take it: serviceurls.AI_API_URL is of another region or
                subaccount than the credentials. Take both from one service key.

                {CLOCK}""")
        case 403:
            return steps(f"""
                SAP says 403 for three different things. First: {where} does not exist, or is not this key's (it is sent
                as AI-Resource-Group and compared exactly). See {GROUPS}.

                Second: AI_API_URL is of another subaccount or region than the credentials. Take both from one key.

                Third: the tenant may not. {ENTITLEMENT}""")
        case 404:
            return steps(f"""
                Either {where} does not exist: see {GROUPS}, then correct resource_groups or AICORE_RESOURCE_GROUP.

                Or AI_API_URL is not the AI API's. It looks like https://api.ai.prod.eu-central-1.aws.ml.hana.ondemand.com
                with nothing after it.""")
        case 429:
            return steps("The AI API throttles this tenant: wait a minute; raise discovery_interval.")
    if status >= 500:
        return steps(f"""
            SAP's AI API has trouble, nothing here is to be changed. See {STATUS} A running proxy goes on with the
            deployments that it knows.""")
    return steps(f"This is not how the AI API answers: check serviceurls.AI_API_URL. It said: {words}")


def no_deployments(groups: str) -> Steps:
    """For a subaccount in which nothing runs."""
    return steps(f"""
        Deploy a model in one of these resource groups: {groups}. SAP AI Launchpad > ML Operations > Configurations >
        Create (scenario foundation-models, executable, modelName, modelVersion latest), then {DEPLOYMENTS} > Create.
        Your user needs a role collection with the role mloperations_editor.

        If yours run in another resource group, name it: resource_groups in the configuration file, or
        AICORE_RESOURCE_GROUP. This key sees only those above.

        {ENTITLEMENT}""")


def not_running(status: str, message: str) -> Steps:
    """For a deployment that should run and does not."""
    said = f"SAP says: {message}" if message else ""
    match status:
        case "DEAD":
            return steps(f"""
                It does not come back by itself. {said} Look at its logs ({DEPLOYMENTS} > the deployment > Logs), delete
                it and deploy the model again.""")
        case "PENDING" | "UNKNOWN":
            return steps(f"It is starting, which takes minutes; the proxy serves it as soon as it is RUNNING. {said}")
    return steps(f"Look at it in {DEPLOYMENTS}. {said}")


def retirement(replacements: tuple[str, ...], *, pinned: bool) -> Steps:
    """For a model whose version ends. ``pinned``: the deployment names that very version."""
    instead = f"SAP suggests {', '.join(replacements)}." if replacements else ""
    if pinned:
        return steps(f"""
            A deployment of a fixed version ends with it: change its configuration to modelVersion latest, or deploy
            another model ({DEPLOYMENTS}). {instead}""")
    return steps(f"A deployment of 'latest' moves on only if SAP brings another version: plan another model. {instead}")


# The models


def failed_call(status: int | None, phase: Phase | None, words: str, group: str) -> Steps:
    """For a model call that failed. ``status``: of SAP's answer; ``phase``: where it failed without one."""
    again = f"look at it in {DEPLOYMENTS} (resource group '{group}'); stop and start it, or deploy the model anew."
    match status:
        case None:
            return _unanswered(phase, again)
        case 401:
            return steps(f"""
                The AI API takes this token and the deployment does not. Try again; if it stays: {NEW_KEY}""")
        case 403:
            return steps(f"""
                SAP says 403 also where there is no such deployment: it was stopped, deleted or moved, is only
                minutes old, or is not in the resource group '{group}' (which is sent as AI-Resource-Group). So {again}

                If all models say so, the tenant may not ask them. {ENTITLEMENT}""")
        case 404:
            return steps(f"""
                SAP lists this deployment but does not find it: it was stopped or deleted a moment ago, or deployed only
                minutes ago. Wait; then: {again}""")
        case 429:
            return steps("""
                It works, but the requests per minute of this tenant and model are used up. The proxy turns to other
                deployments meanwhile: deploy the model in a further subaccount too, or ask SAP for more quota (a ticket
                for component CA-ML-AIC).""")
        case 400 if "ubpath" in words:
            return steps(
                "SAP does not open this path for this model. Nothing of yours is wrong: report it to this project."
            )
    if status >= 500:
        return steps(f"""
            SAP or the model's vendor has trouble, nothing here is to be changed. Try again; see {STATUS}

            If for hours only this one fails: {again}""")
    return steps("The model refuses what it usually takes: report the words above to this project.")


def all_failed(status: int | None, group: str) -> Steps:
    """For a subaccount whose every deployment failed in the same way."""
    if status in (401, 403, 404):
        return steps(f"""
            Not one deployment but the tenant, or the resource group ('{group}', sent as AI-Resource-Group), is refused,
            although the AI API lists them. Compare AI_API_URL and credentials: both must be of one service key.

            {ENTITLEMENT}

            If nothing of yours changed, SAP's inference may be down in this region: {STATUS}""")
    if status == 429:
        return steps("The whole tenant is throttled: wait a minute, then see whose requests these are.")
    return steps(f"Since all fail alike, it is hardly the deployments: see {STATUS}, and what is on the way to SAP.")


def _unanswered(phase: Phase | None, again: str) -> Steps:
    match phase:
        case Phase.FIRST_BYTE_TIMEOUT | Phase.BETWEEN_BYTES_TIMEOUT:
            return steps(f"It is busy or it hangs. Try once more with a longer --timeout. If it stays: {again}")
        case None:
            return steps(f"What came is no answer of that model. Try again; if it stays: {again}")
    return steps(f"The connection breaks although the AI API answers: try again; see {STATUS}")
