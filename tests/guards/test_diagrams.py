"""The diagrams in the pages are drawn from the library as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_diagrams_are_up_to_date() -> None:
    script = ROOT / "docs" / "make_diagrams.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
