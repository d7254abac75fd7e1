"""Queries a running sidecar's health service, for container probes without a shell.

It opens one connection and makes one call.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import grpc
from cryptography.x509 import (
    DNSName,
    ExtensionNotFound,
    IPAddress,
    SubjectAlternativeName,
    load_pem_x509_certificates,
)
from grpc_health.v1 import health_pb2

if TYPE_CHECKING:
    from authz_service.config.model import Server

_TIMEOUT = 2.0  # seconds: less than the timeout of any sensible probe
_UNIX = "unix:"
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - nothing is bound to it here


def is_serving(server: Server) -> tuple[bool, str]:
    """Whether the sidecar with these settings is serving, and a message that says what was found."""
    address = _connectable(server.grpc_address)
    try:
        channel = _channel(address, server)
    except OSError as error:
        return False, f"{address} cannot be queried: {error.filename} cannot be read: {error.strerror}"
    except (ValueError, ExtensionNotFound):
        return False, f"{address} cannot be queried: server.tls.certificate_file holds no certificate with a name"
    with channel:
        try:
            response = _check(channel)(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)
        except grpc.RpcError as error:
            why = "no response in time" if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else _why(address, server)
            return False, f"{address} does not answer: {why}"
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    return response.status == health_pb2.HealthCheckResponse.SERVING, f"{address} is {status}"


def _why(address: str, server: Server) -> str:
    """Why the call failed: whether something listens there at all, which grpcio does not say in stable words."""
    try:
        _connect(address).close()
    except OSError as error:
        return error.strerror or str(error)
    spoken = "with this server.tls" if server.tls else "without TLS"
    return f"it accepts connections, but no gRPC {spoken}: is this the configuration of the running sidecar?"


def _connect(address: str) -> socket.socket:
    if not address.startswith(_UNIX):
        host, _, port = address.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_TIMEOUT)
        connection.connect(address.removeprefix(_UNIX))
    except OSError:
        connection.close()
        raise
    return connection


def _check(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable[Any, Any]:
    return channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )


def _connectable(address: str) -> str:
    """The address to connect to for a listening address: a wildcard includes loopback."""
    host, _, port = address.rpartition(":")
    return f"{_LOOPBACK[host]}:{port}" if host in _LOOPBACK else address


def _channel(address: str, server: Server) -> grpc.Channel:
    if server.tls is None:
        return grpc.insecure_channel(address)
    # The probe queries its own pod, so it trusts exactly the certificate that is served, whatever its name. If clients
    # need a certificate it presents the same one, which the client authority must then have signed.
    chain = server.tls.certificate_file.read_bytes()
    key = server.tls.key_file.read_bytes() if server.tls.client_ca_file else None
    credentials = grpc.ssl_channel_credentials(chain, key, chain if key else None)
    return grpc.secure_channel(address, credentials, options=(("grpc.ssl_target_name_override", _name_in(chain)),))


def _name_in(chain: bytes) -> str:
    names = load_pem_x509_certificates(chain)[0].extensions.get_extension_for_class(SubjectAlternativeName).value
    return next(iter((*names.get_values_for_type(DNSName), *map(str, names.get_values_for_type(IPAddress)))), "")
