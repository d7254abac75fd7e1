"""Sends HTTP requests: a JSON array of them on standard input, and one of answers on standard output.

A request has ``url``, and optionally ``method``, ``headers``, ``body``, ``ca`` (the certificates that are trusted) and
``certificate`` (a client certificate and its key), both in PEM. An answer has ``status``, ``headers``, ``body`` and
``error``. Without a response, ``status`` is 0 and ``error`` says why, without any value of the request.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT = 60.0  # more than a slow request takes
_MAX_BODY = 1 << 20


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    try:
        connection = _connection(request)
        try:
            return _exchange(connection, request)
        finally:
            connection.close()
    except OSError as error:
        return _failed(f"{type(error).__name__}: {error.strerror or error}")
    except (http.client.HTTPException, ValueError) as error:  # whose text may contain the token
        return _failed(type(error).__name__)


def _connection(request: dict[str, Any]) -> http.client.HTTPConnection:
    url = urlsplit(request["url"])
    assert url.hostname is not None
    if url.scheme == "http":
        return http.client.HTTPConnection(url.hostname, url.port, timeout=_TIMEOUT)
    context = ssl.create_default_context(cadata=request.get("ca") or None)
    if certificate := request.get("certificate"):
        _load_certificate(context, certificate)
    return http.client.HTTPSConnection(url.hostname, url.port, timeout=_TIMEOUT, context=context)


def _load_certificate(context: ssl.SSLContext, pem: str) -> None:
    """Use this client certificate. The ssl module reads it only from a file, and the root file system is read-only."""
    with os.fdopen(os.memfd_create("certificate"), "wb") as file:
        file.write(pem.encode())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")


def _exchange(connection: http.client.HTTPConnection, request: dict[str, Any]) -> dict[str, Any]:
    url = urlsplit(request["url"])
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    body = request.get("body") or None
    connection.request(request.get("method", "GET"), target, body and body.encode(), request.get("headers", {}))
    response = connection.getresponse()
    headers: dict[str, str] = {}
    for name, value in response.getheaders():
        known = headers.get(name.lower())
        headers[name.lower()] = value if known is None else f"{known}, {value}"
    text = response.read(_MAX_BODY).decode(errors="replace")
    return {"status": response.status, "headers": headers, "body": text, "error": ""}


def _failed(error: str) -> dict[str, Any]:
    return {"status": 0, "headers": {}, "body": "", "error": error}


def main() -> None:
    json.dump([answer(request) for request in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
