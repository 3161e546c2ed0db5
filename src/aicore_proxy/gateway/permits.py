"""Which models a client key may use.

A key's patterns are matched against the model that would answer, in any of its spellings, and against the operator's
own name (an alias, a pinned name) that led to it; never against what the client wrote, of which it could make anything:
``cheap/gpt-5`` is gpt-5. So a key for ``gpt-5`` may ask for it by every alias, and a key for the alias ``team`` may ask
for ``team`` and for nothing else of that model.
"""

from __future__ import annotations

from aicore_proxy.gateway.keys import Caller
from aicore_proxy.gateway.listing import names, shortened
from aicore_proxy.landscape import Catalog, admitted, catalog_of, spellings
from aicore_proxy.protocol.fault import Fault, Kind

SHOWN = 20


def may_use(caller: Caller, name: str, catalog: Catalog) -> bool:
    """Whether the caller's key is for what ``name`` leads to; a name that leads nowhere is allowed by nothing."""
    model = catalog.resolve(name)
    if model is None:
        return False
    if not caller.models or admitted((model,), caller.models, ()):
        return True
    own = operators_name(name, catalog)
    return own is not None and admitted((own,), caller.models, ())


def visible(caller: Caller, catalog: Catalog) -> Catalog:
    """The Catalog as the caller may see it: only what its key is for."""
    if not caller.models:
        return catalog
    own = (*catalog.naming.aliases, *catalog.pinned)
    # An alias may be allowed where its model by itself is not: so it is shown as a name of the deployments behind it
    named = {name: ways for name in own if (ways := catalog.serving(name)) and may_use(caller, name, catalog)}
    models = [d for model, ways in catalog.by_name.items() if admitted((model,), caller.models, ()) for d in ways]
    return catalog_of(models, catalog.read_at, pinned=named)


def forbidden(caller: Caller, name: str, catalog: Catalog) -> Fault:
    """The 403 for a model that the key is not for: it names those that it is for."""
    listed = names(visible(caller, catalog))
    more = f" and {len(listed) - SHOWN} more (GET /v1/models)" if len(listed) > SHOWN else ""
    may = f"It may use: {', '.join(listed[:SHOWN])}{more}." if listed else "None that it may use is deployed."
    words = f"The key '{caller.name}' may not use the model '{shortened(name)}'. {may}"
    return Fault(Kind.FORBIDDEN, words, code="model_not_allowed", param="model")


def operators_name(name: str, catalog: Catalog) -> str | None:
    """The operator's alias or pinned name that ``name`` is resolved by, None where it is a model's own name."""
    spelled = name if name in catalog.lookup else next((s for s in spellings(name) if s in catalog.lookup), "")
    own = {given.strip().lower(): given for given in (*catalog.pinned, *catalog.naming.aliases)}
    return own.get(spelled)
