#!/bin/sh
# Let the service account my-app of the namespace production log in. After ../vault/database.sh.
#
# AUDIENCE is the audience that a token must have. native-sidecar.yaml and
# vault-secrets-operator.yaml request the default here. The default token of a pod, which the injector's agent and
# KubernetesAuth use, is for the cluster's own API, and that has another name with kubeadm and
# elsewhere. To print it:
#   kubectl create token my-app -n production |
#       jq -Rr 'split(".")[1] | @base64d | fromjson | .aud[0]'
#
# A Vault in the cluster reviews tokens as its own service account. One outside needs to be told:
#   export KUBERNETES_HOST=https://k8s.example.com:6443 KUBERNETES_CA=@/path/to/ca.crt
#   export TOKEN_REVIEWER_JWT=...     # of a service account with the role system:auth-delegator
set -eu

vault auth enable kubernetes
if [ -n "${TOKEN_REVIEWER_JWT:-}" ]; then
    printf '%s' "$TOKEN_REVIEWER_JWT" | vault write auth/kubernetes/config \
        kubernetes_host="$KUBERNETES_HOST" \
        kubernetes_ca_cert="${KUBERNETES_CA:-}" \
        disable_local_ca_jwt=true \
        token_reviewer_jwt=-
else
    vault write auth/kubernetes/config kubernetes_host=https://kubernetes.default.svc
fi

# The name of this auth role is what the annotation vault.hashicorp.com/role wants. The name of
# the policy is another thing, even where both have the same name, as here.
vault write auth/kubernetes/role/my-app \
    bound_service_account_names=my-app \
    bound_service_account_namespaces=production \
    audience="${AUDIENCE:-https://kubernetes.default.svc}" \
    token_policies=my-app \
    token_ttl=2h
