"""The client of the cluster tests."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trustme

from support.pod_programs import finish, running_shop, start

if TYPE_CHECKING:
    from collections.abc import Iterator


def _call(*requests: dict[str, Any]) -> list[dict[str, Any]]:
    (answers,) = finish(start("call.py", requests))
    found: list[dict[str, Any]] = answers
    return found


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.connection, ssl.SSLSocket)
        body = self.rfile.read(int(self.headers["content-length"]))
        peer = self.connection.getpeercert()
        answer = body + b" " + str(bool(peer)).encode()
        self.send_response(201)
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name in the base class
        pass


@contextmanager
def _tls_server(ca: trustme.CA) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"https://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_a_batch_is_answered_in_its_order() -> None:
    with running_shop() as shop:
        answers = _call(*({"url": f"{shop.url}/{number}"} for number in range(3)))
    assert [each["status"] for each in answers] == [200, 200, 200]
    assert [f"GET /{number}" in each["body"] for number, each in enumerate(answers)] == [True, True, True]


def test_https_verifies_the_server_and_can_present_a_client_certificate() -> None:
    ca = trustme.CA()
    trusted, client = ca.cert_pem.bytes().decode(), ca.issue_cert("client.example").private_key_and_cert_chain_pem
    with _tls_server(ca) as url:
        request = {"url": url, "method": "POST", "body": "text"}
        plain, with_certificate, untrusted = _call(
            request | {"ca": trusted},
            request | {"ca": trusted, "certificate": client.bytes().decode()},
            request | {"ca": trustme.CA().cert_pem.bytes().decode()},
        )
    assert (plain["status"], plain["body"]) == (201, "text False")
    assert with_certificate["body"] == "text True"
    assert with_certificate["headers"]["set-cookie"] == "a=1, b=2"
    assert untrusted["status"] == 0
    assert untrusted["error"].startswith("SSLCertVerificationError: ")


def test_an_error_does_not_contain_the_token() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        headers = {"authorization": "Bearer secret"}
        refused, invalid = _call(
            {"url": url, "headers": headers}, {"url": url, "headers": {"authorization": "Bearer secret\n"}}
        )
    assert refused == {"status": 0, "headers": {}, "body": "", "error": "ConnectionRefusedError: Connection refused"}
    assert invalid["error"] in {"ValueError", "ConnectionRefusedError: Connection refused"}
