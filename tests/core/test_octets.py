"""A table changes every octet but the allowed ones."""

from __future__ import annotations

from authz_service.core.octets import only


def test_only_allowed_octets_stay_as_they_are() -> None:
    table = only("az-0")
    every = bytes(range(256))
    assert {old for old, new in zip(every, every.translate(table), strict=True) if old == new} == set(b"az-0")
