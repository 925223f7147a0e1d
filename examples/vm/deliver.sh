#!/bin/sh
# Print a wrapping token for a new secret id, good for one use within ten minutes. The person who
# deploys runs this and puts the token on the machine, and never sees the secret id:
#   ./deliver.sh | ssh root@machine 'umask 077 && cat > /etc/my-app/wrapped-secret-id'
#   ssh root@machine systemctl restart my-app-secret-id.service my-app.service
set -eu

vault write -wrap-ttl=10m -field=wrapping_token -force auth/approle/role/my-app/secret-id
