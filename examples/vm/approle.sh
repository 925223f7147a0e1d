#!/bin/sh
# Let a machine log in by AppRole. After ../vault/database.sh.
set -eu

vault auth enable approle
vault write auth/approle/role/my-app \
    token_policies=my-app \
    token_ttl=2h \
    secret_id_ttl="${SECRET_ID_TTL:-2160h}" \
    secret_id_bound_cidrs="${MACHINE_CIDR:-10.20.1.7/32}" \
    token_bound_cidrs="${MACHINE_CIDR:-10.20.1.7/32}"

# The role id goes into my-app.service. It is not a secret by itself.
vault read -field=role_id auth/approle/role/my-app/role-id
