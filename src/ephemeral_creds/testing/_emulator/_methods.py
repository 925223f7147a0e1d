"""The auth methods that the emulator knows, by the type that ``sys/auth`` is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.testing._emulator._auth import AppRoleMount, UserpassMount
from ephemeral_creds.testing._emulator._aws import AWSMount
from ephemeral_creds.testing._emulator._jwt import JWTMount
from ephemeral_creds.testing._emulator._kubernetes import KubernetesMount

if TYPE_CHECKING:
    from ephemeral_creds.testing._emulator._auth import AuthMount

__all__ = ["METHODS"]

METHODS: dict[str, type[AuthMount]] = {
    kind.mount_type: kind
    for kind in (AppRoleMount, AWSMount, JWTMount, KubernetesMount, UserpassMount)
}
