"""What the tests of the examples share with the library's own: its helpers, and the canary."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(_TESTS), str(_TESTS / "integration")]

pytest_plugins = ["canary"]
