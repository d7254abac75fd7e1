"""Queries a running instance's health service, for container probes without a shell.

It opens one connection and makes one call, bounded in time and octets. A probe runs every few seconds in each pod, so
this module imports little: no gRPC library, and ``ssl`` only if the sidecar serves TLS.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from authz_service.config import files
from authz_service.transport import health
from authz_service.transport.health import ServingStatus
from authz_service.transport.http2.client import CallFailedError, StatusError, UnaryCall
from authz_service.transport.protobuf_wire import InvalidMessageError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

    from authz_service.config.server import Server, Tls

_TIMEOUT = 2.0  # seconds, for everything: less than the timeout of any sensible probe
_UNIX = "unix:"
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - nothing is bound to it here
_MAX_FILE_BYTES: Final = 1 << 20  # of a certificate or key: the most that a Kubernetes Secret holds
_READ_BYTES: Final = 1 << 14


class _CannotQueryError(Exception):
    """The files of server.tls cannot be used."""


class _CannotConnectError(Exception):
    """Nothing accepts the connection."""


def is_serving(server: Server) -> tuple[bool, str]:
    """Whether the sidecar with these settings is serving, and a message that says what was found."""
    address = _connectable(server.grpc_address)
    spoken = "with this server.tls" if server.tls else "without TLS"
    try:
        status = _status(address, server.tls)
    except _CannotQueryError as error:
        return False, f"{address} cannot be queried: {error}"
    except TimeoutError:
        why = "no response in time"
    except (_CannotConnectError, StatusError) as error:
        why = str(error)
    except (CallFailedError, InvalidMessageError, OSError):
        why = f"it accepts connections, but no gRPC {spoken}: is this the configuration of the running instance?"
    else:
        return status is ServingStatus.SERVING, f"{address} is {status.name}"
    return False, f"{address} does not answer: {why}"


def _connectable(address: str) -> str:
    """The address to connect to for a listening address: a wildcard includes loopback."""
    host, _, port = address.rpartition(":")
    return f"{_LOOPBACK[host]}:{port}" if host in _LOOPBACK else address


def _status(address: str, tls: Tls | None) -> ServingStatus:
    """The status that the sidecar reports for all that it serves."""
    pinned = _Pinned(tls) if tls else None
    deadline = time.monotonic() + _TIMEOUT
    call = UnaryCall(health.CHECK_PATH, b"", encrypted=tls is not None)
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(_connect(address, deadline))
        if pinned is not None:
            connection = stack.enter_context(pinned.encrypt(connection, deadline))
        connection.settimeout(_remaining(deadline))
        connection.sendall(call.request)
        while call.response is None:
            connection.settimeout(_remaining(deadline))
            octets = connection.recv(_READ_BYTES)
            if not octets:
                raise CallFailedError("the connection was closed")
            call.receive(octets)
    return health.status_in(call.response)


def _remaining(deadline: float) -> float:
    """Seconds.

    Raises:
        TimeoutError: if there are none.
    """
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def _connect(address: str, deadline: float) -> socket.socket:
    """Connect to the first address that accepts."""
    error = OSError("the name has no address")
    try:
        for family, where in _socket_addresses(address):
            connection = socket.socket(family)
            try:
                connection.settimeout(_remaining(deadline))
                connection.connect(where)
            except OSError as refused:
                connection.close()
                error = refused
            else:
                return connection
    except OSError as unresolved:
        error = unresolved
    if isinstance(error, TimeoutError):
        raise error
    raise _CannotConnectError(error.strerror or str(error))


def _socket_addresses(address: str) -> Iterator[tuple[int, Any]]:
    """The families and socket addresses of an address."""
    if address.startswith(_UNIX):
        yield socket.AF_UNIX, address.removeprefix(_UNIX)
        return
    host, _, port = address.rpartition(":")
    name = host.strip("[]").encode()  # octets, or it would load the tables of international names
    for family, *_, where in socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM):
        yield family, where


class _Pinned:
    """TLS with exactly the server that has the certificate of the configuration.

    The probe queries its own pod, so it trusts the certificate that is served and no authority of the system. If
    clients need a certificate, it presents the same one, which the client authority must then have signed.
    """

    def __init__(self, tls: Tls) -> None:
        """Read the files.

        Raises:
            _CannotQueryError: if they cannot be used.
        """
        import ssl

        chain = _content(tls.certificate_file)
        self._chain = chain
        self._context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False  # the certificate may be for any name; see encrypt
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.set_alpn_protocols(["h2"])
        try:
            with files.in_memory(chain) as certificates:
                context.load_verify_locations(certificates)
        except ssl.SSLError:
            raise _CannotQueryError("server.tls.certificate_file holds no certificate") from None
        if tls.client_ca_file is None:
            return
        key = _content(tls.key_file)
        try:
            with files.in_memory(chain) as certificates, files.in_memory(key) as key_file:
                context.load_cert_chain(certificates, key_file, password=b"")
        except ssl.SSLError:
            raise _CannotQueryError("server.tls.key_file holds no key of the certificate") from None

    def encrypt(self, connection: socket.socket, deadline: float) -> ssl.SSLSocket:
        """Make the handshake, and require the certificate: the first of the file, or another one for the same name.

        The latter is served while the file holds a pair that the server does not accept.
        """
        connection.settimeout(_remaining(deadline))
        encrypted = self._context.wrap_socket(connection)
        served = encrypted.getpeercert(binary_form=True) or b""
        if encrypted.selected_alpn_protocol() != "h2" or not _is_same(served, self._chain):
            encrypted.close()
            raise CallFailedError("another server")
        return encrypted


def _content(file: Path) -> bytes:
    try:
        return files.read(file, _MAX_FILE_BYTES)
    except OSError as error:
        raise _CannotQueryError(f"{file} cannot be read: {error.strerror}") from None


def _is_same(certificate: bytes, chain: bytes) -> bool:
    return _is_first(certificate, chain) or _has_same_name(certificate, chain)


def _is_first(certificate: bytes, chain: bytes) -> bool:
    """Whether a certificate is the first of a file."""
    import ssl

    begin, end = chain.find(b"-----BEGIN CERTIFICATE-----"), chain.find(b"-----END CERTIFICATE-----")
    pem = chain[begin:end] + b"-----END CERTIFICATE-----"
    try:
        return ssl.PEM_cert_to_DER_cert(pem.decode("ascii")) == certificate
    except ValueError:
        return False


def _has_same_name(certificate: bytes, chain: bytes) -> bool:
    """Whether a certificate has the name of the first one in a file."""
    from cryptography import x509

    def names(of: x509.Certificate) -> list[str]:
        found = of.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]

    try:
        first, *_ = names(x509.load_pem_x509_certificates(chain)[0])
        return first in names(x509.load_der_x509_certificate(certificate))
    except (ValueError, x509.ExtensionNotFound):
        return False
