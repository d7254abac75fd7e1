"""The ``server`` section of the configuration: where and how the sidecar listens.

It is apart from ``model``, so that ``healthcheck`` reads it alone.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from authz_service.config.kinds import OneOf, Whole
from authz_service.config.places import FILE, GRPC_ADDRESS, TCP_ADDRESS
from authz_service.config.sections import Section, SectionKey, SectionKind, key, optional, required
from authz_service.config.units import DURATION, POSITIVE_DURATION, SIZE

Transport: TypeAlias = Literal["grpcio", "asyncio"]


class Tls(Section):
    """TLS for the gRPC server. Changed files take effect for new connections, without a restart."""

    certificate_file = required(
        FILE,
        description="The server's certificate chain, PEM.",
        example="tls.crt",
    )
    key_file = required(
        FILE,
        description="The private key of the certificate, PEM, without a password.",
        example="tls.key",
    )
    client_ca_file = optional(
        FILE,
        description="Trust anchors for client certificates, PEM. If set, clients must present a certificate (mutual "
        "TLS). Default: no client certificate is requested.",
        example="clients.pem",
    )


class Server(Section):
    """Where and how the sidecar listens."""

    grpc_address = key(
        GRPC_ADDRESS,
        default="127.0.0.1:9191",
        description="Address of the gRPC server that Envoy calls: `host:port`, `[v6]:port`, or `unix:/path/to.sock` "
        "(created with mode 0660).",
        example="unix:/run/authz/authz.sock",
    )
    admin_address = key(
        TCP_ADDRESS,
        default="127.0.0.1:9192",
        description="Address of the HTTP server for `/metrics`, `/healthz` and `/readyz`.",
        example="0.0.0.0:9192",
    )
    transport: SectionKey[Transport] = key(
        OneOf(Transport),
        default="asyncio",
        description="The gRPC server: `asyncio` is this project's own HTTP/2 server and several times as fast, "
        "`grpcio` is Google's.",
        example="grpcio",
    )
    workers = key(
        Whole(minimum=1, maximum=256),
        default=1,
        description="Number of processes that share `grpc_address`; each uses one core. 1: no additional processes.",
        example=4,
    )
    tls = optional(
        SectionKind(Tls),
        description="TLS for the gRPC server. Default: plaintext.",
        example={"certificate_file": "tls.crt", "key_file": "tls.key"},
    )
    check_deadline = key(
        POSITIVE_DURATION,
        default="1s",
        description="Maximum duration of one `Check`; after it, the request is denied with 503. If the caller's own "
        "deadline (`grpc-timeout`) less a tenth is shorter, that applies instead, but at least 50 ms.",
        example="500ms",
    )
    shutdown_delay = key(
        DURATION,
        default="0s",
        description="On shutdown, report not ready but keep serving for this long, so that the mesh stops sending.",
        example="5s",
    )
    shutdown_grace = key(
        DURATION,
        default="10s",
        description="After `shutdown_delay`, wait this long for requests in flight to finish.",
        example="30s",
    )
    max_request_bytes = key(
        SIZE,
        default="1MiB",
        description="Maximum size of a `CheckRequest`; a larger one is denied.",
        example="256KiB",
    )
    max_token_bytes = key(
        SIZE,
        default="16KiB",
        description="Maximum size of a token; a larger one is denied as `malformed_request`.",
        example="32KiB",
    )
