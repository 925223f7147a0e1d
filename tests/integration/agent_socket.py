"""An agent that listens on a socket and lends its own token."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ephemeral_creds.testing import find_vault
from ephemeral_creds.testing._process import plain_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ephemeral_creds import Secret

__all__ = ["agent_on_a_socket"]


@contextmanager
def agent_on_a_socket(folder: Path, vault: str, token: Secret) -> Iterator[Path]:
    """Run one in `folder` until the block ends, and return where its socket will be.

    It listens a moment after it was started, and logs in a moment after that.
    """
    path = folder / "agent.sock"
    (folder / "token").write_text(token.reveal())
    (folder / "agent.hcl").write_text(
        f"""
        vault {{ address = "{vault}" }}
        auto_auth {{
          method "token_file" {{ config = {{ token_file_path = "{folder}/token" }} }}
        }}
        api_proxy {{ use_auto_auth_token = true }}
        listener "unix" {{
          address     = "{path}"
          tls_disable = true
        }}
        """
    )
    agent = subprocess.Popen(
        [str(find_vault()), "agent", f"-config={folder}/agent.hcl"],
        env=plain_environment({"HOME": str(folder)}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield path
    finally:
        agent.terminate()
        agent.wait(20)
