"""A document is a JSON object that all parsers read alike, or a failed fetch that does not quote it."""

from __future__ import annotations

import pytest

from authz_service.core.errors import FetchFailed
from authz_service.providers import json_object


def test_an_object_is_parsed() -> None:
    assert json_object.parse(b'{"a": [1, null]}', "the metadata") == {"a": [1, None]}


def test_one_byte_order_mark_is_ignored() -> None:
    assert json_object.parse(b'\xef\xbb\xbf{"a": 1}', "the metadata") == {"a": 1}
    with pytest.raises(FetchFailed):
        json_object.parse(b"\xef\xbb\xbf\xef\xbb\xbf{}", "the metadata")


@pytest.mark.parametrize("data", [b"[]", b"null", b'"secret"', b"7"])
def test_other_values_are_rejected(data: bytes) -> None:
    with pytest.raises(FetchFailed, match=r"^the metadata is not a JSON object$"):
        json_object.parse(data, "the metadata")


@pytest.mark.parametrize("data", [b"", b"secret", b'{"a": "secret", "a": 2}', b"\xff", b'{"secret": NaN}'])
def test_documents_that_parsers_may_read_differently_are_rejected(data: bytes) -> None:
    with pytest.raises(FetchFailed, match=r"^the metadata is not strict JSON: ") as failed:
        json_object.parse(data, "the metadata")
    assert "secret" not in str(failed.value)
