# What the service, or the agent beside it, may do. No wildcard: this role's credentials only.
path "database/creds/my-app-role" { capabilities = ["read"] }

# Renewing is part of Vault's `default` policy, revoking is not.
path "sys/leases/renew"  { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
