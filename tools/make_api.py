"""Write the public interface as a text, so that no change of it is by accident.

    python tools/make_api.py           write it
    python tools/make_api.py --check   fail if it is out of date

It imports everything that is public, with the library of each integration: names, signatures with
the values of their defaults, fields, members of enums, and the classes that ours derive from.
Members that only a class of another library has are left out, since they depend on its version.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import importlib
import inspect
import os
import pkgutil
import re
import sys
from inspect import Parameter
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, ForwardRef

from typing_extensions import is_protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = Path(__file__).parents[1] / "tests" / "guards" / "public_api.txt"
HEADER = "# Made by tools/make_api.py: do not edit. A change here is one of the public interface.\n"
PACKAGE = "ephemeral_creds"
MODULES = [PACKAGE, *(f"{PACKAGE}.{name}" for name in ("events", "exceptions", "testing"))]
# Each module in here is public, if it exports names.
INTEGRATIONS = f"{PACKAGE}.contrib"

WIDTH = 100
# A class that has one of these can be used in a way that no other member shows.
SPECIAL = {
    *("__call__", "__enter__", "__aenter__", "__iter__", "__aiter__", "__next__", "__anext__"),
    *("__await__", "__len__", "__getitem__", "__contains__"),
}
STARS: dict[object, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def public_modules() -> list[str]:
    """Return the names of all modules that users import from."""
    path = importlib.import_module(INTEGRATIONS).__path__
    found = [module.name for module in pkgutil.iter_modules(path, f"{INTEGRATIONS}.")]
    return [*MODULES, *(name for name in found if "._" not in name)]


def is_ours(cls: type) -> bool:
    """Tell whether a class is of this library."""
    return cls.__module__.partition(".")[0] == PACKAGE


def text_of(annotation: object) -> str:
    """Return an annotation as it is in the source."""
    if isinstance(annotation, str | ForwardRef):
        return annotation if isinstance(annotation, str) else annotation.__forward_arg__
    return str(inspect.formatannotation(annotation))


def value_of(value: object) -> str:
    """Return a default, the same in each run."""
    if value is os.environ:
        return "os.environ"
    if inspect.isroutine(value) or inspect.isclass(value):
        return f"{value.__module__}.{value.__qualname__}"
    return ADDRESS.sub("", repr(value))


def parameter(item: Parameter) -> str:
    """Return a parameter with its annotation and default."""
    text = STARS.get(item.kind, "") + item.name
    annotated = item.annotation is not Parameter.empty
    if annotated:
        text += f": {text_of(item.annotation)}"
    if item.default is not Parameter.empty:
        text += f" = {value_of(item.default)}" if annotated else f"={value_of(item.default)}"
    return text


def signature(head: str, function: Any, indent: str, *, bound: bool = False) -> Iterator[str]:
    """Yield `head` with the parameters of `function`: in one line, or one line for each."""
    if not isinstance(function, type | FunctionType):
        yield f"{indent}{head}(…)"  # written in C: newer Pythons know more of them
        return
    found = inspect.signature(function)
    items = list(found.parameters.values())[1 if bound else 0 :]
    items = [item for item in items if not item.name.startswith("_")]
    parts = [parameter(item) for item in items]
    kinds = [item.kind for item in items]
    if kinds.count(Parameter.KEYWORD_ONLY) and Parameter.VAR_POSITIONAL not in kinds:
        parts.insert(kinds.index(Parameter.KEYWORD_ONLY), "*")
    if positional := kinds.count(Parameter.POSITIONAL_ONLY):
        parts.insert(positional, "/")
    empty = found.return_annotation is inspect.Signature.empty
    end = ")" if empty else f") -> {text_of(found.return_annotation)}"
    line = f"{indent}{head}({', '.join(parts)}{end}"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"{indent}{head}("
    yield from (f"{indent}    {part}," for part in parts)
    yield f"{indent}{end}"


def bases(cls: type) -> str:
    """Return what a class can be used as: public classes of ours, and those of other libraries."""
    public = importlib.import_module(PACKAGE).__all__
    found: dict[str, None] = {}
    for ancestor in cls.__mro__:
        if ancestor is not cls and is_ours(ancestor) and ancestor.__name__ in public:
            found[ancestor.__name__] = None
        elif is_ours(ancestor):
            for base in ancestor.__bases__:
                if not is_ours(base) and base.__module__ not in ("abc", "typing"):
                    named = base.__module__ == "builtins"
                    path = base.__qualname__ if named else f"{base.__module__}.{base.__qualname__}"
                    found[path] = None
    found.pop("object", None)
    return f"({', '.join(found)})" if found else ""


def members(cls: type) -> dict[str, object]:
    """Return the public members that classes of ours define, by their names."""
    found: dict[str, object] = {}
    for ancestor in cls.__mro__:
        if is_ours(ancestor):
            for name, member in vars(ancestor).items():
                if not name.startswith("_") or name in SPECIAL:
                    found.setdefault(name, member)
    return found


def attributes_of(cls: type) -> dict[str, str]:
    """Return the public attributes that classes of ours annotate, with their types."""
    found: dict[str, str] = {}
    for ancestor in reversed(cls.__mro__):
        if is_ours(ancestor):
            declared = inspect.get_annotations(ancestor)
            found |= {n: text_of(a) for n, a in declared.items() if not n.startswith("_")}
    return found


def described_class(name: str, cls: Any) -> Iterator[str]:
    """Yield the lines of a class: how it is made, its attributes, its methods."""
    # A constructor of another library's class depends on its version.
    ours = (vars(ancestor) for ancestor in cls.__mro__ if is_ours(ancestor))
    constructed = any("__init__" in defined or "__new__" in defined for defined in ours)
    plain = constructed and not issubclass(cls, enum.Enum) and not is_protocol(cls)
    yield f"class {name}{bases(cls)}"
    if issubclass(cls, enum.Enum):
        yield from (f"    {member.name} = {member.value!r}" for member in cls)
    if plain:
        yield from signature("__init__", cls, "    ")
    in_constructor = set(inspect.signature(cls).parameters) if plain else set()
    has_fields = dataclasses.is_dataclass(cls) or hasattr(cls, "_fields")
    found = members(cls)
    attributes = attributes_of(cls)
    for attribute, annotation in sorted(attributes.items()):
        if has_fields and attribute in in_constructor:
            yield f"    {attribute}"  # its type and its default are above
            continue
        value = found.get(attribute)
        simple = isinstance(value, (bool, int, float, str, tuple, type(None)))
        default = f" = {value!r}" if attribute in found and simple else ""
        yield f"    {attribute}: {annotation}{default}"
    for member_name, member in sorted(found.items()):
        if member_name not in attributes and not isinstance(member, enum.Enum):
            yield from described_member(member_name, member)


def described_member(name: str, member: Any) -> Iterator[str]:
    """Yield the lines of a method, a property or a constant."""
    function = inspect.unwrap(getattr(member, "__func__", member))
    if isinstance(member, (property, functools.cached_property)):
        getter: Any = member.fget if isinstance(member, property) else member.func
        yield f"    {name} -> {text_of(inspect.signature(getter).return_annotation)}"
    elif isinstance(member, staticmethod):
        yield from signature(f"@staticmethod {name}", function, "    ")
    elif isinstance(member, classmethod):
        yield from signature(f"@classmethod {name}", function, "    ", bound=True)
    elif inspect.isroutine(member):
        asynchronous = "async " if inspect.iscoroutinefunction(function) else ""
        yield from signature(asynchronous + name, function, "    ", bound=True)
    elif inspect.isdatadescriptor(member):
        yield f"    {name}"
    else:
        yield f"    {name} = {value_of(member)}"


def described(name: str, thing: Any) -> Iterator[str]:
    """Yield the lines of one name."""
    if inspect.isclass(thing):
        yield from described_class(name, thing)
    elif inspect.isroutine(thing):
        asynchronous = "async " if inspect.iscoroutinefunction(thing) else ""
        yield from signature(f"{asynchronous}def {name}", thing, "")
    else:
        yield f"{name} = {value_of(thing)}"


def interface() -> str:
    """Return the text."""
    lines = [HEADER.rstrip("\n")]
    seen: list[object] = []
    for module_name in public_modules():
        module = importlib.import_module(module_name)
        new = []
        for name in sorted(getattr(module, "__all__", ())):
            thing = getattr(module, name)
            # What a module has from another one is listed there.
            if not any(thing is other for other in seen):
                seen.append(thing)
                new.append((name, thing))
        if new:
            lines += ["", "", f"# {module_name}"]
        for name, thing in new:
            lines += ["", *described(name, thing)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write it, or with ``--check`` say that it is out of date; return the exit status."""
    made = interface()
    written = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    if written == made:
        return 0
    if arguments:
        print(f'{TARGET} is out of date: if you mean it, run "nox -s twins"', file=sys.stderr)
        changes = difflib.unified_diff(written.splitlines(), made.splitlines(), lineterm="", n=1)
        print(*changes, sep="\n", file=sys.stderr)
        return 1
    TARGET.write_text(made, encoding="utf-8")
    print(f"{TARGET} written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
