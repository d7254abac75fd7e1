"""What a gRPC client sees of a denial, through the real Envoy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import pytest_asyncio

from authz_service.core.decision import Deny
from authz_service.core.reasons import DENIALS, Reason
from authz_service.demo.envoy import Envoy
from authz_service.demo.upstream import Upstream
from authz_service.transport.ext_authz import codec
from support.envoy_bootstrap import VariedBootstrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

_REASON = "x-reason"
# By our HTTP status: 400, 401, 403, 500, 503.
STATUSES = {
    Reason.MALFORMED_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.AMBIGUOUS_PATH: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.MISSING_TOKEN: grpc.StatusCode.UNAUTHENTICATED,
    Reason.EXPIRED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.NO_RULE: grpc.StatusCode.PERMISSION_DENIED,
    Reason.INSUFFICIENT_SCOPE: grpc.StatusCode.PERMISSION_DENIED,
    Reason.INTERNAL_ERROR: grpc.StatusCode.INTERNAL,
    Reason.KEYS_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


async def deny(data: bytes, _context: object) -> bytes:
    """Deny with the reason that the request names, encoded by our codec."""
    attributes = codec.decode_request(data)
    denial = Deny(Reason(attributes.headers[_REASON]), challenges=("Bearer",), retry_after=7)
    return codec.encode_response(denial, "0" * 16, attributes)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=[False, True], ids=["headers", "raw headers"])
async def envoy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Envoy]:
    folder = tmp_path_factory.mktemp("grpc")
    server = grpc.aio.server()
    check: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(deny)
    service = "envoy.service.auth.v3.Authorization"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Check": check}),))
    server.add_insecure_port(f"unix:{folder}/authz.sock")
    await server.start()
    async with Upstream() as upstream:
        bootstrap = VariedBootstrap(f"unix:{folder}/authz.sock", upstream.port, encode_raw_headers=request.param)
        async with Envoy(bootstrap, folder) as envoy:
            yield envoy
    await server.stop(None)


@pytest.mark.parametrize("reason", STATUSES)
async def test_a_grpc_client_sees_the_status_and_the_sentence_of_a_denial(envoy: Envoy, reason: Reason) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{envoy.port}") as channel:
        call: Any = channel.unary_unary("/v1.Appointments/Get")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(b"", metadata=((_REASON, str(reason)),), timeout=30)
    assert (failed.value.code(), failed.value.details()) == (STATUSES[reason], DENIALS[reason].detail)
    metadata = dict(failed.value.trailing_metadata() or ())
    assert (metadata["www-authenticate"], metadata["retry-after"]) == ("Bearer", "7")


@pytest.mark.parametrize(
    ("status_on_error", "status"),
    [("ServiceUnavailable", grpc.StatusCode.UNAVAILABLE), ("Forbidden", grpc.StatusCode.PERMISSION_DENIED)],
)
async def test_without_a_decision_the_status_is_that_of_status_on_error_and_the_message_is_empty(
    tmp_path: Path, status_on_error: str, status: grpc.StatusCode
) -> None:
    bootstrap = VariedBootstrap(f"unix:{tmp_path}/missing.sock", 1, status_on_error=status_on_error)
    async with Envoy(bootstrap, tmp_path) as envoy, grpc.aio.insecure_channel(f"127.0.0.1:{envoy.port}") as channel:
        call: Any = channel.unary_unary("/v1.Appointments/Get")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(b"", timeout=30)
    assert (failed.value.code(), failed.value.details()) == (status, "")


async def test_every_status_of_ours_is_tried() -> None:
    assert {DENIALS[reason].status for reason in STATUSES} == {denial.status for denial in DENIALS.values()}
