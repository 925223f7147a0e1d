"""The auth methods that the emulator knows, by the type that ``sys/auth`` is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.testing._emulator.auth.approle import AppRoleMount
from ephemeral_creds.testing._emulator.auth.aws import AWSMount
from ephemeral_creds.testing._emulator.auth.cert import CertMount
from ephemeral_creds.testing._emulator.auth.jwt import JWTMount
from ephemeral_creds.testing._emulator.auth.kubernetes import KubernetesMount
from ephemeral_creds.testing._emulator.auth.userpass import UserpassMount

if TYPE_CHECKING:
    from ephemeral_creds.testing._emulator.auth.base import AuthMount

__all__ = ["METHODS"]

METHODS: dict[str, type[AuthMount]] = {
    kind.mount_type: kind
    for kind in (AppRoleMount, AWSMount, CertMount, JWTMount, KubernetesMount, UserpassMount)
}
