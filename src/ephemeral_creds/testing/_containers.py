"""PostgreSQL and Vault in containers, by testcontainers."""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._admin import vault_request
from ephemeral_creds.testing._fault_proxy import ExternalVault
from ephemeral_creds.testing._postgres import PostgresAccess
from ephemeral_creds.testing._process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ContainedPostgres", "postgres_container", "vault_container"]

_START_TIMEOUT = 120.0  # initdb of an image on a busy machine; pulling it comes before


class ContainedPostgres(PostgresAccess):
    """A PostgreSQL in a container, and where other containers find it."""

    def __init__(self, container: DockerContainer, password: Secret, network: Network) -> None:
        port = int(container.get_exposed_port(5432))
        super().__init__(container.get_container_host_ip(), port, "postgres", password)
        self.network = network
        self.in_network = ("postgres", 5432)


@contextmanager
def postgres_container(image: str) -> Iterator[ContainedPostgres]:
    """Run PostgreSQL, as its official image has it, in a network of its own."""
    password = Secret(secrets.token_urlsafe(24))
    with Network() as network:
        container = (
            DockerContainer(image)
            .with_envs(POSTGRES_USER="postgres", POSTGRES_PASSWORD=password.reveal())
            .with_exposed_ports(5432)
            .with_network(network)
            .with_network_aliases("postgres")
        )
        with _running(container, image):
            postgres = ContainedPostgres(container, password, network)
            _wait(image, lambda: postgres.version)
            yield postgres


@contextmanager
def vault_container(image: str, network: Network | None) -> Iterator[ExternalVault]:
    """Run Vault or OpenBao in development mode, as their official images have it."""
    token = Secret(secrets.token_urlsafe(24))
    container = (
        DockerContainer(image)
        .with_envs(VAULT_DEV_ROOT_TOKEN_ID=token.reveal(), BAO_DEV_ROOT_TOKEN_ID=token.reveal())
        .with_exposed_ports(8200)
        .with_kwargs(cap_add=["IPC_LOCK"])
        .with_command("server -dev")
    )
    if network is not None:
        container.with_network(network)
    with _running(container, image):
        host, port = container.get_container_host_ip(), container.get_exposed_port(8200)
        address = f"http://{host}:{port}"

        def answers() -> bool:
            path = "auth/token/lookup-self"
            return vault_request(address, "GET", path, token=token).status == 200

        _wait(image, answers)
        with ExternalVault(address, token) as vault:
            yield vault


@contextmanager
def _running(container: DockerContainer, image: str) -> Iterator[None]:
    try:
        container.start()
    except (DockerException, OSError) as error:
        raise ConfigurationError(
            f"testcontainers cannot run {image}: {error}; without containers: "
            "--ephemeral-postgres=wheel"
        ) from error
    try:
        yield
    finally:
        container.stop()


def _wait(image: str, answers: Callable[[], object]) -> None:
    def attempt() -> bool:
        with suppress(OSError, psycopg.OperationalError):
            return bool(answers())
        return False

    if not wait_until(attempt, _START_TIMEOUT):
        raise ConfigurationError(f"the container of {image} does not answer: read its log")
