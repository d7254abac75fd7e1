"""A preflight is what a browser sends, and contains nothing that an upstream could take for another request."""

from __future__ import annotations

import pytest

from authz_service.core.attributes import Attributes
from authz_service.core.cors import is_preflight

SENT = {"origin": "https://app.example", "access-control-request-method": "PUT"}


def preflight(method: str = "OPTIONS", **changes: str | None) -> bool:
    sent = SENT | {name.replace("_", "-"): value for name, value in changes.items()}
    return is_preflight(
        Attributes(method, "a", "/", {name: value for name, value in sent.items() if value is not None})
    )


@pytest.mark.parametrize("origin", ["https://app.example", "http://localhost:3000", "null", "chrome-extension://abc"])
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "QUERY", "put", "M-SEARCH"])
def test_a_request_with_one_origin_and_one_method_is_a_preflight(origin: str, method: str) -> None:
    assert preflight(origin=origin, access_control_request_method=method)
    assert preflight(access_control_request_headers="authorization,x-api-version", accept="*/*")


@pytest.mark.parametrize("method", ["PUT", "GET", "options", "OPTIONS ", "", "CONNECT"])
def test_a_request_of_another_method_is_not_a_preflight(method: str) -> None:
    assert not preflight(method)


@pytest.mark.parametrize("name", ["origin", "access_control_request_method"])
@pytest.mark.parametrize(
    "value",
    [None, "", " ", "\t", "a b", "PUT,DELETE", "PUT,", ",", "PUT\x00", "PUT\x0b", "P\u00dcT", "\ufffd", "PUT\u00a0"],
)
def test_a_request_with_no_or_several_or_malformed_values_is_not_a_preflight(name: str, value: str | None) -> None:
    assert not preflight("OPTIONS", **{name: value})


@pytest.mark.parametrize("method", ["PUT /admin", "PUT:", "(PUT)", "PUT\tDELETE", '"PUT"'])
def test_a_request_for_a_malformed_method_is_not_a_preflight(method: str) -> None:
    assert not preflight(access_control_request_method=method)


@pytest.mark.parametrize(
    "sent",
    [
        {"authorization": "Bearer x"},
        {"authorization": ""},
        {"x-http-method-override": "DELETE"},
        {"x-http-method": "DELETE"},
        {"x-method-override": "DELETE"},
        {"x-http-method-override": ""},
        {"x_http_method_override": "DELETE"},
        {"x-http_method": "DELETE"},
        {"access_control_request_method": "DELETE"},
        {"access-control-request_method": "DELETE"},
    ],
)
def test_a_request_with_a_credential_or_a_method_override_is_not_a_preflight(sent: dict[str, str]) -> None:
    assert not is_preflight(Attributes("OPTIONS", "a", "/", SENT | sent))


@pytest.mark.parametrize("name", ["x-token", "x_token", "authorization"])
def test_a_request_with_the_credential_of_any_rule_is_not_a_preflight(name: str) -> None:
    attributes = Attributes("OPTIONS", "a", "/", SENT | {name: "x"})
    assert not is_preflight(attributes, {"authorization", "x-token"})
    assert is_preflight(Attributes("OPTIONS", "a", "/", SENT | {"x-tokens": "x"}), {"authorization", "x-token"})
