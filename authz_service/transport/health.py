"""The health service (grpc.health.v1): its messages, and the status that it reports.

It imports no server, so that a client can use it too.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from authz_service.transport.protobuf_wire import (
    InvalidMessageError,
    bounded,
    encode_number,
    number_field,
    string_field,
)
from authz_service.transport.services import SERVICE

READINESS: Final = ("", SERVICE)  # the names under which health reports whether calls are served
LIVENESS: Final = "liveness"  # and the name that is SERVING as long as the process lives
CHECK_PATH: Final = b"/grpc.health.v1.Health/Check"
WATCH_PATH: Final = b"/grpc.health.v1.Health/Watch"
_SERVICE_FIELD = _STATUS_FIELD = 1


class ServingStatus(IntEnum):
    """The status in a response."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


def service_in(request: bytes) -> str:
    """The name in a HealthCheckRequest.

    Raises:
        InvalidMessageError: if the request is invalid.
    """
    return string_field(bounded(request), _SERVICE_FIELD)


def response(status: ServingStatus) -> bytes:
    """A HealthCheckResponse."""
    return encode_number(_STATUS_FIELD, status)


def status_in(response: bytes) -> ServingStatus:
    """The status in a HealthCheckResponse.

    Raises:
        InvalidMessageError: if the response is invalid, or its status unknown.
    """
    try:
        return ServingStatus(number_field(bounded(response), _STATUS_FIELD))
    except ValueError:
        raise InvalidMessageError("unknown status") from None


def status_of(service: str, *, serving: bool) -> ServingStatus:
    """The status of a name, while calls are served or not."""
    if service in READINESS:
        return ServingStatus.SERVING if serving else ServingStatus.NOT_SERVING
    return ServingStatus.SERVING if service == LIVENESS else ServingStatus.SERVICE_UNKNOWN
