"""A request cannot make a later proxy remove headers."""

from __future__ import annotations

import pytest

from authz_service.core import connection_header
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Upgrade",
        "upgrade,keep-alive",
        "keep-alive\t,\tUpgrade ,,",
        "Upgrade, HTTP2-Settings",
        "close, te, trailer, transfer-encoding, proxy-connection",
    ],
)
def test_hop_by_hop_headers_may_be_named(value: str) -> None:
    connection_header.validate({"connection": value, "upgrade": "websocket"})


def test_a_request_without_the_header_is_valid() -> None:
    connection_header.validate({"upgrade": "websocket"})


@pytest.mark.parametrize(
    "value",
    [
        "x-auth-subject",
        "upgrade, x-auth-subject",
        "Upgrade,X-AUTH-SUBJECT",
        "upgrade\t,\tx-auth-subject",
        "x-auth-subject,,upgrade",
        "upgrade;x-auth-subject",
        "upgrade x-auth-subject",
        "upgrade,\xa0x-auth-subject",
        "upgrade\x00x-auth-subject",
        'upgrade, "x-auth-subject"',
        "upgrade, x_auth_subject",
        "upgrade, authorization",
        "upgrade, host",
        "upgrade, x-forwarded-for",
        "upgrade" + "," * 1018,
    ],
)
def test_any_other_header_name_is_refused(value: str) -> None:
    with pytest.raises(Rejected) as refused:
        connection_header.validate({"connection": value})
    assert refused.value.reason is Reason.MALFORMED_REQUEST
    assert len(refused.value.cause) < 200
