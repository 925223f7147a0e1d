"""The public names: listed, sorted, importable, described, and typed without `Any`."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[2] / "src"
PACKAGE = "ephemeral_creds"
# Whatever of these exists; the rest of the modules is private.
CANDIDATES = [PACKAGE, *(f"{PACKAGE}.{name}" for name in ("events", "exceptions", "testing"))]

ANY = re.compile(r"\bAny\b")
JSON = re.compile(r"\b(dict|Mapping)\[str, Any\]")


def exists(module: str) -> bool:
    path = SOURCE.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


PUBLIC_MODULES = [module for module in CANDIDATES if exists(module)]


def exported(module: str) -> list[str]:
    return list(getattr(importlib.import_module(module), "__all__", ()))


PUBLIC_NAMES = [(module, name) for module in PUBLIC_MODULES for name in exported(module)]


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_all_is_there_sorted_and_unique(module: str) -> None:
    names = exported(module)
    assert names, f"{module} has no __all__"
    assert names == sorted(set(names), key=as_ruff_sorts)


def as_ruff_sorts(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, as rule RUF022 has them."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_type_checkers_and_dir_see_the_same_names() -> None:
    stub = SOURCE.joinpath(PACKAGE, "__init__.pyi").read_text(encoding="utf-8")
    imported = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    seen = {(alias.name, alias.asname) for node in imported for alias in node.names}
    assert seen == {(name, name) for name in exported(PACKAGE)}
    assert set(exported(PACKAGE)) <= set(dir(importlib.import_module(PACKAGE)))


@pytest.mark.parametrize(("module", "name"), PUBLIC_NAMES)
def test_name_resolves_and_is_described(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        assert thing.__doc__, f"{module}.{name} has no docstring"
        for member, function in public_functions(thing):
            if member == "__init__":
                continue  # described by its class
            assert inspect.getdoc(function), f"{module}.{name}.{member} has no docstring"


@pytest.mark.parametrize(("module", "name"), PUBLIC_NAMES)
def test_signatures_are_typed_without_any(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    wrong = []
    for member, function in public_functions(thing):
        signature = inspect.signature(function)
        for parameter in signature.parameters.values():
            if parameter.name in {"self", "cls"}:
                continue
            text = annotation(module, parameter.annotation)
            if parameter.annotation is parameter.empty or ANY.search(text):
                wrong.append(f"{member}({parameter.name}: {text})")
        text = annotation(module, signature.return_annotation)
        if signature.return_annotation is signature.empty or ANY.search(text):
            wrong.append(f"{member} -> {text}")
        wrong += [f"{member}: {hint}" for hint in hidden_any(function)]
    assert not wrong, wrong


def annotation(module: str, value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    # The helpers for tests speak Vault's JSON.
    return JSON.sub("JSON", text) if module.endswith(".testing") else text


def hidden_any(function: Any) -> list[str]:
    """Return the annotations that are `Any` only once resolved, where they can be."""
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return []  # names that are imported for type checkers only
    return [name for name, hint in hints.items() if hint is Any]


def public_functions(thing: object) -> Iterator[tuple[str, Any]]:
    """Yield a function, or a class's own public methods, properties and constructor."""
    if inspect.isfunction(thing):
        yield thing.__name__, thing
    if not inspect.isclass(thing) or not thing.__module__.startswith(PACKAGE):
        return
    for name, member in vars(thing).items():
        if name.startswith("_") and name != "__init__":
            continue
        function = member.fget if isinstance(member, property) else member
        function = getattr(function, "__func__", function)
        # A dataclass's constructor is generated: its fields' annotations are checked as text.
        if inspect.isfunction(function) and function.__module__.startswith(PACKAGE):
            yield name, function
