#!/bin/sh
# Set up Vault, and leave how to log in for the agent. A Vault that is set up already stays as it is.
set -eu

if ! vault policy read my-app >/dev/null 2>&1; then
    sh "$(dirname "$0")/../vault/database.sh"
    vault auth enable approle
    vault write auth/approle/role/my-app token_policies=my-app token_ttl=2h
fi

folder="${APPROLE_FOLDER:-/approle}"
vault read -field=role_id auth/approle/role/my-app/role-id > "$folder/role-id"
vault write -field=secret_id -force auth/approle/role/my-app/secret-id > "$folder/secret-id"
