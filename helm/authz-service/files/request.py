"""What ``helm test`` runs: one real request, and whether a decision came of it.

Law: it sends no credential, so nobody's is needed; a decision is an explicit allow or deny for a reason that is not an
outage. It runs in the image, with nothing but what the image has.

    python request.py URL METHOD HOST PATH [REASON [FOLDER OF THE CERTIFICATE]]

``grpc://`` and ``grpcs://`` ask authz-service as Envoy does; ``http://`` and ``https://`` go through the proxy.
"""

from __future__ import annotations

import http
import http.client
import json
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

TLS = "/etc/authz-tls"
OUTAGES = frozenset({"internal_error", "keys_unavailable", "introspection_unavailable", "deadline_exceeded"})
SECONDS = 10


def main(url: str, method: str, host: str, path: str, expected: str = "", folder: str = TLS) -> int:
    """Send it and say what came of it; returns the exit status."""
    parts, tls = urlsplit(url), Path(folder)
    if parts.scheme in {"grpc", "grpcs"}:
        answer, reason = through_grpc(parts.netloc, method, host, path, tls if parts.scheme == "grpcs" else None)
    else:
        answer, reason = through_http(parts.netloc, method, host, path, tls if parts.scheme == "https" else None)
    good = reason == expected if expected else reason not in OUTAGES
    print(f"{method} {host}{path}: {answer}, reason {reason or 'not told'}")
    if not good:
        print(f"FAILED: expected {f'the reason {expected}' if expected else 'a decision'}")
    return 0 if good else 1


def through_grpc(address: str, method: str, host: str, path: str, tls: Path | None) -> tuple[str, str]:
    """Ask as Envoy does; returns what was decided, and the reason."""
    import grpc  # noqa: PLC0415 - not needed for a request by HTTP

    from authz_service._pb import external_auth_pb2  # noqa: PLC0415

    request = external_auth_pb2.CheckRequest()
    attributes = request.attributes.request.http
    attributes.method, attributes.host, attributes.path = method, host, path
    attributes.headers.update({":method": method, ":authority": host, ":path": path})
    channel = grpc.secure_channel(address, credentials(tls)) if tls else grpc.insecure_channel(address)
    with channel:
        check = channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            request_serializer=external_auth_pb2.CheckRequest.SerializeToString,
            response_deserializer=external_auth_pb2.CheckResponse.FromString,
        )
        response = check(request, timeout=SECONDS, wait_for_ready=True)
    denied = response.WhichOneof("http_response") == "denied_response"
    answer = f"denied with {response.denied_response.status.code}" if denied else "allowed"
    metadata = response.dynamic_metadata
    return answer, str(metadata["reason"]) if "reason" in metadata else ""


def credentials(tls: Path):  # noqa: ANN201 - grpc is imported late
    """Trust who signed the certificate, and show ours, which is the same, where it is asked for."""
    import grpc  # noqa: PLC0415

    return grpc.ssl_channel_credentials(
        anchors(tls).read_bytes(), (tls / "tls.key").read_bytes(), (tls / "tls.crt").read_bytes()
    )


def anchors(tls: Path) -> Path:
    """The authority beside the certificate; where there is none, the certificate itself."""
    return tls / "ca.crt" if (tls / "ca.crt").exists() else tls / "tls.crt"


def through_http(address: str, method: str, host: str, path: str, tls: Path | None) -> tuple[str, str]:
    """Ask the proxy; a denial tells its reason in a problem document, an allowed request has the API's answer."""
    if tls:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            address, timeout=SECONDS, context=trust(tls)
        )
    else:
        connection = http.client.HTTPConnection(address, timeout=SECONDS)
    connection.request(method, path, headers={"Host": host})
    answer = connection.getresponse()
    body = answer.read()
    return f"status {answer.status}", reason_in(answer, body)


def trust(tls: Path) -> ssl.SSLContext:
    """Who signed the mounted certificate, for whatever name: clients know the proxy by another one than its Service's.

    Where none is mounted, whom everybody trusts, for the name in the URL.
    """
    if not tls.exists():
        return ssl.create_default_context()
    context = ssl.create_default_context(cafile=str(anchors(tls)))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself may be all that there is
    context.check_hostname = False
    return context


def reason_in(answer: http.client.HTTPResponse, body: bytes) -> str:
    """The reason in a problem document; without one, an outage where the proxy or the API is out of order."""
    if answer.getheader("Content-Type", "").startswith("application/problem+json"):
        return str(json.loads(body).get("type", "")).rpartition(":")[2]
    return "internal_error" if answer.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR else ""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
