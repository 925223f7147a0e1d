"""hvac's adapter without the habits that lose or leak things.

hvac follows redirects with the token and the login's body to any host, forgets status and headers
of an error, reads ``.netrc``, and returns a raw response where it finds no JSON. Here a request
always ends in a `Reply`, or in an exception of requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urljoin
from uuid import uuid4

import hvac.adapters
import requests

from ephemeral_creds.providers.http.adapters import (
    DeadlineAdapter,
    SocketAdapter,
    never_arrived,
)
from ephemeral_creds.providers.http.reply import (
    ReplyTooLarge,
    origin_of,
    read_reply,
    redirect_target,
)
from ephemeral_creds.providers.http.rest import PlainSession
from ephemeral_creds.providers.vault.http.nodes import Nodes

if TYPE_CHECKING:
    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.http.reply import Origin, Reply
    from ephemeral_creds.providers.vault.config import VaultConfig
    from ephemeral_creds.providers.vault.http.nodes import Node

__all__ = ["Transport"]

# 307 and 308 keep method and body; the others turn a login into a GET without one.
_FAITHFUL_REDIRECTS = frozenset({307, 308})
# A standby, a recovery secondary or a node that is down, sealed or not initialized; or a load
# balancer's word for one (https://developer.hashicorp.com/vault/api-docs/system/health).
_OUT_OF_SERVICE = frozenset({472, 473, 474, 501, 502, 503, 504, 530})
# A standby says this with a 500 while no node is the active one.
_NO_LEADER = "local node not active"
# Any standby is as good as the active node: it forwards.
_HEALTH = "/v1/sys/health?standbyok=true&perfstandbyok=true"
# An agent may demand it (require_request_header); hvac adds it to all other requests.
_FROM_A_CLIENT = {"X-Vault-Request": "true"}


class Transport(hvac.adapters.RawAdapter):  # type: ignore[misc]  # hvac has no types
    """hvac's adapter, hardened. Not thread-safe: its user holds a lock.

    Attributes:
        timeout: (connect, read) seconds of the requests to come.
        requests_sent: how many requests have been sent.
        passed_over: the addresses that could not take the last request, before one could.
    """

    def __init__(self, config: VaultConfig, clock: Clock) -> None:
        session = PlainSession()
        ca, name = config.ca_certificates, config.tls_server_name
        session.mount("http://", DeadlineAdapter(ca))
        session.mount("https://", DeadlineAdapter(ca, name))
        # hvac lets these three of a session win over its own arguments.
        session.verify = config.verify if ca is None else True
        session.cert = config.client_cert
        session.proxies = dict(config.proxies or {})
        self._tls = {"cert": config.client_cert, "verify": session.verify}
        self._nodes = Nodes(config.addresses, clock)
        for node in self._nodes:
            if node.address.startswith("unix://"):
                # No proxy reaches a local socket.
                session.trust_env = False
                session.mount(node.base, SocketAdapter(node.address.removeprefix("unix://")))
        self._asked = self._nodes.in_order()[0]
        super().__init__(
            base_uri=self._asked.base,
            token="",  # None would make hvac look for a token in the environment
            **self._tls,
            proxies=session.proxies or None,
            allow_redirects=False,
            session=session,
        )
        self.timeout = (config.connect_timeout, config.read_timeout)
        self.requests_sent = 0
        self.passed_over: list[str] = []

    @property
    def asked(self) -> str:
        """The address that the last request went to."""
        return self._asked.address

    def request(  # type: ignore[no-untyped-def]  # as untyped as what it overrides
        self, method, url, headers=None, raise_exception=True, **kwargs
    ) -> Reply:
        """Exchange one request for one `Reply` of any status; `raise_exception` is ignored.

        Raises:
            requests.RequestException: there was no reply.
            ReplyTooLarge: it is not one of Vault's.
        """
        del raise_exception
        kwargs["timeout"] = self.timeout
        # `read_reply` reads the body, within a limit.
        kwargs["stream"] = True
        self.passed_over = []
        self._check_nodes_in_doubt()
        *others, last = self._nodes.in_order()
        for node in others:
            self._asked = node
            try:
                reply = self._exchange(method, url, headers, kwargs)
            except requests.RequestException as error:
                if not never_arrived(error):
                    raise
            else:
                if not _is_sealed(reply):
                    return reply
            self.passed_over.append(node.address)
        self._asked = last
        return self._exchange(method, url, headers, kwargs)

    def _check_nodes_in_doubt(self) -> None:
        """Ask nodes for their health before a request that must not be repeated goes to them.

        A node that hangs would cost the whole time limit of a request, and leave it in doubt.
        """
        seconds = min(self.timeout)
        while (node := self._nodes.in_doubt()) is not None:
            self.requests_sent += 1
            try:
                response = self.session.get(
                    node.base + _HEALTH,
                    headers=_FROM_A_CLIENT,
                    allow_redirects=False,
                    stream=True,
                    timeout=(seconds, seconds),
                    **self._tls,
                )
                reply = read_reply(response)
            except (requests.RequestException, ReplyTooLarge) as error:
                self._nodes.failed(node, _no_reply(error))
            else:
                if _is_out_of_service(reply):
                    self._nodes.failed(node, f"it answers HTTP {reply.status}")
                else:
                    self._nodes.passed(node)

    def _exchange(  # type: ignore[no-untyped-def]
        self, method, url, headers, kwargs
    ) -> Reply:
        """Send a request to one node, and note whether it served."""
        try:
            reply = self._send(method, url, headers, kwargs)
        except ValueError:
            raise  # the request itself cannot be sent
        except (requests.RequestException, ReplyTooLarge) as error:
            self._nodes.failed(self._asked, _no_reply(error))
            raise
        if _is_out_of_service(reply):
            self._nodes.failed(self._asked, f"it answers HTTP {reply.status}")
        else:
            self._nodes.served(self._asked)
        return reply

    def _send(  # type: ignore[no-untyped-def]
        self, method, url, headers, kwargs
    ) -> Reply:
        self.requests_sent += 1
        self.base_uri = self._asked.base
        # The cache of a Vault Agent or Vault Proxy answers a request that equals an earlier one,
        # byte for byte, with the earlier reply: with the lease that is to be replaced, or a token
        # near its end (https://developer.hashicorp.com/vault/docs/agent-and-proxy/agent/caching).
        headers = {**(headers or {}), "X-Request-ID": uuid4().hex}
        response = super().request(method, url, headers, raise_exception=False, **kwargs)
        is_faithful = response.status_code in _FAITHFUL_REDIRECTS
        target = redirect_target(response) if is_faithful else None
        sent_to = self._asked if target == origin_of(response.url) else self._node_at(target)
        if target is not None and sent_to is not None:
            # A load balancer's path rewriting, or a standby that redirects to another node that
            # we know, or to a name in common. Followed once: a second one is an ordinary reply.
            self.requests_sent += 1
            self._asked = sent_to
            response.close()
            response = self.session.request(
                method,
                urljoin(response.url, response.headers["Location"]),
                headers=dict(response.request.headers),
                data=response.request.body,
                allow_redirects=False,
                stream=True,
                timeout=self.timeout,
                **self._tls,
            )
        return read_reply(response)

    def _node_at(self, origin: Origin | None) -> Node | None:
        return next((node for node in self._nodes if node.origin == origin), None)


def _is_sealed(reply: Reply) -> bool:
    """Whether the node did nothing but say that it is sealed, so that another may be asked."""
    return reply.status == 503 and "sealed" in _errors(reply)


def _is_out_of_service(reply: Reply) -> bool:
    """Whether the node is in trouble, rather than the request wrong."""
    return (
        reply.body is None
        or bool(reply.redirect)
        or reply.status in _OUT_OF_SERVICE
        or (reply.status == 500 and _NO_LEADER in _errors(reply))
    )


def _errors(reply: Reply) -> str:
    return "" if reply.body is None else str(reply.body.get("errors"))


def _no_reply(error: Exception) -> str:
    return f"it gives no answer ({type(error).__name__})"
