"""The preStop hook of authz-service in shape ``gateway``: makes Envoy announce that it stops.

Envoy serves as before, but its responses end the connections of clients: with ``connection: close`` or GOAWAY. A native
sidecar stops after Envoy, so its hook ends at once. A plain container stops with Envoy, so its hook lasts SECONDS.

    python drain.py ADMIN_SOCKET SECONDS

It runs in the authz-service image and uses nothing else. If it fails, Kubernetes reports an event, and the pod stops in
the same order.
"""

from __future__ import annotations

import http
import http.client
import socket
import sys
import time

TIMEOUT = 2  # seconds


def main(admin_socket: str, seconds: str) -> int:
    """Start the drain and wait; returns the exit status."""
    try:
        return start_drain(admin_socket)
    finally:
        time.sleep(float(seconds))


def start_drain(admin_socket: str) -> int:
    """Request it from the admin interface of Envoy; returns the exit status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(admin_socket)
        connection.sendall(b"POST /healthcheck/fail HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n")
        response = http.client.HTTPResponse(connection)
        response.begin()
    if response.status != http.HTTPStatus.OK:
        print(f"Envoy answered {response.status}, and does not announce that it stops", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
