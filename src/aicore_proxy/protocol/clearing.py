"""What only its own dialect understands leaves a request before another dialect writes it."""

from __future__ import annotations

from msgspec.structs import replace

from aicore_proxy.protocol.neutral import NOTHING, Extras, Foreign, Loss, Part, Request, ToolResult


def cleared(request: Request, dialect: str, losses: list[Loss]) -> Request:
    """``request`` without what only its source dialect understands, for an encoder of ``dialect``; each thing taken
    away is appended to ``losses``. The same request where both are the same dialect.

    A block that only the source understands is content: where the user says something with it the Loss is not
    harmless. In the model's own turns it is the trace of a server tool, in a tool result one piece of several.
    """
    if request.source == dialect:
        return request

    def lost(path: str, extras: Extras) -> None:
        losses.extend(Loss(f"{path}{name}", dialect) for name in extras)

    def bare(part: Part, path: str, *, harmless: bool = True) -> Part | None:
        match part:
            case Foreign(dialect=owner, block=block):
                if owner == dialect:
                    return part
                name = block.get("type") or next(iter(block), "unknown")
                field, why = f"{path}{name}", "block of another API"
                if part.path and not harmless:
                    field, why = part.path, f"a block of type '{name}', which only another API has"
                losses.append(Loss(field, dialect, harmless, why))
                return None
            case ToolResult(content=content):
                kept = tuple(p for p in (bare(piece, path) for piece in content) if p is not None)
                lost(path, part.extras)
                return replace(part, content=kept, extras=NOTHING)
            case _:
                if part.extras:
                    lost(path, part.extras)
                    return replace(part, extras=NOTHING)
                return part

    turns = []
    for turn in request.turns:
        lost("messages.", turn.extras)
        told = turn.role == "assistant"
        parts = tuple(p for p in (bare(part, "content.", harmless=told) for part in turn.parts) if p is not None)
        turns.append(replace(turn, parts=parts, extras=NOTHING))
    for tool in request.tools:
        lost("tools.", tool.extras)
    lost("", request.extras)
    if request.tool_choice:
        lost("tool_choice.", request.tool_choice.extras)
    if request.reasoning:
        lost("reasoning.", request.reasoning.extras)
    return replace(
        request,
        turns=tuple(turns),
        tools=tuple(replace(tool, extras=NOTHING) for tool in request.tools),
        tool_choice=request.tool_choice and replace(request.tool_choice, extras=NOTHING),
        reasoning=request.reasoning and replace(request.reasoning, extras=NOTHING),
        extras=NOTHING,
    )
