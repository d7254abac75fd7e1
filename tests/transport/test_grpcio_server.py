"""What the grpcio server does beyond the other one; what both do is in test_servers.py."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from authz_service.transport.grpcio_server import SERVICE, GrpcioServer


async def nothing(_data: bytes, _time_remaining: float | None) -> bytes:
    return b""


async def test_reflection_tells_what_can_be_called_and_with_what() -> None:
    server = GrpcioServer("127.0.0.1:0", None, nothing)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
        question: Any = reflection_pb2.ServerReflectionRequest
        questions = [question(list_services=""), question(file_containing_symbol=SERVICE)]
        answers = [answer async for answer in stub.ServerReflectionInfo(iter(questions))]
        services = {service.name for service in answers[0].list_services_response.service}
        assert services == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        files = [
            FileDescriptorProto.FromString(file) for file in answers[1].file_descriptor_response.file_descriptor_proto
        ]
        assert "authz_service/_pb/external_auth.proto" in [file.name for file in files]
    await server.stop(0)
