"""An explanation has every step to the decision, ends with its reason, and shows nothing of the token."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.authorizer import Pending
from authz_service.cli import main
from authz_service.config.model import Settings
from authz_service.core.bounded import Bounds
from authz_service.core.decision import Allow, Decision
from authz_service.core.reasons import Reason
from authz_service.policy_tools import explanation
from authz_service.policy_tools.explain import UNDECIDED, Explanation, explained
from authz_service.policy_tools.explain import explain as explain_live
from authz_service.policy_tools.request import attributes_of
from authz_service.runtime.assembly import ProofState, authorizer_of
from authz_service.terminal import Color
from authz_service.tokens.jwt.cache import JwtCache
from authz_service.tokens.revocation.revocations import Revocation, RevocationList, Revocations, TokenParts
from support.fake_introspection import active_response
from support.http_provider import Provider
from support.signing import Signer
from support.trust import ISSUER, NOW, OTHER, OTHER_RS, RS, LocalValidator, claims, good, jwks

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.core.attributes import Attributes

RULES: list[dict[str, Any]] = [
    {"name": "health", "match": {"paths": ["/healthz"]}, "access": "public"},
    {
        "name": "tenant",
        "match": {"hosts": ["api.example"], "methods": ["GET"], "paths": ["/t/{tenant}/**"]},
        "require": {
            "issuers": ["main"],
            "clients": ["app"],
            "scopes": ["read:{tenant}"],
            "claims": {"tenant": {"equals_path": "tenant"}},
        },
    },
    {"name": "pay", "match": {"paths": ["/pay"]}, "require": {"max_auth_age": "15m", "acr_values": ["urn:mfa"]}},
    {"name": "maybe", "match": {"paths": ["/hello"]}, "access": "optional"},
    {"name": "watched", "match": {"paths": ["/shadow"]}, "mode": "shadow", "require": {"scopes": ["admin"]}},
    {"name": "versioned", "match": {"paths": ["/v"], "headers": {"x-api-version": "2"}}},
    {"name": "routed", "policy": "billing"},
    {"name": "purge", "match": {"methods": ["POST"], "paths": ["/items/{id}:purge"]}},
    {
        "name": "npm",
        "match": {"paths": ["/npm/{name}"], "encoded_slash": True},
        "require": {"claims": {"tenant": {"equals_path": "name"}}},
    },
    {
        "name": "account",
        "match": {"paths": ["/accounts/{id}"]},
        "require": {
            "clients": ["app"],
            "any_of": [
                {"issuers": ["main"], "claims": {"roles": {"contains": "admin"}}, "scopes": ["admin"]},
                {"claims": {"account": {"equals_path": "id"}}},
            ],
        },
    },
]
SETTINGS = Settings.read(
    {
        "issuers": [
            {"issuer": ISSUER, "name": "main", "audiences": ["api"], "max_token_age": "1h"},
            {"issuer": OTHER, "name": "other", "audiences": ["api"]},
        ],
        "rules": RULES,
        "cors_preflight": "allow",
    }
)
TRUST = LocalValidator(max_token_age="1h")
REVOCATIONS = RevocationList()
PROOF_STATE = ProofState.of(SETTINGS, TRUST.metrics, None, float(NOW))
AUTHORIZER = authorizer_of(
    SETTINGS, TRUST.issuers, JwtCache(Bounds(100, 1 << 20), 300.0), TRUST.metrics, PROOF_STATE, REVOCATIONS
)


def explain(attributes: Attributes, now: float = NOW) -> Explanation:
    decision: Decision | Pending = AUTHORIZER.begin(attributes, now)
    if isinstance(decision, Pending):
        decision = AUTHORIZER.finish(decision, now)
    return explained(SETTINGS, AUTHORIZER, attributes, decision, now)


def steps_of(
    path: str, token: str | None = None, *, method: str = "GET", policy: str = "", **headers: str
) -> Explanation:
    sent = [(name.replace("_", "-"), value) for name, value in headers.items()]
    sent += [] if token is None else [("Authorization", f"Bearer {token}")]
    return explain(attributes_of(method, f"https://api.example{path}", sent, policy))


def claim_steps(token_claims: dict[str, Any]) -> list[tuple[str, bool | None, str]]:
    steps = steps_of("/accounts/7", good(client_id="app", **token_claims)).steps
    return [(step.name, step.passed, step.detail) for step in steps if step.part == "claims" and "any_of" in step.name]


def test_the_revocation_that_revokes_the_token_is_named_and_without_revocations_there_is_no_step() -> None:
    def remarks(token: str) -> list[tuple[bool | None, str]]:
        return [(step.passed, step.detail) for step in steps_of("/pay", token).steps if step.name == "revocations"]

    assert not remarks(good())
    entries = [Revocation(TokenParts(subject=subject), origin=f"{subject}'s entry") for subject in ("u1", "u2")]
    REVOCATIONS.replace_file(Revocations(entries), b"")
    try:
        assert remarks(good(sub="u1")) == [(False, "revoked: revoked by u1's entry")]
        assert remarks(good(sub="u3")) == [(True, "not revoked")]
        assert steps_of("/pay", good(sub="u1")).decision.reason is Reason.REVOKED
    finally:
        REVOCATIONS.replace_file(Revocations(), b"")


def test_the_refused_keys_are_shown_where_no_key_verifies_the_signature() -> None:
    trust = LocalValidator()
    trust.publish(RS.jwk(), Signer("ES256", "enc").jwk(use="enc"), Signer("ES256", "gone").jwk(y="AA"))
    trust.refresh()
    authorizer = authorizer_of(
        SETTINGS, trust.issuers, JwtCache(Bounds(100, 1 << 20), 300.0), trust.metrics, PROOF_STATE, REVOCATIONS
    )

    def remarks(token: str) -> list[str]:
        attributes = attributes_of("GET", "https://api.example/pay", [("Authorization", f"Bearer {token}")])
        decision = authorizer.begin(attributes, NOW)
        decision = authorizer.finish(decision, NOW) if isinstance(decision, Pending) else decision
        steps = explained(SETTINGS, authorizer, attributes, decision, NOW).steps
        return [step.detail for step in steps if step.name == "key set"]

    assert remarks(Signer("ES256", "gone").sign(claims())) == [
        "not used: key 'enc': its use is 'enc', not 'sig'",
        "not used: key 'gone': x and y are not a point on P-256",
    ]
    assert not remarks(good())


def test_the_alternative_that_holds_is_shown_and_what_those_before_it_failed_at() -> None:
    assert claim_steps({"roles": "admin", "account": "7"}) == [
        ("any_of[0] issuer", True, "required: main"),
        ("any_of[0] claim roles", True, "required: 'admin' or a list with it"),
        (
            "any_of[0] scopes",
            None,
            "does not hold: insufficient_scope: missing scopes: admin; required: all of admin; the token has: a b",
        ),
        ("any_of[1] claim account", True, "required: {id} of the path"),
    ]


def test_if_no_alternative_holds_the_last_step_names_what_each_failed_at() -> None:
    *_, remark, last = claim_steps({"account": "8"})
    assert remark == (
        "any_of[1] claim account",
        None,
        "does not hold: claim_mismatch: claim account is not {id} of the path",
    )
    assert last == (
        "any_of",
        False,
        (
            "claim_mismatch: any_of[0]: claim roles is not 'admin' or a list with it; "
            "any_of[1]: claim account is not {id} of the path"
        ),
    )


MEMBER: dict[str, Any] = {"tenant": "acme", "scope": "read:acme"}


@pytest.mark.parametrize(
    ("result", "reason", "last"),
    [
        (steps_of("/t/../a"), "ambiguous_path", ("path", "segments")),
        (
            steps_of("/pay", good(), connection="upgrade, x-auth-subject"),
            "malformed_request",
            ("path", "connection"),
        ),
        (steps_of("/none"), "no_rule", ("rule", "-")),
        (steps_of("/hello;x"), "ambiguous_path", ("rule", "-")),
        (steps_of("/anything;x", policy="billing"), "ambiguous_path", ("rule", "-")),
        (steps_of("/v", good(), x_api_version="2,2"), "no_rule", ("rule", "-")),
        (
            steps_of("/x", method="OPTIONS", origin="a", access_control_request_method="PUT"),
            "no_rule",
            ("rule", "-"),
        ),
        (steps_of("/pay", policy="unknown"), "no_rule", ("rule", "-")),
        (steps_of("/pay", method="get"), "no_rule", ("rule", "-")),
        (steps_of("/pay"), "missing_token", ("token", "credential")),
        (steps_of("/pay", ""), "malformed_request", ("token", "credential")),
        (steps_of("/pay", "a.b"), "malformed_token", ("token", "form")),
        (steps_of("/pay", good(iss="https://unknown.example/")), "unknown_issuer", ("token", "issuer")),
        (
            steps_of("/pay", Signer("RS256", "x").sign(claims(), {"kid": "rs"})),
            "bad_signature",
            ("token", "signature"),
        ),
        (steps_of("/pay", RS.sign(claims(), {"kid": "gone"})), "unknown_key", ("token", "signature")),
        (steps_of("/pay", good(nonce="n")), "id_token", ("token", "kind of token")),
        (steps_of("/pay", good(exp=None)), "missing_claim", ("token", "required claims")),
        (steps_of("/pay", good(exp=NOW - 60)), "expired", ("token", "times")),
        (steps_of("/pay", good(iat=NOW - 7200)), "too_old", ("token", "times")),
        (steps_of("/pay", good(sub=7)), "invalid_claim", ("token", "types of claims")),
        (steps_of("/pay", good(sub="a\nb")), "invalid_claim", ("token", "claims")),
        (steps_of("/t/acme", OTHER_RS.sign(claims(iss=OTHER))), "issuer_not_allowed", ("claims", "issuer")),
        (steps_of("/pay", good(aud="x")), "wrong_audience", ("claims", "audience")),
        (steps_of("/t/acme", good(client_id="x")), "client_not_allowed", ("claims", "client")),
        (steps_of("/t/acme", good(tenant="x")), "claim_mismatch", ("claims", "claim tenant")),
        (steps_of("/t/acme", good(tenant="acme")), "insufficient_scope", ("claims", "scopes")),
        (steps_of("/pay", good()), "stale_authentication", ("claims", "authentication time")),
        (steps_of("/pay", good(auth_time=NOW)), "weak_authentication", ("claims", "authentication context")),
    ],
)
def test_a_denial_ends_with_the_step_that_failed(result: Explanation, reason: str, last: tuple[str, str]) -> None:
    assert result.decision.reason == reason
    *before, end = result.steps
    assert (end.part, end.name) == last
    assert end.passed is False
    assert all(step.passed is not False for step in before)


@pytest.mark.parametrize(
    ("result", "reason", "last"),
    [
        (steps_of("/t/acme/a", good(**MEMBER)), "ok", "headers"),
        (steps_of("/v", good(), x_api_version="2"), "ok", "headers"),
        (steps_of("/v", good(), x_api_version=" 2\t"), "ok", "headers"),
        (steps_of("/v", good(), x_api_version="2", connection="Upgrade"), "ok", "headers"),
        (steps_of("/anything", good(), policy="billing"), "ok", "headers"),
        (steps_of("/healthz", "rubbish"), "public", "health"),
        (steps_of("/hello"), "anonymous", "credential"),
        (
            steps_of("/t/x", method="OPTIONS", origin="a", access_control_request_method="PUT"),
            "preflight",
            "preflight",
        ),
    ],
)
def test_an_allowance_ends_with_the_step_that_allowed(result: Explanation, reason: str, last: str) -> None:
    assert (result.decision.reason, result.steps[-1].name) == (reason, last)
    assert all(step.passed is not False for step in result.steps)


def test_a_header_that_cannot_carry_its_claim_is_explained() -> None:
    last = steps_of("/t/acme", good(**MEMBER, sub="a ")).steps[-1]
    assert (last.name, last.passed) == ("headers", True)
    assert last.detail.endswith("; x-auth-subject is left out: whitespace at its start or end")


def test_every_earlier_rule_has_the_reason_why_it_does_not_match() -> None:
    rules = [step for step in steps_of("/pay", good()).steps if step.part == "rule"]
    assert [(step.name, step.passed) for step in rules] == [("health", None), ("tenant", None), ("pay", True)]
    assert [step.detail for step in rules[:2]] == ["the path is not /healthz", "the path is not /t/{tenant}/**"]


def test_an_explanation_in_shadow_mode_has_the_denial() -> None:
    result = steps_of("/shadow", good())
    assert isinstance(result.decision, Allow)
    assert result.steps[-1].detail.startswith("insufficient_scope: missing scopes: admin")
    text = text_of(result, "/shadow")
    assert "allow, insufficient_scope, which shadow mode does not enforce" in text
    assert "in shadow mode" in text


def text_of(result: Explanation, path: str) -> str:
    attributes = attributes_of("GET", f"https://api.example{path}", [])
    return explanation.as_text(result, attributes, Color(io.StringIO()))


_TOKENS: st.SearchStrategy[str | None] = st.one_of(
    st.none(),
    st.text(max_size=8),
    st.builds(
        lambda changes, header: RS.sign(claims(**changes), header),
        st.dictionaries(
            st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "scope", "tenant", "nonce", "client_id", "acr"]),
            st.none() | st.integers(NOW - 9999, NOW + 9999) | st.sampled_from(["", "acme", "read:acme", "a b", OTHER]),
            max_size=3,
        ),
        st.dictionaries(
            st.sampled_from(["kid", "alg", "typ"]), st.sampled_from(["rs", "JWT", "none", None]), max_size=2
        ),
    ),
)
_PATHS = st.sampled_from(
    [
        *(
            "/t/acme/a",
            "/t/a%20b",
            "/pay",
            "/hello",
            "/shadow",
            "/v",
            "/healthz",
            "/none",
            "//",
            "/%2f",
            "/v;x",
            "/t/a;b",
        ),
        *("/npm/acme", "/npm/ac%2fme", "/t/acme%2fa", "/npm/a%2f..", "/v%2fa", "/items/7:purge", "/items/7"),
    ]
)


@settings(max_examples=300)
@given(
    _PATHS,
    _TOKENS,
    st.sampled_from(["GET", "POST", "get", "OPTIONS"]),
    st.sampled_from(["", "billing", "x"]),
    st.dictionaries(
        st.sampled_from(["origin", "access_control_request_method", "x_api_version", "x_http_method"]),
        st.sampled_from(["2", "GET", " 2", "2,2", "2\x00"]),
    ),
)
def test_the_steps_end_with_the_reason_of_the_decision_and_without_the_token(
    path: str, token: str | None, method: str, policy: str, headers: dict[str, str]
) -> None:
    result = steps_of(path, token, method=method, policy=policy, **headers)  # raises if the two differ
    attributes = attributes_of(method, f"https://api.example{path}?secret-query", [])
    shown = explanation.as_text(result, attributes, Color(io.StringIO())) + explanation.as_json(result, attributes)
    assert "secret-query" not in shown
    for part in (token or "").split("."):
        assert len(part) < 20 or part not in shown


def test_a_disagreement_between_steps_and_decision_is_a_fault() -> None:
    attributes = attributes_of("GET", "https://api.example/healthz", [])
    with pytest.raises(AssertionError, match="the steps end in public, and the decision is ok"):
        explained(SETTINGS, AUTHORIZER, attributes, Allow(Reason.OK, "health"), NOW)


def test_a_path_with_an_encoded_slash_is_explained() -> None:
    result = steps_of("/npm/@scope%2Fname", good(tenant="@scope/name"))
    assert result.decision.reason == "ok"
    assert ("path", "segments", True, "npm / @scope/name") in result.steps
    result = steps_of("/t/acme%2Fx/a", good())
    assert result.decision.reason == "ambiguous_path"
    assert ("rule", "tenant", None, "the path has an encoded slash, and the rule does not have encoded_slash") in (
        result.steps
    )
    assert result.steps[-1].detail == "no later rule matches: the upstream may read it as a match"
    result = steps_of("/elsewhere/acme%2Fx", good())
    assert result.steps[-1][1:] == ("-", False, "an encoded slash, and no rule with encoded_slash matches first")


# The command.


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "jwks.json").write_bytes(jwks(RS.jwk()))
    issuer = {"issuer": ISSUER, "name": "main", "audiences": ["api"], "keys": {"jwks_file": "jwks.json"}}
    (tmp_path / "config.yaml").write_text(json.dumps({"issuers": [issuer], "rules": RULES[2:4]}))
    return tmp_path / "config.yaml"


def run(config: Path, *arguments: str) -> int:
    return main(["explain", "--config", str(config), *arguments])


def fresh(**changes: Any) -> str:
    return good(exp=4_000_000_000, iat=1, **changes)


def test_the_exit_status_is_for_allowed_denied_or_undecided(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(fresh() + "\n")
    token = ["--token-file", str(tmp_path / "token")]
    assert run(config, "--url", "https://api.example/hello", *token) == 0
    assert run(config, "--url", "https://api.example/hello?a=b") == 0
    assert run(config, "--url", "https://api.example/pay", *token) == 1
    out = capsys.readouterr().out
    assert "deny with 401, stale_authentication" in out
    assert "www-authenticate: Bearer" in out
    assert "\x1b" not in out
    (tmp_path / "jwks.json").write_text("{}")
    assert run(config, "--url", "https://api.example/hello", *token) == 2
    assert {str(reason) for reason in UNDECIDED} == {
        *("keys_unavailable", "introspection_unavailable", "deadline_exceeded", "internal_error")
    }


def test_the_json_form_ends_with_the_check_response(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "--json", "--method", "POST", "--url", "https://API.example:8443/pay") == 1
    result = json.loads(capsys.readouterr().out)
    assert result["request"] == {"method": "POST", "host": "API.example:8443", "path": "/pay"}
    assert (result["decision"], result["verdict"], result["reason"], result["rule"]) == (
        "deny",
        "deny",
        "missing_token",
        "pay",
    )
    assert result["steps"][-1]["passed"] is False
    assert result["answer"]["denied_response"]["status"] == {"code": "Unauthorized"}
    assert result["answer"]["dynamic_metadata"]["reason"] == "missing_token"


def test_the_metadata_of_a_resource_is_printed_and_is_no_denial(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(config.read_text()) | {"resources": [{"resource": "https://api.example/pay"}]}
    config.write_text(json.dumps(document))
    url = "https://api.example/.well-known/oauth-protected-resource/pay"
    assert run(config, "--url", url) == 0
    out = capsys.readouterr().out
    assert "answer, resource_metadata" in out
    assert "access-control-allow-origin: *" in out
    assert '{"resource": "https://api.example/pay", ' in out
    assert run(config, "--url", url, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["decision"], result["verdict"], result["reason"], result["rule"]) == (
        *("answer", "answer", "resource_metadata", "-"),
    )
    assert json.loads(result["answer"]["denied_response"]["body"])["resource"] == "https://api.example/pay"
    assert run(config, "--url", url.replace("api.example", "evil.example")) == 1
    assert "no_rule" in capsys.readouterr().out
    assert run(config, "--url", "https://api.example/pay") == 1
    assert f'resource_metadata="{url}"' in capsys.readouterr().out


@pytest.mark.parametrize(
    "url",
    [
        "https://me:s3cret@api.example/pay",
        "https://s3cret@api.example/pay",
        "https://me:s3cret@api.example:8443/none",
        "https://a@b:s3cret@api.example/pay?s3cret",
        "https://api.example//me:s3cret@b/pay",
        "https://api.example/http://me:s3cret@b/pay",
    ],
)
def test_user_and_password_of_a_url_are_never_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: Path, url: str
) -> None:
    hosted = json.loads(config.read_text())
    hosted["rules"].append({"name": "hosted", "match": {"hosts": ["api.example"]}})
    (tmp_path / "hosted.yaml").write_text(json.dumps(hosted))
    for file in (config, tmp_path / "hosted.yaml"):
        for form in ([], ["--json"]):
            run(file, "--url", url, *form)
            output = capsys.readouterr()
            assert "api.example" in output.out
            assert "s3cret" not in output.out + output.err


def test_with_exit_zero_a_denial_is_a_success_and_no_decision_is_not(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, "--url", "https://api.example/pay", "--exit-zero") == 0
    assert "deny with 401, missing_token" in capsys.readouterr().out
    (tmp_path / "token").write_text(fresh())
    (tmp_path / "jwks.json").write_text("{}")
    url = ["--url", "https://api.example/hello", "--token-file", str(tmp_path / "token")]
    assert run(config, *url, "--exit-zero") == 2


def test_a_person_who_is_to_paste_the_token_is_told_so(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(fresh()))
    assert run(config, "--url", "https://api.example/hello", "--token-file", "-") == 0
    assert capsys.readouterr().err == "Paste the token, then press Enter and Ctrl-D.\n"


def test_the_token_can_be_read_from_standard_input(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"\n {fresh()} \n"))
    assert run(config, "--url", "https://api.example/hello", "--token-file", "-") == 0
    assert "allow, ok" in capsys.readouterr().out
    assert run(config, "--url", "https://api.example/hello", "--header", "Authorization: Basic x") == 0
    assert "allow, anonymous" in capsys.readouterr().out
    twice = ["--header", "authorization: Bearer a", "--header", "Authorization: Bearer b"]
    assert run(config, "--url", "https://api.example/hello", *twice) == 1
    assert "malformed_request" in capsys.readouterr().out


def test_the_token_is_sent_where_its_rule_reads_it(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(config.read_text())
    document["rules"] = [{"name": "elsewhere", "credential": {"header": "x-jwt"}}]
    config.write_text(json.dumps(document))
    (tmp_path / "token").write_text(fresh())
    assert run(config, "--url", "https://api.example/", "--token-file", str(tmp_path / "token")) == 0
    assert re.search(r"credential +in X-Jwt\n", capsys.readouterr().out)
    assert run(config, "--url", "https://api.example/", "--header", f"Authorization: Bearer {fresh()}") == 1
    assert "missing_token: no X-Jwt header" in capsys.readouterr().out


def test_a_request_shows_to_which_resource_it_belongs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resources = {"resources": [{"resource": "https://api.example/pay", "name": "Payments"}]}
    config.write_text(json.dumps(json.loads(config.read_text()) | resources))
    path = "/.well-known/oauth-protected-resource"
    shown = {
        "https://api.example/pay/7": f"✓ resource +metadata: https://api.example{path}/pay",
        "https://api.internal/pay": "· resource +none has this host and path, so challenges name no metadata",
        f"https://api.example{path}": "· resource +none has its metadata at this host and path",
        f"https://api.example{path}/pay": '{"resource": "https://api.example/pay", .*"resource_name": "Payments"}',
    }
    for url, line in shown.items():
        run(config, "--url", url)
        assert re.search(f"{line}\n", capsys.readouterr().out), url


def test_the_metadata_of_the_configuration_are_shown(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(config.read_text()) | {"upstream": {"metadata": {"tenant": "org.tenant", "plan": "plan"}}}
    config.write_text(json.dumps(document))
    header = f"Authorization: Bearer {fresh(org={'tenant': ['acme']})}"
    assert run(config, "--url", "https://api.example/hello", "--header", header) == 0
    out = capsys.readouterr().out
    assert re.search(r"metadata +tenant; plan is absent or left out\n", out)
    assert 'metadata tenant: ["acme"]\n' in out
    assert run(config, "--url", "https://api.example/hello", "--header", header, "--json") == 0
    assert json.loads(capsys.readouterr().out)["answer"]["dynamic_metadata"]["tenant"] == ["acme"]


def test_terminal_control_characters_in_a_token_are_escaped(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(config.read_text())
    config.write_text(json.dumps(document | {"upstream": {"headers": {"x-auth-subject": "sub", "x-name": "name"}}}))
    token = fresh(sub="Jos\u00e9", name="\u202egpj.exe\u2028\u2066")
    assert run(config, "--url", "https://api.example/hello", "--header", f"Authorization: Bearer {token}") == 0
    out = capsys.readouterr().out
    assert "x-auth-subject: Jos\u00e9\n" in out
    assert "x-name: \\u202egpj.exe\\u2028\\u2066\n" in out


def test_an_ascii_terminal_is_supported(config: Path) -> None:
    command = [sys.executable, "-m", "authz_service", "explain", "--config", str(config), "--url", "https://a/pay"]
    few = {**os.environ, "PYTHONIOENCODING": "ascii"}
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=few)
    assert (output.returncode, output.stderr) == (1, "")
    assert "deny with 401, missing_token" in output.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--url", "api.example/pay"], "the URL must be absolute"),
        (["--url", "ftp://api.example/pay"], "the URL must be absolute"),
        (["--url", "https:///pay"], "the URL must be absolute"),
        (["--url", "https://a/", "--token-file", "/none"], "--token-file /none: cannot be read: No such file"),
        (["--url", "https://a/", "--token-file", "/"], "--token-file /: cannot be read: Is a directory"),
        (["--url", "https://a/", "--token-file", "/dev/zero"], "--token-file /dev/zero: is longer than 1048576 "),
        (
            ["--url", "https://a/", "--token-file", sys.executable],
            f"--token-file {sys.executable}: the token is not UTF",
        ),
        (["--url", "https://a/", "--header", "secret-credential"], "a header must be written 'Name: value'"),
        (["--url", "https://a/", "--header", ": secret-credential"], "a header must be written 'Name: value'"),
    ],
)
def test_an_invalid_request_is_a_one_line_error(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    assert run(config, *arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert re.fullmatch(rf"authz-service: .*{re.escape(problem)}.*\n", output.err)
    assert "secret" not in output.err


def test_an_invalid_configuration_is_not_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("rules: []\n")
    assert run(tmp_path / "config.yaml", "--url", "https://a/") == 2
    assert "issuers: is required" in capsys.readouterr().err


# A request as it is written.


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("https://api.example/a/../b//c", "api.example", "/a/../b//c"),
        ("https://api.example/%2e%2e/é", "api.example", "/%2e%2e/é"),
        ("https://api.example", "api.example", "/"),
        ("https://api.example?a=b", "api.example", "/?a=b"),
        ("https://api.example#x", "api.example", "/#x"),
        ("HTTP://user@API.example:80/", "user@API.example:80", "/"),
        ("https://[::1]:8443/a?b#c", "[::1]:8443", "/a?b#c"),
    ],
)
def test_a_url_is_taken_literally(url: str, host: str, path: str) -> None:
    attributes = attributes_of("GET", url, [])
    assert (attributes.host, attributes.path) == (host, path)


def test_on_a_terminal_long_lines_are_wrapped_at_the_column_of_the_details() -> None:
    result = steps_of("/t/acme", good(tenant="acme"))
    attributes = attributes_of("GET", "https://api.example/t/acme", [])
    plain = explanation.as_text(result, attributes, Color(io.StringIO()))
    text = explanation.as_text(result, attributes, Color(io.StringIO()), columns=60)
    lines = text.splitlines()
    assert max(map(len, plain.splitlines())) > 100
    assert all(len(line) <= 60 or " " not in line[35:] for line in lines)
    start = next(index for index, line in enumerate(lines) if "insufficient_scope: " in line)
    column = lines[start].index("insufficient_scope")
    assert lines[start + 1][:column].isspace()
    assert lines[start + 1][column] != " "
    assert " ".join(text.split()) == " ".join(plain.split())


@pytest.mark.parametrize(
    ("iss", "nearest"),
    [
        ("https://idp.example", "; the nearest is https://idp.example/ (trailing slash)"),
        ("http://idp.example/", "; the nearest is https://idp.example/ (http instead of https)"),
        ("https://idp.example/realms/a", "; the nearest is https://idp.example/ (path)"),
        ("x", ""),
        (7, ""),
    ],
)
def test_for_an_unknown_issuer_the_configured_ones_and_the_nearest_are_named(iss: object, nearest: str) -> None:
    result = steps_of("/pay", RS.sign(claims(iss=iss)))
    step = result.steps[-1]
    assert step.detail == (
        f"unknown_issuer: iss is {iss!r}, which is not a configured issuer; "
        f"configured: {ISSUER} (main), {OTHER} (other){nearest}"
    )
    answer = json.loads(explanation.as_json(result, attributes_of("GET", "https://api.example/pay", [])))["answer"]
    assert ISSUER not in json.dumps(answer)


# Tokens that are introspected.


@pytest.mark.parametrize(
    ("mode", "token", "answer", "reason", "result"),
    [
        (
            "opaque",
            "an-opaque-token",
            active_response(iat=None, exp=4_000_000_000),
            "ok",
            "active at main: subject 'u1'",
        ),
        (
            "opaque",
            "an-opaque-token",
            {"active": False},
            "inactive",
            "active is not true in the introspection response",
        ),
        ("opaque", "an-opaque-token", active_response(exp=1), "expired", "exp has passed"),
        ("opaque", "an-opaque-token", None, "introspection_unavailable", "responded with status 404"),
        ("opaque", "an:opaque-token", active_response(), "malformed_token", "neither a JWT nor"),
        ("always", good(iat=None, exp=4_000_000_000), {"active": True}, "ok", "active at main: subject 'u1'"),
        (
            "always",
            good(iat=None, exp=4_000_000_000),
            {"active": False},
            "inactive",
            "active is not true in the introspection response",
        ),
        ("always", good(iat=None, exp=1), {"active": True}, "expired", ""),
    ],
)
async def test_introspection_is_explained(
    tmp_path: Path, mode: str, token: str, answer: dict[str, Any] | None, reason: str, result: str
) -> None:
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "jwks.json").write_bytes(jwks(RS.jwk()))
    async with Provider() as provider:
        if answer is not None:
            provider.serve("/introspect", json.dumps(answer), content_type="application/json")
        introspection = {
            "endpoint": f"{provider.origin}/introspect",
            "client_id": "my-api",
            "client_secret_file": str(tmp_path / "secret"),
            "mode": mode,
            "cache_ttl": "0s",
            "negative_cache_ttl": "0s",
        }
        keys = {"jwks_file": str(tmp_path / "jwks.json")}
        issuer = {"issuer": ISSUER, "name": "main", "audiences": ["api"], "keys": keys, "introspection": introspection}
        configured = Settings.read({"issuers": [issuer], "rules": [{"name": "any"}]})
        attributes = attributes_of("GET", "https://api.example/", [("Authorization", f"Bearer {token}")], "")
        explanation_of = await asyncio.to_thread(explain_live, configured, attributes)
        assert provider.count("/introspect") == bool(result) - (reason == "malformed_token")
    assert explanation_of.decision.reason == reason
    steps = [step for step in explanation_of.steps if step.name == "introspection"]
    assert [result in step.detail for step in steps] == ([True] if result else [])
    assert token not in repr(explanation_of.steps)
