"""The page on reasons: every one, and what the caller gets."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from authz_service._pb.external_auth_pb2 import CheckResponse
from authz_service.config.model import Issuer, RuleSettings
from authz_service.core.errors import Rejected
from authz_service.core.paths import MAX_PATH, split
from authz_service.core.reasons import ALLOWANCES, ANSWERS, DENIALS, Reason
from authz_service.rules.operators import RequestParts
from authz_service.rules.policy import Rule
from authz_service.tokens.jwt.claims import validate_claims
from authz_service.transport.ext_authz.codec import encode_response
from support.documents import blocks, page, section, tables

if TYPE_CHECKING:
    from authz_service.core.decision import Deny

PAGE = page("reference/reasons")
ISSUER = Issuer(issuer="https://idp.example.com/", name="main", audiences=["https://api.example.com/"])
REQUIRE = {"scopes": ["read"], "max_auth_age": "15m", "acr_values": ["mfa"]}
RULE = Rule(RuleSettings(name="read", require=REQUIRE), [ISSUER])
TABLE = {
    reason: (status, code, error)
    for reasons, status, code, error in tables(section(PAGE, "## All reasons"))[0].rows
    for reason in re.findall(r"\[`([a-z_]+)`\]\(#\1\)", reasons)
}


def denied(reason: Reason) -> Deny:
    return RULE.deny(Rejected(reason, ""))


def parameters(challenge: str) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="([^"]*)"', challenge))


def test_the_table_has_every_reason_once() -> None:
    assert list(TABLE) == list(dict.fromkeys(TABLE))
    assert set(TABLE) == {reason.value for reason in Reason}
    assert {reason for reason, (status, *_) in TABLE.items() if status == "allowed"} == ALLOWANCES
    assert {reason for reason, (status, *_) in TABLE.items() if status == "200"} == ANSWERS


@pytest.mark.parametrize("reason", DENIALS)
def test_the_table_has_what_the_caller_gets(reason: Reason) -> None:
    denial, (status, code, error) = DENIALS[reason], TABLE[reason]
    assert (status, code) == (str(int(denial.status)), str(denial.rpc_code))
    assert error == (f"`{denial.error}`" if denial.error else "without an error" if denial.challenged else "")
    for challenge in denied(reason).challenges:
        of_bearer = "invalid_token" if reason in {Reason.INVALID_PROOF, Reason.REPLAYED_PROOF} else denial.error
        assert parameters(challenge).get("error") in {denial.error, of_bearer} or reason is Reason.NONCE_REQUIRED


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_its_section(reason: Reason) -> None:
    text = section(PAGE, f"### {reason.value}")
    labels = re.findall(r"^\*\*(\w+)\.\*\* \S", text, re.MULTILINE)
    if reason not in DENIALS:
        assert labels == ["Meaning"]
        return
    assert labels == ["Meaning", "Cause", "Remedy"]
    denial = DENIALS[reason]
    error = f" · `{denial.error}`" if denial.error else ""
    assert text.strip().splitlines()[0] == f"`{int(denial.status)}`{error} · {denial.detail}"


def test_no_other_section_looks_like_a_reason() -> None:
    names = re.findall(r"^### ([a-z_]+)$", PAGE, re.MULTILINE)
    assert sorted(names) == sorted([*Reason, "authorization_unavailable"])


def test_the_example_of_a_response_is_a_response() -> None:
    encoded = encode_response(denied(Reason.EXPIRED), "1")
    response = CheckResponse.FromString(encoded).denied_response
    headers = {each.header.key: each.header.value for each in response.headers}
    text = section(PAGE, "## What the client receives")
    assert json.loads(blocks(text, "json")[0].text) == json.loads(response.body)
    assert blocks(text, "http")[0].text.strip() == f"WWW-Authenticate: {headers['www-authenticate']}"
    assert headers["cache-control"] == "no-store"
    assert headers["content-type"] in text


@pytest.mark.parametrize(
    ("parameter", "reasons"),
    [
        ("scope", {Reason.MISSING_TOKEN, Reason.INSUFFICIENT_SCOPE}),
        ("max_age", {Reason.STALE_AUTHENTICATION, Reason.WEAK_AUTHENTICATION}),
        ("acr_values", {Reason.STALE_AUTHENTICATION, Reason.WEAK_AUTHENTICATION}),
    ],
)
def test_a_parameter_of_challenges_is_sent_with_the_reasons_that_the_page_names(
    parameter: str, reasons: set[Reason]
) -> None:
    sent = {reason for reason in DENIALS for each in denied(reason).challenges if parameter in parameters(each)}
    assert sent == reasons
    text = section(PAGE, "## What the client receives")
    (line,) = re.findall(rf"^- [^\n]*`{parameter}`.*?(?=\n[-\n])", text, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`([a-z_]+)`", line)) & set(Reason) == reasons


@pytest.mark.parametrize(
    "path",
    [
        *("/a%2Fb", "/a%5cb", "/a%2eb", "/a%00", "/a%252Fb"),
        *("/a%zz", "/a%ff", "//a", "/./a", "/a/..", "/a;b/c", "/a b", "/a\\b", "/a#b", "/a\tb", "/ä"),
        f"/{'a' * MAX_PATH}",
    ],
)
def test_the_causes_of_an_ambiguous_path_are_causes(path: str) -> None:
    with pytest.raises(Rejected) as refused:
        split(path)
    assert refused.value.reason is Reason.AMBIGUOUS_PATH


@pytest.mark.parametrize(
    ("require", "members", "expected"),
    [
        ({"claims": {"tenant": {"equals_path": "tenant"}}}, {}, Reason.CLAIM_MISMATCH),
        ({"scopes": ["write:appointments"]}, {}, Reason.INSUFFICIENT_SCOPE),
        ({}, {"aud": ["account"]}, Reason.WRONG_AUDIENCE),
        ({}, {"sub": 7}, Reason.INVALID_CLAIM),
    ],
)
def test_quoted_causes_are_those_of_the_program(
    require: dict[str, Any], members: dict[str, Any], expected: Reason
) -> None:
    rule = Rule(RuleSettings(name="a", match={"paths": ["/{tenant}"]}, require=require), [ISSUER])
    raw = {"iss": ISSUER.issuer, "aud": list(ISSUER.audiences), "exp": 2, **members}
    with pytest.raises(Rejected) as refused:
        rule.evaluate(validate_claims(ISSUER, {}, raw, 1), RequestParts({"tenant": "acme"}, {}), 1)
    assert refused.value.reason is expected
    assert f"`{refused.value.cause}`" in section(PAGE, f"### {expected.value}").replace("\n", " ")
