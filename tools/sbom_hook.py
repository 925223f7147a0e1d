"""Has a wheel carry the bill of materials that `nox -s release` made, if there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SbomHook(BuildHookInterface):  # type: ignore[misc]
    """Adds ``build/sbom.cdx.json`` to the metadata, as PEP 770 has it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Look for the file; a build without that session has no such file."""
        sbom = Path(self.root) / "build" / "sbom.cdx.json"
        if sbom.exists():
            build_data["sbom_files"].append(str(sbom))
