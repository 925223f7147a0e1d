"""Exchange a wrapping token for the secret id that it wraps, and print that.

Run by `my-app-secret-id.service`, with the token in the credential ``wrapped-secret-id``. Needs
nothing but Python's standard library. A token that was used already is an alarm: another party
has the secret id.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

EXPECTED = "auth/approle/role/my-app/secret-id"
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the unit is started again


def ask_vault(path: str, token: str, body: dict[str, str] | None = None) -> dict[str, str]:
    """Send one request and return the ``data`` of the answer.

    Raises:
        urllib.error.HTTPError: Vault refuses.
        OSError: it does not answer, or is not whom the CA vouches for.
    """
    request = urllib.request.Request(  # noqa: S310 - the address is the administrator's
        f"{os.environ['VAULT_ADDR']}/v1/{path}",
        data=json.dumps(body or {}).encode(),
        headers={"X-Vault-Token": token, "X-Vault-Request": "true"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
        found: dict[str, str] = json.load(answer)["data"]
    return found


def main() -> None:
    """Look at the token, unwrap it, and print what was in it."""
    token = (Path(os.environ["CREDENTIALS_DIRECTORY"]) / "wrapped-secret-id").read_text().strip()
    try:
        # Who could put a token here could also put one of his own: it has to wrap what we expect.
        made_by = ask_vault("sys/wrapping/lookup", token, {"token": token})["creation_path"]
        if made_by != EXPECTED:
            sys.exit(f"the token wraps an answer of {made_by}, not of {EXPECTED}: do not use it")
        secret_id = ask_vault("sys/wrapping/unwrap", token)["secret_id"]
    except urllib.error.HTTPError as error:
        sys.exit(
            f"Vault refuses the wrapping token (HTTP {error.code}). If it is not older than ten "
            "minutes, another party has used it: revoke the secret ids of auth/approle/role/my-app"
        )
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        print(f"no answer of Vault at {os.environ['VAULT_ADDR']}: {reason}", file=sys.stderr)
        sys.exit(TRY_AGAIN)
    sys.stdout.write(secret_id)


if __name__ == "__main__":
    main()
