"""Change the pure rules at random, one place at a time, and see whether a unit test fails.

cosmic-ray parses, changes and runs; its own command has neither samples nor removed statements.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.testing import run_tests
from cosmic_ray.work_item import TestOutcome

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
SOURCE = Path("src/ephemeral_creds")
SECONDS = 60
"""Of processor time for the tests of one change; without a change they take ten at most."""
AIM = 95.0
"""Percent."""
EQUIVALENT = ROOT / "tools" / "equivalent_mutants.toml"
OPERATORS = re.compile(
    # Of `is`, enumerations make `==` the same, and the other way round; `|` is for types and sets.
    r"core/(ReplaceComparisonOperator_((?!Is).*_(?!Is)|Is_IsNot|IsNot_Is)"
    r"|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul)|ReplaceUnaryOperator_Delete_Not"
    r"|AddNot|ReplaceTrue|ReplaceFalse|ReplaceAnd|ReplaceOr|ReplaceBreak|ReplaceContinue"
    r"|NumberReplacer|ZeroIteration)"
)

# Decorators, imports for types, and the `*` before keyword-only parameters.
NO_RULE = re.compile(r"@dataclass|TYPE_CHECKING|\*,")


class RemoveStatement(Operator):  # type: ignore[misc]  # cosmic-ray has no types
    """Put `pass` in the place of a call, an assignment, a return or a raise in a function."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Yield where a statement begins and ends."""
        statement = node.children[0] if node.type == "simple_stmt" else None
        documents = {"string", "strings", "import_from", "import_name"}
        if (
            statement is not None
            and statement.type not in documents
            and statement.get_code(include_prefix=False) != "pass"
            and node.search_ancestor("funcdef")
        ):
            yield statement.start_pos, statement.end_pos

    def mutate(self, node: Any, index: int) -> Any:  # noqa: ARG002  the base's
        """Return `pass`, as far to the right."""
        return get_ast(f"{node.get_first_leaf().prefix}pass\n")

    @classmethod
    def examples(cls) -> tuple[()]:
        """Return none: they are for cosmic-ray's own tests."""
        return ()


class Mutant(NamedTuple):
    """A change of one place in a module."""

    path: Path
    line: int
    operator: Operator
    occurrence: int

    def code(self) -> str:
        """Return the changed module."""
        original = (ROOT / self.path).read_text(encoding="utf-8")
        return str(mutate_code(original, self.operator, self.occurrence))

    def lines(self) -> tuple[str, str]:
        """Return the line, as it is and as it would be."""
        original = (ROOT / self.path).read_text(encoding="utf-8")
        before, after = (text.splitlines()[self.line - 1] for text in (original, self.code()))
        return before.strip(), after.strip()


def modules() -> list[Path]:
    """Return the pure machines: the lifecycle, and of the pool what the rotation is made of."""
    pool, found = ROOT / SOURCE / "pool", ["rotation"]
    for name in found:
        text = (pool / f"{name}.py").read_text(encoding="utf-8")
        imported = re.findall(r"^from ephemeral_creds\.pool\.(\w+) import", text, re.MULTILINE)
        found += [other for other in dict.fromkeys(imported) if other not in found]
    return [*sorted((ROOT / SOURCE / "lifecycle").glob("*.py")), *(pool / f"{n}.py" for n in found)]


def mutants(path: Path) -> Iterator[list[Mutant]]:
    """Yield, for each place in a module, all changes of it."""
    code = path.read_text(encoding="utf-8")
    nodes, lines = list(ast_nodes(get_ast(code))), code.splitlines()
    places: dict[Any, list[Mutant]] = {}
    operators = [get_operator(name)() for name in operator_names() if OPERATORS.match(name)]
    for operator in (*operators, RemoveStatement()):
        starts = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, (line, column) in enumerate(starts):
            if not NO_RULE.search(lines[line - 1]):
                mutant = Mutant(path.relative_to(ROOT), line, operator, occurrence)
                places.setdefault((line, column), []).append(mutant)
    yield from places.values()


def enter_copy(parent: str) -> None:
    """Go to a copy of the project of this process's own."""
    copy = Path(parent) / str(os.getpid())
    for folder in ("src", "tests", "benchmarks"):
        copytree(ROOT / folder, copy / folder, ignore=ignore_patterns("__pycache__", "*.egg-info"))
    (copy / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy / "src")
    # By their content: what changes twice in a second must be compiled twice.
    compiled = ("-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "src")
    subprocess.run([sys.executable, *compiled], check=True)


def command(wing: str) -> list[str]:
    """Return what runs the tests of a wing until one fails: random histories, if any, at last."""
    tests = sorted(Path("tests/unit", wing).glob("test_*.py"), key=lambda p: "properties" in p.name)
    # A limit of processor time, since others may have the machine.
    limited = ("sh", "-c", f'ulimit -t {SECONDS} && exec "$0" "$@"')
    options = ("-x", "-q", "-p", "no:cacheprovider", "-m", "not slow")
    return [*limited, sys.executable, "-m", "pytest", *options, *map(str, tests)]


def seconds_unchanged(wing: str) -> float:
    """Return how long the tests take without a change.

    Raises:
        subprocess.CalledProcessError: they fail.
    """
    began = time.monotonic()
    subprocess.run(command(wing), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def survives(path: Path, code: str) -> bool:
    """Tell whether the tests pass with other code in a module, and in time."""
    path.write_text(code, encoding="utf-8")
    try:
        outcome, _ = run_tests(shlex.join(command(path.parent.name)), None)
        return bool(outcome is TestOutcome.SURVIVED)
    finally:
        path.write_bytes((ROOT / path).read_bytes())


def main() -> int:
    """Draw mutants, run the tests with each of them, and print the score."""
    parser = argparse.ArgumentParser(prog="nox -s mutate --", description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="how many places to change")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30, help="start no other after these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="modules whose path has this")
    options = parser.parse_args()
    began = time.monotonic()
    lots = random.Random(options.seed)
    paths = [path for path in modules() if options.only in str(path)]
    places = [place for path in paths for place in mutants(path)]
    drawn = [lots.choice(place) for place in lots.sample(places, min(options.count, len(places)))]
    known = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["mutant"]
    equivalent = {(known_one["before"], known_one["after"]) for known_one in known}
    drawn = [mutant for mutant in drawn if mutant.lines() not in equivalent]
    survivors, done = [], 0
    with (
        tempfile.TemporaryDirectory() as parent,
        ProcessPoolExecutor(options.jobs, initializer=enter_copy, initargs=(parent,)) as copies,
    ):
        for wing in sorted({path.parent.name for path in paths}):
            print(f"{wing}: {copies.submit(seconds_unchanged, wing).result():.0f} s unchanged")
        futures = {copies.submit(survives, each.path, each.code()): each for each in drawn}
        for future in as_completed(futures):
            done += 1
            if done % 25 == 0:
                print(f"{done} of {len(drawn)}", flush=True)
            if future.result():
                survivors.append(mutant := futures[future])
                before, after = mutant.lines()
                print(f"{mutant.path}:{mutant.line}\n  - {before}\n  + {after}", flush=True)
            if time.monotonic() - began > options.minutes * 60:
                copies.shutdown(wait=False, cancel_futures=True)
                break
    score = 100 * (1 - len(survivors) / done)
    print(f"{score:.1f} %: {done - len(survivors)} of {done} killed, of {len(places)} places")
    print(f"seed {options.seed}, {(time.monotonic() - began) / 60:.0f} minutes")
    return 0 if score >= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
