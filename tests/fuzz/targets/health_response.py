"""Whatever answers a health check, the check ends with a response of gRPC or fails.

The first octet is the size of the pieces in which the others arrive.

* Nothing but ``CallFailedError`` and ``InvalidMessageError`` is raised.
* The pieces make no difference.
* The message consists of octets that the server sent, in their order.
"""

from __future__ import annotations

from authz_service.transport import health
from authz_service.transport.http2.client import CallFailedError, UnaryCall
from authz_service.transport.protobuf_wire import InvalidMessageError

OUTCOMES = {"status", "unknown", "failed", "waiting"}
MAX_BYTES = 4096


def run(data: bytes) -> str:
    size, octets = max(data[0], 1) if data else 1, data[1:]
    outcome = _received([octets])
    assert outcome == _received([octets[at : at + size] for at in range(0, len(octets), size)])
    if not isinstance(outcome, bytes):
        return outcome
    remaining = iter(octets)
    assert all(octet in remaining for octet in outcome)
    try:
        health.status_in(outcome)
    except InvalidMessageError:
        return "unknown"
    return "status"


def _received(pieces: list[bytes]) -> bytes | str:
    """The message; or what became of the call without one."""
    call = UnaryCall(health.CHECK_PATH, b"", encrypted=False)
    try:
        for piece in pieces:
            call.receive(piece)
    except CallFailedError:
        return "failed"
    return "waiting" if call.response is None else call.response
