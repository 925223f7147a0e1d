"""Options and sections of help that several commands have."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

from ephemeral_creds.providers.url import url_schemes

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "NAMED_URL",
    "POSTGRES_VARIABLES",
    "PROVIDER_VARIABLES",
    "URL_ENTRY",
    "URL_VARIABLE",
    "Options",
    "add_debug",
    "add_url",
    "add_verbose",
    "seconds",
]

URL_VARIABLE = "EPHEMERAL_CREDS_URL"
URL_ENTRY = {URL_VARIABLE: "the provider's URL, if the argument URL is not given"}
PROVIDER_VARIABLES = {
    "VAULT_ADDR, VAULT_…": (
        "what the URL does not say about Vault, as for the vault command: VAULT_NAMESPACE, "
        "VAULT_CACERT, VAULT_TOKEN …"
    ),
    "AWS_…, AZURE_…": (
        "the same for other providers, as their own tools name it: AWS_REGION, AZURE_CLIENT_ID, "
        "GOOGLE_CLOUD_PROJECT, INFISICAL_DOMAIN …"
    ),
}
POSTGRES_VARIABLES = "PGHOST, PG…"

NAMED_URL = {
    "the provider's URL": (
        "The scheme says where credentials come from: "
        f"{', '.join(f'{scheme}://' for scheme in url_schemes())}. No secret belongs in it: "
        "…_file=PATH names a file, …_env=NAME an environment variable."
    )
}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a command, each named as the parser has it."""

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> Self:
        """Return the options that the parser understood."""
        return cls(**{field.name: getattr(parsed, field.name) for field in fields(cls)})


def add_url(parser: argparse._ActionsContainer) -> None:
    """Add the provider's URL."""
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="where credentials come from: the URL of a provider, see below (default: the "
        f"variable {URL_VARIABLE})",
    )


def add_verbose(parser: argparse._ActionsContainer, what: str) -> None:
    """Add ``--verbose``; `what` is what it prints, and what is printed without."""
    parser.add_argument("--verbose", action="store_true", help=what)


def add_debug(parser: argparse._ActionsContainer) -> None:
    """Add ``--debug``."""
    parser.add_argument(
        "--debug",
        action="store_true",
        help="print the traceback of an error as well, which has no secret in it",
    )


def seconds(at_least: float = 0.0) -> Callable[[str], float]:
    """Return a reader of a number of seconds."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= at_least):
            what = "a number of seconds"
            if at_least:
                what += f" of at least {at_least:g}"
            raise argparse.ArgumentTypeError(f"must be {what}, not {text!r}")
        return value

    return read
