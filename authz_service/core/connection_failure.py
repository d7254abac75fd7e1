"""Why connections fail: a closed list, each with a remedy for the log."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class ConnectionFailure(StrEnum):
    """Why a connection was closed or never established; a label in metrics and in the log."""

    # Before TLS is established.
    PLAINTEXT = "plaintext_on_tls_port"
    NO_CLIENT_CERTIFICATE = "no_client_certificate"
    UNTRUSTED_CLIENT_CERTIFICATE = "untrusted_client_certificate"
    SERVER_CERTIFICATE_REFUSED = "server_certificate_refused"  # by the client
    TLS_HANDSHAKE = "tls_handshake"  # anything else
    # Before HTTP/2 is established.
    TLS = "tls_on_plaintext_port"
    HTTP1 = "http1"
    NOT_HTTP2 = "not_http2"  # nor any of these
    # At any time.
    UNFINISHED = "unfinished"  # it sent nothing, or a part of a handshake, preface, frame or field block, and no more
    PROTOCOL_ERROR = "protocol_error"
    FLOOD = "flood"  # it exceeded the limits on its work or memory
    IDLE = "idle"  # it does not acknowledge PINGs, or does not read
    TOO_MANY = "too_many_connections"
    # On the admin port.
    GRPC = "grpc_on_admin_port"


_CLUSTER_TLS = "transport_socket (UpstreamTlsContext) on the Envoy cluster"
REMEDIES: Final[Mapping[ConnectionFailure, str]] = {
    ConnectionFailure.PLAINTEXT: f"a client spoke plaintext to the TLS port: set {_CLUSTER_TLS}",
    ConnectionFailure.NO_CLIENT_CERTIFICATE: (
        f"server.tls.client_ca_file requires a client certificate: set tls_certificates in {_CLUSTER_TLS}"
    ),
    ConnectionFailure.UNTRUSTED_CLIENT_CERTIFICATE: (
        "sign the client's certificate with an authority in server.tls.client_ca_file, or add its authority there"
    ),
    ConnectionFailure.SERVER_CERTIFICATE_REFUSED: (
        "the client does not trust server.tls.certificate_file: set trusted_ca, and the name that it must match, in "
        f"{_CLUSTER_TLS}"
    ),
    ConnectionFailure.TLS_HANDSHAKE: "the client must speak TLS 1.2 or 1.3 with ECDHE and AES-GCM or ChaCha20",
    ConnectionFailure.TLS: (
        f"a client spoke TLS to the plaintext port: configure server.tls, or remove {_CLUSTER_TLS}"
    ),
    ConnectionFailure.HTTP1: (
        "a client spoke HTTP/1.1 to the gRPC port: set explicit_http_config.http2_protocol_options on the Envoy "
        "cluster; for HTTP health checks, use the admin port"
    ),
    ConnectionFailure.NOT_HTTP2: "server.grpc_address accepts only gRPC: check which client uses this port",
    ConnectionFailure.UNFINISHED: (
        "check the network between the client and this port, and that the client speaks gRPC"
    ),
    ConnectionFailure.PROTOCOL_ERROR: "the client violates HTTP/2: check its version, and proxies in between",
    ConnectionFailure.FLOOD: "no working proxy does this: check who can reach this port",
    ConnectionFailure.IDLE: "the client is gone or overloaded: check its health and the network in between",
    ConnectionFailure.TOO_MANY: (
        "check who can reach this port; with more clients than this, add replicas, or raise the limit on open files"
    ),
    ConnectionFailure.GRPC: (
        "a client spoke gRPC to server.admin_address: set the port of the Envoy cluster to that of server.grpc_address"
    ),
}
