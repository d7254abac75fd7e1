"""The hooks of authz-service in shape ``gateway``, by which Envoy announces that the pod stops.

    python drain.py start ADMIN_SOCKET SECONDS
    python drain.py end ADMIN_SOCKET

``start`` is the preStop hook: Envoy serves as before, but its responses end the connections of clients, with
``connection: close`` or GOAWAY. A native sidecar stops after Envoy, so the hook ends at once. A plain container stops
with Envoy, so the hook lasts SECONDS. If it fails, Kubernetes reports an event, and the pod stops in the same order.

``end`` is the postStart hook. Kubernetes also runs ``start`` when a probe fails, and then it restarts this container
alone: Envoy keeps running, and must not end its connections any longer.

It runs in the authz-service image and uses nothing else.
"""

from __future__ import annotations

import http
import http.client
import socket
import sys
import time

TIMEOUT = 2  # seconds


def main(command: str, admin_socket: str, seconds: str = "0") -> int:
    """Start or end the drain; returns the exit status."""
    if command == "end":
        end_drain(admin_socket)
        return 0
    try:
        return start_drain(admin_socket)
    finally:
        time.sleep(float(seconds))


def start_drain(admin_socket: str) -> int:
    """Request it from the admin interface of Envoy; returns the exit status."""
    status = post(admin_socket, "/healthcheck/fail")
    if status != http.HTTPStatus.OK:
        print(f"Envoy answered {status}, and does not announce that it stops", file=sys.stderr)
        return 1
    return 0


def end_drain(admin_socket: str) -> None:
    """Never fails, because Kubernetes would stop the container: when the pod starts, Envoy does not run yet."""
    try:
        post(admin_socket, "/healthcheck/ok")
    except (OSError, http.client.HTTPException) as error:
        print(f"Envoy does not answer: {error}", file=sys.stderr)


def post(admin_socket: str, path: str) -> int:
    """Call the admin interface of Envoy; returns the status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(admin_socket)
        connection.sendall(f"POST {path} HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
    return response.status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
