"""Server reflection: describes the services to clients such as grpcurl.

v1 and v1alpha of the protocol have the same messages under different names. The descriptors have a pool of their own,
so that nothing else in the process can contradict them. Importing this module takes a few milliseconds, so that is done
at the first call.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor_pool import DescriptorPool

from authz_service import _pb
from authz_service.transport.http2.grpc_framing import Status
from authz_service.transport.protobuf_wire import bounded, encode_number, encode_string, fields, text
from authz_service.transport.services import HEALTH_SERVICE, REFLECTION_SERVICES, SERVICE

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

# Fields of ServerReflectionResponse.
_ORIGINAL_REQUEST, _FILES, _NUMBERS, _SERVICES, _ERROR = 2, 4, 5, 6, 7
_ERROR_CODE, _ERROR_MESSAGE = 1, 2
_FIRST = 1  # the field of every other message, and of a FileDescriptorSet


class Member(IntEnum):
    """The members of the request's oneof, by field number. The last one in the request counts."""

    BY_FILENAME = 3
    BY_SYMBOL = 4
    BY_EXTENSION = 5
    EXTENSION_NUMBERS = 6
    LIST_SERVICES = 7


_MEMBERS: Final = frozenset(map(int, Member))  # Python 3.11 refuses other integers in Member


class Reflection:
    """Answers the requests of ServerReflectionInfo."""

    def __init__(self) -> None:
        """Load the descriptors of the services."""
        descriptors = Path(_pb.__path__[0], "services.binpb").read_bytes()
        self._pool = DescriptorPool()
        for _, file in fields(descriptors):
            if isinstance(file, bytes):
                self._pool.AddSerializedFile(file)
        self._descriptions: dict[str, bytes] = {}  # by name of the file, since a stream may request one again and again
        names = sorted((SERVICE, HEALTH_SERVICE, *REFLECTION_SERVICES))
        services = (encode_string(_FIRST, encode_string(_FIRST, name.encode())) for name in names)
        self._services: Final = encode_string(_SERVICES, b"".join(services))

    def answer(self, request: bytes) -> bytes:
        """The ServerReflectionResponse for a ServerReflectionRequest.

        Raises:
            InvalidMessageError: if the request is invalid.
        """
        member, name = 0, ""
        for number, value in fields(bounded(request)):
            if number in _MEMBERS and isinstance(value, bytes):
                member, name = number, "" if number == Member.BY_EXTENSION else text(value)
        try:
            found = self._answer(member, name)
        except KeyError:
            found = _error(Status.NOT_FOUND, "not found")
        return encode_string(_ORIGINAL_REQUEST, request) + found

    def _answer(self, member: int, name: str) -> bytes:
        match member:
            case Member.BY_FILENAME:
                return self._description(self._pool.FindFileByName(name))
            case Member.BY_SYMBOL:
                return self._description(self._pool.FindFileContainingSymbol(name))
            case Member.BY_EXTENSION:
                raise KeyError  # no message has extensions
            case Member.EXTENSION_NUMBERS:
                full_name = self._pool.FindMessageTypeByName(name).full_name
                return encode_string(_NUMBERS, encode_string(_FIRST, full_name.encode()))
            case Member.LIST_SERVICES:
                return self._services
            case _:
                return _error(Status.INVALID_ARGUMENT, "invalid argument")

    def _description(self, file: FileDescriptor) -> bytes:
        """The file, then those that it imports."""
        if file.name not in self._descriptions:
            files = {file.name: file.serialized_pb}
            waiting = [file]
            while waiting:
                for each in waiting.pop().dependencies:
                    if each.name not in files:
                        files[each.name] = each.serialized_pb
                        waiting.append(each)
            each_file = (encode_string(_FIRST, each) for each in files.values())
            self._descriptions[file.name] = encode_string(_FILES, b"".join(each_file))
        return self._descriptions[file.name]


def _error(code: Status, message: str) -> bytes:
    return encode_string(_ERROR, encode_number(_ERROR_CODE, code) + encode_string(_ERROR_MESSAGE, message.encode()))
