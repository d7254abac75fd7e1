"""The field blocks of responses."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import hpack
import pytest

from authz_service.transport.http2.grpc_framing import Status, trailers


@pytest.mark.parametrize("message", ["50% of it", "two\r\nlines", "für alle", 'a "quoted" ~ text'])
def test_any_grpc_message_is_percent_encoded(message: str) -> None:
    fields: Any = dict(hpack.Decoder().decode(trailers(Status.INTERNAL, message), raw=True))
    encoded = fields[b"grpc-message"].decode("ascii")
    assert encoded.isprintable()
    assert unquote(encoded) == message
