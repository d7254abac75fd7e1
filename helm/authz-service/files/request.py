"""The script of ``helm test``: send one request, and check that authz-service decides it.

It sends no credential. It passes when the decision has the expected reason or, without one, when the reason is not an
outage. It runs in the authz-service image and uses nothing else.

    python request.py URL METHOD HOST PATH [REASON [CERTIFICATE_FOLDER]]

``grpc://`` and ``grpcs://`` call authz-service as Envoy does; ``http://`` and ``https://`` go through the proxy.
"""

from __future__ import annotations

import http
import http.client
import json
import ssl
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

TLS_FOLDER = "/etc/authz-tls"
OUTAGES = frozenset({
    "internal_error", "keys_unavailable", "introspection_unavailable", "deadline_exceeded",
    "authorization_unavailable",  # sent by Envoy, which got no decision
})  # fmt: skip
TIMEOUT = 10  # seconds
RETRY_INTERVAL = 0.5  # seconds


def main(url: str, method: str, host: str, path: str, expected: str = "", folder: str = TLS_FOLDER) -> int:
    """Send the request and print the result; returns the exit status."""
    parts, tls = urlsplit(url), Path(folder)
    if parts.scheme in {"grpc", "grpcs"}:
        result, reason = call_check(parts.netloc, method, host, path, tls if parts.scheme == "grpcs" else None)
    else:
        result, reason = send_http(parts.netloc, method, host, path, tls if parts.scheme == "https" else None)
    passed = reason == expected if expected else reason not in OUTAGES
    print(f"{method} {host}{path}: {result}, reason {reason or 'unknown'}")
    if not passed:
        print(f"FAILED: expected {f'reason {expected}' if expected else 'a decision'}")
    return 0 if passed else 1


def call_check(address: str, method: str, host: str, path: str, tls: Path | None) -> tuple[str, str]:
    """Call Check as Envoy does; returns the decision and its reason."""
    import grpc  # noqa: PLC0415 - not needed for a request over HTTP

    from authz_service._pb import external_auth_pb2  # noqa: PLC0415

    request = external_auth_pb2.CheckRequest()
    attributes = request.attributes.request.http
    attributes.method, attributes.host, attributes.path = method, host, path
    attributes.headers.update({":method": method, ":authority": host, ":path": path})
    channel = grpc.secure_channel(address, channel_credentials(tls)) if tls else grpc.insecure_channel(address)
    with channel:
        check = channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            request_serializer=external_auth_pb2.CheckRequest.SerializeToString,
            response_deserializer=external_auth_pb2.CheckResponse.FromString,
        )
        response = check(request, timeout=TIMEOUT, wait_for_ready=True)
    denied = response.WhichOneof("http_response") == "denied_response"
    result = f"denied with {response.denied_response.status.code}" if denied else "allowed"
    metadata = response.dynamic_metadata
    return result, str(metadata["reason"]) if "reason" in metadata else ""


def channel_credentials(tls: Path):  # noqa: ANN201 - grpc is imported late
    """Trust the issuer of the mounted certificate, and present that certificate if the server requires one."""
    import grpc  # noqa: PLC0415

    return grpc.ssl_channel_credentials(
        trust_anchor(tls).read_bytes(), (tls / "tls.key").read_bytes(), (tls / "tls.crt").read_bytes()
    )


def trust_anchor(tls: Path) -> Path:
    """The CA certificate or, if there is none, the certificate itself."""
    return tls / "ca.crt" if (tls / "ca.crt").exists() else tls / "tls.crt"


def send_http(address: str, method: str, host: str, path: str, tls: Path | None) -> tuple[str, str]:
    """Send the request through the proxy; returns the status and the reason, which only a denial has."""
    if tls:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            address, timeout=TIMEOUT, context=ssl_context(tls)
        )
    else:
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
    connect(connection)
    connection.request(method, path, headers={"Host": host})
    response = connection.getresponse()
    body = response.read()
    return f"status {response.status}", reason_of(response, body)


def connect(connection: http.client.HTTPConnection) -> None:
    """Open the connection. A network that does not know this new pod yet may refuse it, although a policy allows it."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            connection.connect()
        except ssl.SSLError:
            raise
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(RETRY_INTERVAL)
        else:
            return


def ssl_context(tls: Path) -> ssl.SSLContext:
    """Trust the issuer of the mounted certificate for any name, because clients use another name than the Service's.

    Without a mounted certificate, use the system's trust store and check the name in the URL.
    """
    if not tls.exists():
        return ssl.create_default_context()
    context = ssl.create_default_context(cafile=str(trust_anchor(tls)))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the trust anchor may be the certificate itself
    context.check_hostname = False
    return context


def reason_of(response: http.client.HTTPResponse, body: bytes) -> str:
    """The reason in a problem document; any other 5xx counts as an outage."""
    if response.getheader("Content-Type", "").startswith("application/problem+json"):
        return str(json.loads(body).get("type", "")).rpartition(":")[2]
    return "internal_error" if response.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR else ""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
