#!/bin/sh
# What the official image does with its arguments; it also runs as a user of its own.
set -eu

if [ "$1" = server ]; then
    shift
    set -- bao server \
        -dev-root-token-id="$BAO_DEV_ROOT_TOKEN_ID" \
        -dev-listen-address="${BAO_DEV_LISTEN_ADDRESS:-0.0.0.0:8200}" "$@"
fi
exec "$@"
