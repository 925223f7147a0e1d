#!/usr/bin/dumb-init /bin/bash
# What the official image does with its arguments, and whom it runs Vault as.
set -e

if [ "$1" = server ]; then
    shift
    set -- vault server -config=/vault/config \
        -dev-root-token-id="$VAULT_DEV_ROOT_TOKEN_ID" \
        -dev-listen-address="${VAULT_DEV_LISTEN_ADDRESS:-0.0.0.0:8200}" "$@"
fi
if [ "$1" = vault ] && [ "$(id -u)" = 0 ]; then
    setcap cap_ipc_lock=+ep /bin/vault
    # Without the capability in the container, a program that has it cannot be started.
    vault -version > /dev/null 2>&1 || setcap cap_ipc_lock=-ep /bin/vault
    export HOME=/home/vault
    set -- setpriv --reuid vault --regid vault --init-groups "$@"
fi
exec "$@"
