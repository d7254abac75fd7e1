"""The closed list of reasons, and the response that the caller gets for each.

Every string of a denial's body is in this file. Nothing from a token, the configuration or an exception is ever added
to one: the caller gets the reason, the log gets the cause.
"""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus
from typing import NamedTuple


class Reason(StrEnum):
    """Why a request was allowed or denied: a stable code, the same in metrics, logs and problem documents."""

    # Allowances.
    OK = "ok"
    PUBLIC = "public"
    ANONYMOUS = "anonymous"
    PREFLIGHT = "preflight"

    # Neither an allowance nor a denial.
    RESOURCE_METADATA = "resource_metadata"

    # The request is malformed, or can be read in more than one way.
    AMBIGUOUS_PATH = "ambiguous_path"
    MALFORMED_REQUEST = "malformed_request"

    # The rules.
    NO_RULE = "no_rule"
    MISSING_TOKEN = "missing_token"
    ISSUER_NOT_ALLOWED = "issuer_not_allowed"
    CLIENT_NOT_ALLOWED = "client_not_allowed"
    CLAIM_MISMATCH = "claim_mismatch"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    STALE_AUTHENTICATION = "stale_authentication"
    WEAK_AUTHENTICATION = "weak_authentication"

    # The token.
    MALFORMED_TOKEN = "malformed_token"
    UNSUPPORTED_ALGORITHM = "unsupported_algorithm"
    UNKNOWN_ISSUER = "unknown_issuer"
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    MISSING_CLAIM = "missing_claim"
    INVALID_CLAIM = "invalid_claim"
    WRONG_AUDIENCE = "wrong_audience"
    ID_TOKEN = "id_token"
    WRONG_TOKEN_TYPE = "wrong_token_type"
    TOO_OLD = "too_old"
    INACTIVE = "inactive"
    REVOKED = "revoked"
    UNSUPPORTED_CONFIRMATION = "unsupported_confirmation"

    # The proof of possession that a sender-constrained token needs.
    UNBOUND_TOKEN = "unbound_token"
    MISSING_PROOF = "missing_proof"
    INVALID_PROOF = "invalid_proof"
    REPLAYED_PROOF = "replayed_proof"
    NONCE_REQUIRED = "nonce_required"

    # Not caused by the caller.
    KEYS_UNAVAILABLE = "keys_unavailable"
    INTROSPECTION_UNAVAILABLE = "introspection_unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL_ERROR = "internal_error"


class RpcCode:
    """The values of google.rpc.Code that a CheckResponse carries in its ``status``."""

    OK = 0
    INVALID_ARGUMENT = 3
    PERMISSION_DENIED = 7
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Denial(NamedTuple):
    """The response to the caller of a denied request.

    ``error`` is that of the challenge (RFC 6750 section 3.1, RFC 9449 section 7.1), None in the challenge of a request
    that lacked a token. ``challenged`` is False if no challenge is sent at all.
    """

    status: HTTPStatus
    rpc_code: int
    detail: str
    error: str | None = None
    challenged: bool = False


def _bad_request(detail: str) -> Denial:
    return Denial(HTTPStatus.BAD_REQUEST, RpcCode.INVALID_ARGUMENT, detail)


def _invalid_token(detail: str) -> Denial:
    return Denial(HTTPStatus.UNAUTHORIZED, RpcCode.UNAUTHENTICATED, detail, "invalid_token", challenged=True)


def _invalid_proof(detail: str) -> Denial:
    return Denial(HTTPStatus.UNAUTHORIZED, RpcCode.UNAUTHENTICATED, detail, "invalid_dpop_proof", challenged=True)


def _step_up(detail: str) -> Denial:
    error = "insufficient_user_authentication"  # RFC 9470 section 3
    return Denial(HTTPStatus.UNAUTHORIZED, RpcCode.UNAUTHENTICATED, detail, error, challenged=True)


def _forbidden(detail: str) -> Denial:
    return Denial(HTTPStatus.FORBIDDEN, RpcCode.PERMISSION_DENIED, detail)


def _unavailable(detail: str) -> Denial:
    return Denial(HTTPStatus.SERVICE_UNAVAILABLE, RpcCode.UNAVAILABLE, detail)


ALLOWANCES = frozenset({Reason.OK, Reason.PUBLIC, Reason.ANONYMOUS, Reason.PREFLIGHT})
ANSWERS = frozenset({Reason.RESOURCE_METADATA})

# The details are also the error_description of the challenge, whose character set excludes quotes and backslashes.
DENIALS: dict[Reason, Denial] = {
    Reason.AMBIGUOUS_PATH: _bad_request("The path can be read in more than one way"),
    Reason.MALFORMED_REQUEST: Denial(
        HTTPStatus.BAD_REQUEST,
        RpcCode.INVALID_ARGUMENT,
        "The request, or the credential in it, is malformed",
        "invalid_request",
        challenged=True,
    ),
    Reason.NO_RULE: _forbidden("No rule allows this request"),
    Reason.MISSING_TOKEN: Denial(
        HTTPStatus.UNAUTHORIZED, RpcCode.UNAUTHENTICATED, "An access token is required", challenged=True
    ),
    Reason.ISSUER_NOT_ALLOWED: _forbidden("Tokens of this issuer are not allowed here"),
    Reason.CLIENT_NOT_ALLOWED: _forbidden("This client is not allowed here"),
    Reason.CLAIM_MISMATCH: _forbidden("A claim of the token does not meet what this request requires"),
    Reason.INSUFFICIENT_SCOPE: Denial(
        HTTPStatus.FORBIDDEN,
        RpcCode.PERMISSION_DENIED,
        "The token does not carry the scope that this request needs",
        "insufficient_scope",
        challenged=True,
    ),
    Reason.STALE_AUTHENTICATION: _step_up("A more recent authentication is required"),
    Reason.WEAK_AUTHENTICATION: _step_up("A different authentication level is required"),
    Reason.MALFORMED_TOKEN: _invalid_token("The token is malformed"),
    Reason.UNSUPPORTED_ALGORITHM: _invalid_token("The signature algorithm is not accepted"),
    Reason.UNKNOWN_ISSUER: _invalid_token("The issuer is not accepted"),
    Reason.UNKNOWN_KEY: _invalid_token("The issuer has no such signing key"),
    Reason.BAD_SIGNATURE: _invalid_token("The signature does not verify"),
    Reason.EXPIRED: _invalid_token("The token has expired"),
    Reason.NOT_YET_VALID: _invalid_token("The token is not valid yet"),
    Reason.MISSING_CLAIM: _invalid_token("The token lacks a required claim"),
    Reason.INVALID_CLAIM: _invalid_token("A claim of the token is invalid"),
    Reason.WRONG_AUDIENCE: _invalid_token("The token was issued for another audience"),
    Reason.ID_TOKEN: _invalid_token("An ID token is not an access token"),
    Reason.WRONG_TOKEN_TYPE: _invalid_token("The token is not an access token"),
    Reason.TOO_OLD: _invalid_token("The token was issued too long ago"),
    Reason.INACTIVE: _invalid_token("The token is not active"),
    Reason.REVOKED: _invalid_token("The token was revoked"),
    Reason.UNSUPPORTED_CONFIRMATION: _invalid_token("The token is bound in a way that is not supported"),
    Reason.UNBOUND_TOKEN: _invalid_token("The token is not bound to its sender as this request requires"),
    Reason.MISSING_PROOF: _invalid_token("The token requires a proof of possession"),
    Reason.INVALID_PROOF: _invalid_proof("The proof of possession is invalid"),
    Reason.REPLAYED_PROOF: _invalid_proof("The proof of possession was used before"),
    Reason.NONCE_REQUIRED: Denial(
        HTTPStatus.UNAUTHORIZED,
        RpcCode.UNAUTHENTICATED,
        "The proof of possession requires a current nonce",
        "use_dpop_nonce",
        challenged=True,
    ),
    Reason.KEYS_UNAVAILABLE: _unavailable("The keys of the issuer are not available"),
    Reason.INTROSPECTION_UNAVAILABLE: _unavailable("The issuer could not confirm the token"),
    Reason.DEADLINE_EXCEEDED: _unavailable("The decision took too long"),
    Reason.INTERNAL_ERROR: Denial(
        HTTPStatus.INTERNAL_SERVER_ERROR, RpcCode.INTERNAL, "The request could not be authorized"
    ),
}
