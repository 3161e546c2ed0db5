"""Mutation testing of the pure rooms: a seeded sample of mutants, each against its room's own tests. ``make mutate``.

A mutant is one small change of the code: another comparison, a number plus one, a statement left out. It is made in
memory while the package is imported in a forked process; no file changes. Only tests that reach the changed statement
run, the quickest first, up to the first that fails. Results are kept in ``.mutation/``: a run goes on where it stopped.

``make mutate ARGS="routing --again"`` runs a room's survivors again, when tests were added; ``--list`` only shows them.

Left out, since no test should tell them apart: docstrings, annotations, imports, assertions (they narrow types),
decorators, ``cast``, a Struct's ``frozen``, ``kw_only`` and ``gc``, and prose (texts with a space between words).
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import importlib.machinery
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import coverage
import hypothesis
import msgspec
import pytest

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".mutation"
ROOMS = {"protocol": ["tests/protocol", "tests/properties", "tests/rosetta"], "routing": ["tests/routing"]}
MEMORY = 6 << 30
BROKEN = 99
WARM = ["anthropic", "anthropic.types", "fastapi", "openai", "openai.types.chat", "pytest_asyncio"]
"""What the tests import from others: once, before any fork."""

COMPARED: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is], ast.In: [ast.NotIn],
    ast.NotIn: [ast.In], ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
}  # fmt: skip
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}  # fmt: skip
ANNOTATIONS = {"annotation", "returns", "decorator_list"}
DECLARED = {"frozen", "kw_only", "gc"}


class Mutant(msgspec.Struct):
    path: str
    line: int
    where: str
    operator: str
    lines: list[int]
    """Of the statement: who reaches one of these may tell."""
    nth: int
    """Which of its file's."""
    key: str
    """The same while the statement and what is around it stay."""


class Result(msgspec.Struct):
    key: str
    outcome: str
    """killed, timeout, survived, unreached"""
    tests: int
    seconds: float


class Site(msgspec.Struct):
    """One place, and what to put there: ``setattr(holder, field, new)``, or item ``index`` of that list."""

    operator: str
    holder: ast.AST
    field: str
    index: int | None
    new: Any
    statement: ast.stmt
    where: str

    def apply(self) -> None:
        if self.index is None:
            setattr(self.holder, self.field, self.new)
        elif self.new is None:
            del getattr(self.holder, self.field)[self.index]
        else:
            getattr(self.holder, self.field)[self.index] = self.new


def prose(value: object) -> bool:
    return isinstance(value, str) and any(
        a.strip() and b.strip() for a, b in zip(value.split(" "), value.split(" ")[1:], strict=False)
    )


def constants(value: object) -> list[bool | int | float | str | bytes]:
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [value + 1]
        case str() if not prose(value):
            return [f"XX{value}XX"]
        case bytes():
            return [b"XX%bXX" % value]
    return []


def negated(test: ast.expr) -> list[tuple[str, ast.expr]]:
    """Of a condition; comparisons and ``not`` have mutants of their own that do the same."""
    if isinstance(test, ast.Compare | ast.Constant) or (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
        return []
    return [("negated condition", ast.UnaryOp(ast.Not(), test))]


def replacements(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand in the place of a node."""
    match node:
        case ast.Compare():
            for at, op in enumerate(node.ops):
                for other in COMPARED[type(op)]:
                    ops = [*node.ops[:at], other(), *node.ops[at + 1 :]]
                    yield "comparison", ast.Compare(node.left, ops, node.comparators)
        case ast.BoolOp():
            yield "and/or", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield "dropped operator", node.operand
        case ast.BinOp():
            if type(node.op) in COMPUTED:
                yield "arithmetic", ast.BinOp(node.left, COMPUTED[type(node.op)](), node.right)
        case ast.Constant():
            for value in constants(node.value):
                yield "constant", ast.Constant(value)
        case ast.AugAssign():
            if type(node.op) in COMPUTED:
                yield "arithmetic", ast.AugAssign(node.target, COMPUTED[type(node.op)](), node.value)
            yield "removed statement", ast.Pass()
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "return value", ast.Return(ast.Constant(None))
        case ast.Continue():
            yield "loop", ast.Break()
        case ast.Break():
            yield "loop", ast.Continue()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Delete() | ast.Raise():
            yield "removed statement", ast.Pass()
        case ast.Expr(value=ast.Call() | ast.Await() | ast.Yield() | ast.YieldFrom()):
            yield "removed statement", ast.Pass()


def places(node: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    for field, value in ast.iter_fields(node):
        if isinstance(value, ast.AST):
            yield field, None, value
        elif isinstance(value, list):
            yield from ((field, at, item) for at, item in enumerate(value) if isinstance(item, ast.AST))


def skipped(holder: ast.AST, field: str, node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Assert() | ast.Expr(value=ast.Constant()):
            return True
        case ast.keyword() if isinstance(holder, ast.ClassDef):
            return node.arg in DECLARED
        case ast.Assign(targets=[ast.Name(id="__slots__" | "__all__")]):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Constant() if isinstance(holder, ast.JoinedStr):
            return any(isinstance(part, ast.Constant) and prose(f"a{part.value!s}a") for part in holder.values)
    cast = isinstance(holder, ast.Call) and isinstance(holder.func, ast.Name) and holder.func.id in {"cast", "TypeVar"}
    return field in ANNOTATIONS or cast


def sites(node: ast.AST, statement: ast.stmt | None = None, where: str = "") -> Iterator[Site]:
    """Every place of a tree, always in the same order."""
    for field, index, child in places(node):
        if skipped(node, field, child):
            continue
        inside = child if isinstance(child, ast.stmt) else statement
        assert inside is not None
        found = list(replacements(child))
        if field in {"test", "guard"}:
            assert isinstance(child, ast.expr)
            found += negated(child)
        elif field == "ifs":
            found.append(("dropped filter", ast.Constant(True)))
        for operator, new in found:
            yield Site(operator, node, field, index, new, inside, where)
        if isinstance(child, ast.keyword) and isinstance(node, ast.Call) and child.arg:
            yield Site("dropped keyword", node, field, index, None, inside, where)
        named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from sites(child, inside, f"{where}.{child.name}".lstrip(".") if named else where)  # type: ignore[attr-defined]


def header(statement: ast.stmt) -> range:
    """The lines of a statement without the statements in it."""
    body = getattr(statement, "body", None)
    last = max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno or statement.lineno
    return range(statement.lineno, last + 1)


def mutants(room: str) -> list[Mutant]:
    found = []
    for path in sorted((ROOT / "src/aicore_proxy" / room).rglob("*.py")):
        seen: Counter[str] = Counter()
        name = path.relative_to(ROOT).as_posix()
        for nth, site in enumerate(sites(ast.parse(path.read_bytes()))):
            field = getattr(site.holder, site.field)
            old = field if site.index is None else field[site.index]
            new = ast.unparse(site.new) if site.new else ""
            what = f"{name} {site.where} {site.operator} {ast.unparse(old)} -> {new}"
            seen[what] += 1
            key = sha256(f"{what} {seen[what]}".encode()).hexdigest()[:16]
            line = getattr(old, "lineno", site.statement.lineno)
            lines = [line] if isinstance(site.statement, ast.Match) else [*header(site.statement)]
            found.append(Mutant(name, line, site.where, site.operator, lines, nth, key))
    return found


def sample(room: str, seed: int, count: int) -> list[Mutant]:
    """Which mutants are in it hangs on each one's key, so that a change elsewhere leaves the sample nearly the same."""
    return sorted(mutants(room), key=lambda mutant: sha256(f"{seed} {mutant.key}".encode()).digest())[:count]


def mutated(mutant: Mutant) -> tuple[ast.Module, str]:
    """The tree with the change in it, and the change as a diff."""
    tree = ast.parse((ROOT / mutant.path).read_bytes())
    site = next(site for nth, site in enumerate(sites(tree)) if nth == mutant.nth)
    before = ast.unparse(tree).splitlines()
    site.new = copy.deepcopy(site.new)  # it shares parts with what it replaces
    site.apply()
    after = ast.unparse(tree).splitlines()
    changed = [
        line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[:2] not in ("--", "++", "@@")
    ]
    return ast.fix_missing_locations(tree), "\n".join(line[0] + " " + line[1:].strip() for line in changed)


class Import:
    """Finds one module of the package, with other code in it."""

    def __init__(self, path: str, code: CodeType) -> None:
        self._name = path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self._code = code

    def find_spec(
        self, name: str, path: Sequence[str] | None, _: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        code = self._code

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, fullname: str) -> CodeType:
                return code

        assert spec.origin is not None
        spec.loader = Loader(name, spec.origin)
        return spec


class Chosen:
    """A plugin: runs these tests only, in this order."""

    def __init__(self, tests: list[str]) -> None:
        self._order = {test: at for at, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._order), key=lambda item: self._order[item.nodeid]
        )


class Watched:
    """A plugin: which lines each test reaches, and how long it takes."""

    def __init__(self, watch: coverage.Coverage) -> None:
        self._watch = watch
        self.times: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._watch.switch_context(item.nodeid)
        began = time.process_time()
        try:
            return (yield)
        finally:
            self.times[item.nodeid] = time.process_time() - began
            self._watch.switch_context("")


def tested(arguments: list[str], folder: Path, *plugins: object) -> int:
    options = ["-x", "-q", "--hypothesis-profile=mutate", "--import-mode=importlib", f"--basetemp={folder / 'base'}"]
    off = [option for name in ("cacheprovider", "xdist") for option in ("-p", f"no:{name}")]
    return int(pytest.main([*options, *off, "-o", "timeout=0", *arguments], plugins=list(plugins)))


class Room:
    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder
        self._reached: dict[str, dict[int, list[str]]] = {}
        self._times: dict[str, float] = {}

    def look(self) -> None:
        """Runs all tests once, unchanged."""
        found = self._folder / "found.json"
        if self._forked(lambda: self._looked(found), 3600, 3600) != 0:
            sys.exit(f"The tests of {self.name} fail without a mutant: {' '.join(ROOMS[self.name])}")
        told = json.loads(found.read_bytes())
        self._times = told["times"]
        self._reached = {
            path: {int(line): tests for line, tests in lines.items()} for path, lines in told["reached"].items()
        }

    def _looked(self, found: Path) -> int:
        place = ROOT / "src/aicore_proxy" / self.name
        watch = coverage.Coverage(data_file=None, config_file=False, source=[str(place)])
        watched = Watched(watch)
        watch.start()
        code = tested(ROOMS[self.name], self._folder, watched)
        watch.stop()
        data = watch.get_data()
        reached = {Path(f).relative_to(ROOT).as_posix(): data.contexts_by_lineno(f) for f in data.measured_files()}
        found.write_text(json.dumps({"times": watched.times, "reached": reached}))
        return code

    def choice(self, mutant: Mutant) -> list[str]:
        """The tests that reach a mutant, quickest first; all of them for what runs while modules are imported."""
        lines = self._reached.get(mutant.path, {})
        reaching = {test for line in mutant.lines for test in lines.get(line, ())}
        quick = sorted(reaching - {""}, key=self._times.__getitem__)
        return quick + sorted(set(self._times) - reaching, key=self._times.__getitem__) if "" in reaching else quick

    def judge(self, mutant: Mutant) -> Result:
        tests = self.choice(mutant)
        began = time.monotonic()
        if not tests:
            return Result(mutant.key, "unreached", 0, 0)
        most = int(10 + 4 * sum(self._times[test] for test in tests))
        code = self._forked(lambda: self._against(mutant, tests), most, 6 * most)
        if code in (BROKEN, pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            sys.exit(f"This script is wrong ({code}) about {mutant}")
        outcome = "survived" if code == 0 else "timeout" if code in (-signal.SIGXCPU, -signal.SIGKILL) else "killed"
        return Result(mutant.key, outcome, len(tests), round(time.monotonic() - began, 1))

    def _against(self, mutant: Mutant, tests: list[str]) -> int:
        code = compile(mutated(mutant)[0], str(ROOT / mutant.path), "exec", dont_inherit=True)
        sys.meta_path.insert(0, Import(mutant.path, code))
        return tested(sorted({test.split("::")[0] for test in tests}), self._folder, Chosen(tests))

    def _forked(self, run: Any, seconds: int, wall: int) -> int:
        """Its exit code in a process of its own, a negative one for the signal that ended it."""
        child = os.fork()
        if child == 0:
            code = BROKEN
            try:
                null = os.open(os.devnull, os.O_RDWR)
                for standard in range(3):
                    os.dup2(null, standard)
                os.setsid()
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
                code = run()
            finally:
                os._exit(code)
        late = time.monotonic() + wall
        try:
            while True:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    return os.waitstatus_to_exitcode(status)
                if time.monotonic() > late:
                    os.kill(child, signal.SIGKILL)
                time.sleep(0.02)
        except KeyboardInterrupt:
            os.kill(child, signal.SIGKILL)
            raise


def report(chosen: list[Mutant], results: dict[str, Result]) -> None:
    outcomes = Counter(results[mutant.key].outcome for mutant in chosen if mutant.key in results)
    for mutant in sorted(chosen, key=lambda mutant: (mutant.path, mutant.line)):
        result = results.get(mutant.key)
        if result and result.outcome in ("survived", "unreached"):
            print(f"\n{mutant.path}:{mutant.line} {mutant.where} ({mutant.operator}, {result.outcome})")
            print(mutated(mutant)[1])
    judged = sum(outcomes.values())
    score = (outcomes["killed"] + outcomes["timeout"]) / (judged or 1)
    print(f"\n{score:.1%} of {judged}: {', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rooms", nargs="*", choices=[*ROOMS, []], help="protocol, routing; both unless told")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=300, help="mutants per room")
    parser.add_argument("--again", action="store_true", help="judge the survivors again")
    parser.add_argument("--fresh", action="store_true", help="judge all again")
    parser.add_argument("--list", action="store_true", help="run nothing, show what is known")
    options = parser.parse_args()
    os.chdir(ROOT)
    KEPT.mkdir(exist_ok=True)
    for module in WARM:
        __import__(module)
    hypothesis.settings.register_profile(
        "mutate", deadline=None, max_examples=10, derandomize=True, database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )  # fmt: skip
    for name in options.rooms or ROOMS:
        kept = KEPT / f"{name}.jsonl"
        if options.fresh:
            kept.unlink(missing_ok=True)
        lines = kept.read_bytes().splitlines() if kept.exists() else []
        results = {result.key: result for result in (msgspec.json.decode(line, type=Result) for line in lines)}
        chosen = sample(name, options.seed, options.count)
        left = [
            m for m in chosen
            if m.key not in results or (options.again and results[m.key].outcome in ("survived", "unreached"))
        ]  # fmt: skip
        print(
            f"=== {name}: {len(chosen)} mutants of {len(mutants(name))}, seed {options.seed}, {len(left)} to judge",
            flush=True,
        )
        if left and not options.list:
            with tempfile.TemporaryDirectory() as folder:
                room = Room(name, Path(folder))
                room.look()
                with kept.open("ab") as file:
                    for at, mutant in enumerate(left, 1):
                        result = results[mutant.key] = room.judge(mutant)
                        file.write(msgspec.json.encode(result) + b"\n")
                        file.flush()
                        print(
                            f"{at}/{len(left)} {result.outcome} {mutant.path}:{mutant.line} {result.seconds} s",
                            flush=True,
                        )
        report(chosen, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
