#!/bin/sh
# Set up the database secrets engine. Run it once, with a Vault token that may, from this folder:
#   export VAULT_ADDR=https://vault.example.com:8200 DB_HOST=db.example.com DB_PASSWORD=...
#   ./database.sh
set -eu
cd "$(dirname "$0")"

vault secrets enable -path=database database

# The braces are Vault's: it puts the values in, percent-encoded. sslmode=verify-full, so that
# Vault talks to this PostgreSQL and to no server that pretends to be it. A CA that Vault's machine does
# not know goes into SSL_CERT_FILE of Vault's own process. The password is read from standard input:
# arguments can be read by every user of the machine.
printf '%s' "$DB_PASSWORD" | vault write database/config/my-db \
    plugin_name=postgresql-database-plugin \
    allowed_roles=my-app-role \
    connection_url="postgresql://{{username}}:{{password}}@$DB_HOST:${DB_PORT:-5432}/${DB_NAME:-mydb}?sslmode=${DB_SSLMODE:-verify-full}" \
    password_authentication=scram-sha-256 \
    username=vault_admin \
    password=-

# From here on only Vault knows the password of vault_admin.
vault write -force database/rotate-root/my-db

vault write database/roles/my-app-role \
    db_name=my-db \
    default_ttl="${DEFAULT_TTL:-1h}" \
    max_ttl="${MAX_TTL:-24h}" \
    creation_statements=@create-role.sql \
    revocation_statements=@revoke-role.sql

vault policy write my-app policy.hcl
