"""Reflection answers as gRPC's own servicer does."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse

from authz_service import _pb
from authz_service.transport.reflection import Reflection
from authz_service.transport.services import HEALTH_SERVICE, REFLECTION_SERVICES, SERVICE

SYMBOLS = [
    *(SERVICE, f"{SERVICE}.Check", "envoy.service.auth.v3.CheckRequest", "envoy.service.auth.v3.AttributeContext.Peer"),
    *(HEALTH_SERVICE, "grpc.health.v1.HealthCheckResponse.SERVING", "google.protobuf.Struct", *REFLECTION_SERVICES),
    *("", ".", "nothing", f".{SERVICE}", f"{SERVICE}.", "envoy.service.auth.v3", "b\u00fccher", "a\0b"),
]
FILES = ["authz_service/_pb/external_auth.proto", "google/protobuf/struct.proto", "another.proto", "", "\0"]
EXTENSION: Any = ExtensionRequest(containing_type="envoy.service.auth.v3.CheckRequest", extension_number=1)
REQUESTS: list[dict[str, Any]] = [
    *({"file_containing_symbol": name} for name in SYMBOLS),
    *({"all_extension_numbers_of_type": name} for name in SYMBOLS),
    *({"file_by_filename": name} for name in FILES),
    {"file_containing_extension": EXTENSION},
    {"list_services": "*"},
    {"host": "a.example", "list_services": ""},
    {},
]


@pytest.fixture(scope="module")
def official() -> reflection.ReflectionServicer:
    pool: Any = DescriptorPool()
    for file in FileDescriptorSet.FromString(resources.files(_pb).joinpath("services.binpb").read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return reflection.ReflectionServicer((SERVICE, HEALTH_SERVICE, *REFLECTION_SERVICES), pool=pool)


@pytest.mark.parametrize("members", REQUESTS, ids=str)
def test_each_request_has_the_official_answer(official: reflection.ReflectionServicer, members: dict[str, Any]) -> None:
    request = ServerReflectionRequest(**members)

    answer = ServerReflectionResponse.FromString(Reflection().answer(request.SerializeToString()))

    (expected,) = official.ServerReflectionInfo(iter([request]), None)  # type: ignore[arg-type] # not used
    for each in (answer, expected):
        each.file_descriptor_response.file_descriptor_proto.sort()
    assert answer == expected


def test_the_first_file_of_an_answer_is_the_one_that_was_requested() -> None:
    request = ServerReflectionRequest(file_containing_symbol=SERVICE).SerializeToString()
    answer = ServerReflectionResponse.FromString(Reflection().answer(request))

    assert b"authz_service/_pb/external_auth.proto" in answer.file_descriptor_response.file_descriptor_proto[0][:50]


def test_the_answers_that_are_kept_are_bounded_by_the_number_of_files() -> None:
    answers = Reflection()
    symbols = [SERVICE, HEALTH_SERVICE, *REFLECTION_SERVICES, "envoy.service.auth.v3.CheckRequest", "a", "b", ""]
    first = [
        answers.answer(ServerReflectionRequest(file_containing_symbol=each).SerializeToString()) for each in symbols
    ]

    again = [
        answers.answer(ServerReflectionRequest(file_containing_symbol=each).SerializeToString()) for each in symbols
    ]

    files = FileDescriptorSet.FromString(resources.files(_pb).joinpath("services.binpb").read_bytes()).file
    assert again == first
    assert answers._descriptions.keys() <= {file.name for file in files}
