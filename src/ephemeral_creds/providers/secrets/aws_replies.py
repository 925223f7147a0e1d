"""Replies of AWS Secrets Manager, and the errors that they become."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
)
from ephemeral_creds.providers.http.rest import is_down, said, unavailable, unexplained

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds.providers.http.reply import Reply

__all__ = ["body_of"]

# https://docs.aws.amazon.com/secretsmanager/latest/apireference/CommonErrors.html, and what other
# services of AWS call the same.
_TEMPORARY = re.compile(r"Throttl|TooManyRequests|LimitExceeded|Internal|Unavailable|Timeout")
_NO_IDENTITY = re.compile(
    r"UnrecognizedClient|InvalidClientTokenId|InvalidSignature|SignatureDoesNotMatch|ExpiredToken"
    r"|IncompleteSignature|MissingAuthenticationToken|RequestExpired|OptInRequired|NotAuthorized"
)
_CLOCK = re.compile(r"Signature (expired|not yet current)|RequestExpired|RequestTimeTooSkewed")


def body_of(
    reply: Reply, intro: str, action: str, name: str, region: str
) -> Mapping[str, object] | EphemeralCredsError:
    """Return the body of a reply, or the error if it is not a success.

    Args:
        reply: the reply.
        intro: the beginning of a message.
        action: what was called: ``GetSecretValue``.
        name: the secret.
        region: its region.
    """
    status, body = reply.status, reply.body
    if status == 200 and body is not None:
        return body
    if body is None or "__type" not in body:
        return unexplained(intro, reply)
    # Some services put a namespace in front of the code.
    code = str(body["__type"]).rpartition("#")[2]
    words = said(body.get("message") or body.get("Message") or "")
    message = f"{intro} answered {code}: {words}"
    if _TEMPORARY.search(code) or is_down(reply):
        return unavailable(message, reply)
    if _CLOCK.search(f"{code} {words}"):
        return AccessDenied(f"{message}; check this machine's clock", status=status)
    if _NO_IDENTITY.search(code):
        return AccessDenied(
            f"{message}; check the AWS credentials of this process: `aws sts get-caller-identity` "
            "shows whose they are",
            status=status,
        )
    if code == "AccessDeniedException":
        return AccessDenied(f"{message}; {_right(words, action)}", status=status)
    return ConfigurationError(f"{message}; {_remedy(code, words, name, region)}")


def _right(words: str, action: str) -> str:
    """Return which right is missing: that of the secret, or that of the key that encrypts it."""
    if "KMS" in words:
        return (
            "the secret may be read, but not decrypted: allow kms:Decrypt on its KMS key, in the "
            "identity's policy and in the key's"
        )
    return (
        f"allow secretsmanager:{action} on this secret, in the identity's policy, and in the "
        "secret's own if it is of another account"
    )


def _remedy(code: str, words: str, name: str, region: str) -> str:
    if code == "DecryptionFailure":
        return "check that the secret's KMS key is enabled, and not scheduled for deletion"
    if code == "ResourceNotFoundException" and "staging label" in words:
        return "the secret has no value yet: write one"
    if code == "ResourceNotFoundException":
        return (
            f"check the name, the region {region}, and the account of the AWS credentials: a "
            "secret of another one is named by its ARN"
        )
    if code == "InvalidRequestException" and "delet" in words:
        return (
            f"to restore it: aws secretsmanager restore-secret --region {region} --secret-id {name}"
        )
    return "check the name of the secret"
