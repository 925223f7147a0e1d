"""``python -m ephemeral_creds`` is ``ephemeral-creds``."""

from __future__ import annotations

import sys

from ephemeral_creds.cli import main

if __name__ == "__main__":
    sys.exit(main())
