"""The protobuf declarations: the code is generated from ``proto/``; names, numbers and types are Envoy's and gRPC's.

Envoy's descriptors come from another process and are compared as data, because they cannot be loaded next to ours.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from authz_service import _pb
from authz_service._pb.external_auth_pb2 import CheckRequest, CheckResponse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parent.parent
OFFICIAL = Path(__file__).with_name("official_descriptors.py")

# A CheckRequest with every field that we declare, once with `headers` and once with `header_map`.
REQUEST: dict[str, Any] = {
    "attributes": {
        "source": {
            "address": {"socket_address": {"address": "192.0.2.7", "port_value": 40312}},
            "service": "booking",
            "labels": {"zone": "a"},
            "principal": "spiffe://mesh/booking",
            "certificate": "-----BEGIN%20CERTIFICATE-----",
        },
        "destination": {"address": {"pipe": {"path": "/run/upstream.sock"}}},
        "request": {
            "time": "2026-01-02T03:04:05.006Z",
            "http": {
                "id": "17",
                "method": "POST",
                "headers": {"authorization": "Bearer x", ":path": "/v1/a?b=c"},
                "path": "/v1/a?b=c",
                "host": "api.example.com:8443",
                "scheme": "https",
                "query": "b=c",
                "fragment": "d",
                "size": "-1",
                "protocol": "HTTP/2",
                "body": "h\u00e9",
                "raw_body": "AP8=",
            },
        },
        "context_extensions": {"authz_policy": "read"},
        "metadata_context": {
            "filter_metadata": {"envoy.filters.http.lua": {"n": 1.5, "list": [True, None, "x"]}},
            "typed_filter_metadata": {
                "t": {"@type": "type.googleapis.com/google.protobuf.BoolValue", "value": True},
            },
        },
        "route_metadata_context": {"filter_metadata": {"route": {"k": "v"}}},
        "tls_session": {"sni": "api.example.com"},
    }
}
RAW_HEADERS: dict[str, Any] = {
    "attributes": {
        "request": {
            "http": {
                "header_map": {
                    "headers": [{"key": "x-a", "raw_value": "AP8="}, {"key": "x-a", "value": "2"}],
                }
            }
        }
    }
}

OVERWRITE = {"append": False, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
DENIAL: dict[str, Any] = {
    "status": {
        "code": 16,
        "message": "expired",
        "details": [{"@type": "type.googleapis.com/google.protobuf.BoolValue", "value": True}],
    },
    "denied_response": {
        "status": {"code": "Unauthorized"},
        "headers": [{"header": {"key": "www-authenticate", "value": "Bearer"}, **OVERWRITE}],
        "body": "{}",
    },
    "dynamic_metadata": {"decision": "deny", "reason": "expired", "scopes": ["a", "b"]},
}
ALLOWANCE: dict[str, Any] = {
    "status": {},
    "ok_response": {
        "headers": [{"header": {"key": "x-auth-subject", "raw_value": "dTE="}, "keep_empty_value": True, **OVERWRITE}],
        "headers_to_remove": ["x-auth-client", "authorization"],
        "response_headers_to_add": [{"header": {"key": "x-b", "value": "1"}, "append_action": "ADD_IF_ABSENT"}],
        "query_parameters_to_set": [{"key": "a", "value": "1"}],
        "query_parameters_to_remove": ["b"],
    },
}


SERVICES = Path(_pb.__path__[0]) / "services.binpb"


def official(verb: str, stdin: bytes = b"") -> bytes:
    """The output of Envoy's own classes."""
    return subprocess.run([sys.executable, OFFICIAL, verb], input=stdin, capture_output=True, check=True).stdout


def shapes(files: Iterable[FileDescriptorProto]) -> dict[str, tuple[object, ...]]:
    """Every declaration by its full name, with everything that affects the wire format."""
    return {
        name: shape
        for file in files
        for part in (
            *(message_shapes(file.package, message, file.syntax) for message in file.message_type),
            *(enum_shapes(file.package, enum, file.syntax) for enum in file.enum_type),
            service_shapes(file),
        )
        for name, shape in part
    }


def message_shapes(scope: str, message: DescriptorProto, syntax: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    name = f"{scope}.{message.name}"
    yield name, ("message", syntax, message.options.map_entry)
    for field in message.field:
        yield f"{name}.{field.name}", field_shape(message, field)
    for nested in message.nested_type:
        yield from message_shapes(name, nested, syntax)
    for enum in message.enum_type:
        yield from enum_shapes(name, enum, syntax)


def field_shape(message: DescriptorProto, field: FieldDescriptorProto) -> tuple[object, ...]:
    return (
        field.number,
        FieldDescriptorProto.Type.Name(field.type),
        FieldDescriptorProto.Label.Name(field.label),
        field.type_name,
        message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None,
        field.proto3_optional,
    )


def enum_shapes(scope: str, enum: EnumDescriptorProto, syntax: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    name = f"{scope}.{enum.name}"
    yield name, ("enum", syntax)
    for value in enum.value:
        yield f"{name}.{value.name}", (value.number,)


def service_shapes(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[object, ...]]]:
    for service in file.service:
        for rpc in service.method:
            path = f"/{file.package}.{service.name}/{rpc.name}"
            yield path, (rpc.input_type, rpc.output_type, rpc.client_streaming, rpc.server_streaming)


@pytest.fixture(scope="module")
def ours() -> dict[str, tuple[object, ...]]:
    found = FileDescriptorSet()
    for module in pkgutil.iter_modules(_pb.__path__, f"{_pb.__name__}."):
        importlib.import_module(module.name).DESCRIPTOR.CopyToProto(found.file.add())
    return shapes(found.file)


@pytest.mark.locked
def test_the_committed_code_is_generated_from_the_declaration(tmp_path: Path) -> None:
    (tmp_path / "authz_service/_pb").mkdir(parents=True)
    subprocess.run([sys.executable, ROOT / "proto/generate.py", tmp_path], check=True)

    def generated(root: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (root / "authz_service/_pb").glob("*pb*")}

    assert generated(ROOT) == generated(tmp_path), "run `make proto`"


def test_our_declarations_match_envoys(ours: dict[str, tuple[object, ...]]) -> None:
    envoys = shapes(FileDescriptorSet.FromString(official("descriptors")).file)

    # The real collector reads the others: tests/end_to_end/test_traces.py.
    of_envoy = {name: shape for name, shape in ours.items() if not name.startswith("opentelemetry.")}
    assert of_envoy == {name: envoys.get(name) for name in of_envoy}


def test_the_services_that_reflection_describes_match_envoys_and_grpcs() -> None:
    described = shapes(FileDescriptorSet.FromString(SERVICES.read_bytes()).file)
    envoys = shapes(FileDescriptorSet.FromString(official("descriptors")).file)
    grpcs = FileDescriptorSet()
    for module in (health_pb2, reflection_pb2):
        module.DESCRIPTOR.CopyToProto(grpcs.file.add())
    expected = envoys | shapes(grpcs.file)
    for name, shape in shapes(grpcs.file).items():  # v1 has the messages of v1alpha
        renamed = json.dumps((name, shape)).replace("grpc.reflection.v1alpha.", "grpc.reflection.v1.")
        name_of_v1, shape_of_v1 = json.loads(renamed)
        expected.setdefault(name_of_v1, tuple(shape_of_v1))

    ours = {name: shape for name, shape in described.items() if not name.startswith("google.protobuf.")}
    assert ours == {name: expected.get(name) for name in ours}
    assert {name for name in ours if name.startswith("/")} == {
        "/envoy.service.auth.v3.Authorization/Check",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }


def test_the_service_is_the_one_envoy_calls(ours: dict[str, tuple[object, ...]]) -> None:
    assert ours["/envoy.service.auth.v3.Authorization/Check"] == (
        ".envoy.service.auth.v3.CheckRequest",
        ".envoy.service.auth.v3.CheckResponse",
        False,
        False,
    )


@pytest.mark.parametrize("request_", [REQUEST, RAW_HEADERS], ids=["headers", "header_map"])
def test_a_request_encoded_by_envoy_decodes_the_same_here(request_: dict[str, Any]) -> None:
    request = CheckRequest.FromString(official("encode", json.dumps(request_).encode()))

    assert json_format.MessageToDict(request, preserving_proto_field_name=True) == request_


def test_undeclared_fields_are_skipped() -> None:
    address = {"socket_address": {"protocol": "UDP", "address": "192.0.2.7", "named_port": "http"}}
    wire = official("encode", json.dumps({"attributes": {"source": {"address": address}}}).encode())

    source = CheckRequest.FromString(wire).attributes.source

    assert json_format.MessageToDict(source) == {"address": {"socketAddress": {"address": "192.0.2.7"}}}


@pytest.mark.parametrize("answer", [DENIAL, ALLOWANCE], ids=["denial", "allowance"])
def test_a_response_encoded_here_decodes_the_same_at_envoy(answer: dict[str, Any]) -> None:
    wire = json_format.ParseDict(answer, CheckResponse()).SerializeToString()

    assert json.loads(official("decode", wire)) == answer
