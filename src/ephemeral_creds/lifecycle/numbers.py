"""Numbers among a policy's settings, and their ranges."""

from __future__ import annotations

import math
from dataclasses import field, fields
from typing import Any, TypeVar, cast

from ephemeral_creds.exceptions import ConfigurationError

__all__ = ["check_numbers", "number"]

N = TypeVar("N", bound=float)


def number(default: N, low: float, high: float = math.inf) -> N:
    """Declare a dataclass field that is a number from `low` to `high`, and finite.

    It must be a whole number where `default` is one.
    """
    return field(default=default, metadata={"range": (low, high)})


def check_numbers(policy: object) -> None:
    """Raise a `ConfigurationError` unless all that was declared by `number` is in its range."""
    for declared in fields(cast("Any", policy)):
        if "range" not in declared.metadata:
            continue
        low, high = declared.metadata["range"]
        value = getattr(policy, declared.name)
        whole = isinstance(declared.default, int)
        wanted, kind = ("a whole number", int) if whole else ("a number", (int, float))
        right = isinstance(value, kind) and not isinstance(value, bool)
        if not right or not low <= value <= high or value == math.inf:
            until = f"from {low:g} to {high:g}" if high < math.inf else f"at least {low:g}, finite"
            raise ConfigurationError(
                f"{type(policy).__name__}({declared.name}={value!r}): must be {wanted}, {until}"
            )
