"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import math

__all__ = ["add_url", "seconds"]


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add the provider's URL."""
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="what provider_from_url takes (default: the variable EPHEMERAL_CREDS_URL)",
    )


def seconds(text: str) -> float:
    """Return a number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, not {text!r}")
    return value
