"""The lines that the log has written, and strings that none of them may contain."""

from __future__ import annotations

import io
import json
from typing import Any

from hypothesis import strategies as st

from authz_service.telemetry.logs import configure

HEADER, CLAIMS, SIGNATURE = "eyJhbGciOiJSUzI1NiJ9", "eyJzdWIiOiJ1MSJ9", "c2lnbmF0dXJl-bm9ib2R5"
TOKEN = f"{HEADER}.{CLAIMS}.{SIGNATURE}"
OPAQUE = "2YotnFZFEjr1zCsicMWpAA"

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # including controls, line separators and lone surrogates


def written(format_: str = "json", level: str = "debug", worker: int | None = None) -> io.StringIO:
    """The stream to which the log writes from now on."""
    stream = io.StringIO()
    configure(level, format_, stream, worker)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def secrets_in(stream: io.StringIO) -> list[str]:
    return [secret for secret in (HEADER, CLAIMS, SIGNATURE, OPAQUE) if secret in stream.getvalue()]


class BrokenStream(io.StringIO):
    def write(self, _text: str, /) -> int:
        raise BlockingIOError("the reader is too slow")
