"""Cases with ``proof``: the token is bound to a sender of the run, who proves it, or does not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.cli import main
from authz_service.config.model import Settings
from authz_service.policy_tools.cases import Cases
from authz_service.policy_tools.run_cases import CaseRunner
from support.signing import ML_DSA
from support.trust import ISSUER

if TYPE_CHECKING:
    from pathlib import Path

RULES: list[dict[str, Any]] = [
    {"name": "public", "match": {"paths": ["/public"]}, "access": "public"},
    {"name": "optional", "match": {"paths": ["/optional"]}, "access": "optional"},
    {"name": "any", "match": {"paths": ["/any"]}, "require": {"proof": "any"}},
    {"name": "dpop", "match": {"paths": ["/dpop"]}, "require": {"proof": "dpop"}},
    {"name": "mtls", "match": {"paths": ["/mtls"]}, "require": {"proof": "mtls"}},
    {
        "name": "either",
        "match": {"paths": ["/either"]},
        "require": {"any_of": [{"proof": "mtls", "clients": ["batch"]}, {"proof": "dpop", "clients": ["app"]}]},
    },
    {
        "name": "certificates",
        "match": {"paths": ["/certificates"]},
        "require": {"any_of": [{"proof": "mtls", "clients": ["batch"]}, {"clients": ["app"]}]},
    },
    {"name": "elsewhere", "match": {"paths": ["/elsewhere"]}, "credential": {"header": "x-jwt"}},
    {"name": "custom", "match": {"paths": ["/custom"]}, "credential": {"header": "x-jwt", "scheme": "Bearer"}},
    {
        "name": "npm",
        "match": {"paths": ["/npm/{name}"], "encoded_slash": True},
        "require": {"proof": "mtls"},
        "credential": {"header": "x-jwt"},
    },
    {"name": "shadow", "match": {"paths": ["/shadow"]}, "mode": "shadow", "require": {"proof": "any"}},
    {"name": "post", "match": {"methods": ["POST"], "paths": ["/post/**"]}},
    {"name": "plain", "match": {"paths": ["/plain"]}},
]
PROOFS = ("dpop", "mtls", "none", "stolen")


def runner(issuer: dict[str, Any] | None = None, **sections: Any) -> CaseRunner:
    main_issuer = {"issuer": ISSUER, "name": "main", "audiences": ["api"]}
    parts = {"issuers": [main_issuer | (issuer or {})], "rules": RULES} | sections
    return CaseRunner(Settings.read(parts))


def case(path: str, proof: str | None, reason: str, **others: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "name": f"{path} {proof}",
        "request": {"url": f"https://api.example{path}"} | others.pop("request", {}),
        "token": {"issuer": "main", **others.pop("token", {})},
        "expect": {"reason": reason} | others.pop("expect", {}),
    }
    return parts | ({} if proof is None else {"proof": proof}) | others


def differences(run: CaseRunner, *cases: dict[str, Any]) -> list[str]:
    named = [each | {"name": f"{place}"} for place, each in enumerate(cases)]
    return [line for each in Cases.read({"cases": named}).cases for line in run.run(each).differences]


RUNNER = runner()


@pytest.mark.parametrize(
    ("path", "reasons"),
    [
        ("/public", ("public", "public", "public", "public")),
        ("/optional", ("ok", "ok", "ok", "invalid_proof")),
        ("/any", ("ok", "ok", "unbound_token", "invalid_proof")),
        ("/dpop", ("ok", "unbound_token", "unbound_token", "invalid_proof")),
        ("/mtls", ("unbound_token", "ok", "unbound_token", "invalid_proof")),
        ("/plain", ("ok", "ok", "ok", "invalid_proof")),
        ("/elsewhere", ("missing_proof", "ok", "ok", "missing_proof")),
        ("/custom", ("ok", "ok", "ok", "invalid_proof")),
        ("/npm/@scope%2Fname", ("missing_proof", "ok", "unbound_token", "invalid_proof")),
        ("/shadow", ("ok", "ok", "unbound_token", "invalid_proof")),
        ("/none", ("no_rule", "no_rule", "no_rule", "no_rule")),
        ("/a/../b", ("ambiguous_path",) * 4),
    ],
)
def test_the_decision_depends_on_the_rule_and_on_what_the_sender_proves(path: str, reasons: tuple[str, ...]) -> None:
    assert not differences(RUNNER, *(case(path, proof, reason) for proof, reason in zip(PROOFS, reasons, strict=True)))


def test_without_proof_the_token_is_a_bearer_token() -> None:
    assert not differences(RUNNER, case("/any", None, "unbound_token"), case("/plain", None, "ok"))


@pytest.mark.parametrize(
    ("client", "proof", "reason"),
    [
        ("batch", "mtls", "ok"),
        ("app", "dpop", "ok"),
        ("batch", "dpop", "client_not_allowed"),
        ("app", "mtls", "unbound_token"),
        ("app", "none", "unbound_token"),
        ("app", "stolen", "invalid_proof"),
    ],
)
def test_alternatives_may_require_different_proofs(client: str, proof: str, reason: str) -> None:
    assert not differences(RUNNER, case("/either", proof, reason, token={"client_id": client}))


def test_a_token_is_stolen_with_a_certificate_only_where_the_rule_requires_mtls() -> None:
    bearer, dpop = 'Bearer realm="api", error="invalid_token"', 'DPoP error="invalid_dpop_proof"'
    for path, start in (("/mtls", bearer), ("/certificates", bearer), ("/any", dpop), ("/either", dpop)):
        _, challenge, *_ = differences(RUNNER, case(path, "stolen", "invalid_proof", expect={"challenge": "none"}))
        assert challenge.startswith(f"+ challenge: {start}")


@pytest.mark.parametrize(
    ("proof", "token", "reason"),
    [
        ("dpop", {"exp": "-1m"}, "expired"),
        ("dpop", {"signed_by": "stranger"}, "bad_signature"),
        ("mtls", {"signed_by": "stranger"}, "bad_signature"),
        ("stolen", {"aud": "other"}, "invalid_proof"),  # the sender comes before the rule's conditions
        ("dpop", {"aud": "other"}, "wrong_audience"),
        ("dpop", {"cnf": None}, "unbound_token"),  # null removes what the case would add
        ("mtls", {"cnf": None}, "ok"),
        ("dpop", {"cnf": {"jkt": "A" * 43}}, "invalid_proof"),  # the case's own claims win
        ("mtls", {"cnf": {"x5t#S256": "A" * 43}}, "invalid_proof"),
        ("dpop", {"cnf": {"x5t#S256": "A" * 43}}, "missing_proof"),  # both are needed
        ("dpop", {"cnf": {"kid": "k"}}, "unsupported_confirmation"),
        ("dpop", {"cnf": "jkt"}, "invalid_claim"),
        ("none", {"cnf": {"jkt": "A" * 43}}, "missing_proof"),
        ("none", {"cnf": {"x5t#S256": "A" * 43}}, "missing_proof"),
        ("none", {"cnf": {}}, "unsupported_confirmation"),
    ],
)
def test_a_proof_is_combined_with_any_token(proof: str, token: dict[str, Any], reason: str) -> None:
    assert not differences(RUNNER, case("/plain", proof, reason, token=token))


@pytest.mark.parametrize(
    ("proof", "reason"), [("dpop", "invalid_proof"), ("none", "unbound_token"), ("mtls", "unbound_token")]
)
def test_a_proof_that_the_case_writes_itself_is_sent_as_well(proof: str, reason: str) -> None:
    headers = {"DPoP": "a.b.c"}
    assert not differences(RUNNER, case("/plain", proof, reason, request={"headers": headers}))


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "POST", "url": "https://api.example/post/a?x=1&y"},
        {"method": "POST", "url": "https://api.example/post/%7Ea%20b"},
        {"method": "POST", "url": "https://API.example:8443/post"},
        {"method": "POST", "url": "http://127.0.0.1:8080/post"},
        {"method": "POST", "url": "http://api.example/post"},
    ],
)
@pytest.mark.parametrize("origins", [[], ["https://shop.example", "https://api.example"], ["http://localhost:1"]])
def test_the_proof_is_for_the_request_as_the_client_sees_it(request_: dict[str, Any], origins: list[str]) -> None:
    run = runner(dpop={"origins": origins})
    assert not differences(run, case("", "dpop", "ok", request=request_), case("", "dpop", "ok", request=request_))


@pytest.mark.parametrize(
    "algorithm", ["RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "Ed448", *ML_DSA]
)
def test_a_proof_is_signed_with_an_accepted_algorithm(algorithm: str) -> None:
    run = runner(dpop={"algorithms": [algorithm]})
    assert not differences(run, case("/dpop", "dpop", "ok"), case("/dpop", "stolen", "invalid_proof"))


@pytest.mark.parametrize("hops", [1, 2, 16])
def test_the_certificate_may_be_forwarded_by_proxies(hops: int) -> None:
    run = runner(mtls={"certificate": "xfcc", "xfcc_hops": hops})
    forwarded = {"headers": {"X-Forwarded-Client-Cert": f"Hash={'0' * 64}"}}
    assert not differences(
        run,
        case("/mtls", "mtls", "ok"),
        case("/mtls", "stolen", "invalid_proof"),
        case("/mtls", "mtls", "ok", request=forwarded),  # a proxy appends to what the client sent
    )


def test_a_proof_has_a_current_nonce_if_one_is_required_without_the_file_of_its_key() -> None:
    run = runner(dpop={"nonce": "required", "nonce_key_file": "/none/such"})
    assert not differences(run, case("/dpop", "dpop", "ok"), case("/dpop", "stolen", "invalid_proof"))


def test_several_challenges_are_expected_as_one_string() -> None:
    run = runner(dpop={"algorithms": ["ES256"]})
    both = 'Bearer realm="api", DPoP realm="api", algs="ES256"'
    without_token = {"name": "a", "request": {"url": "https://api.example/plain"}, "expect": {"challenge": both}}
    assert not differences(run, without_token)


def test_an_ignored_confirmation_needs_no_proof() -> None:
    run = runner({"confirmation": "ignore"})
    assert not differences(run, *(case("/plain", proof, "ok") for proof in PROOFS))
    assert not differences(run, *(case("/any", proof, "unbound_token") for proof in PROOFS))


def test_nothing_of_token_or_proof_is_reported() -> None:
    lines = differences(RUNNER, *(case("/any", proof, "expired", expect={"challenge": "x"}) for proof in PROOFS))
    assert sum(line.startswith("  cause: ") for line in lines) == 2  # the allowances have none
    assert not any("eyJ" in line for line in lines)


def test_a_proof_needs_a_token_that_the_case_signs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, file = tmp_path / "config.yaml", tmp_path / "cases.yaml"
    keys = {"jwks_uri": "https://idp.example/keys"}
    config.write_text(
        json.dumps(
            {"issuers": [{"issuer": ISSUER, "name": "main", "audiences": ["api"], "keys": keys}], "rules": RULES}
        )
    )
    file.write_text(
        """cases:
  - {name: a, request: {url: "https://a/"}, expect: {decision: deny},
     proof: dpop}
  - name: b
    request: {url: "https://a/"}
    token: a.b.c
    proof: stolen
    expect: {decision: deny}
  - {name: c, request: {url: "https://a/"}, token: a.b.c, proof: none, expect: {reason: no_rule}}
"""
    )
    assert main(["test", "--config", str(config), str(file)]) == 2
    what_to_do = "so it cannot be bound to a sender: write token: {issuer: main}, or remove this"
    assert [line.removeprefix(f"{file}:") for line in capsys.readouterr().err.splitlines()] == [
        f"3: cases[0].proof: there is no token, {what_to_do}",
        f"7: cases[1].proof: the token is sent unchanged, {what_to_do}",
    ]
    file.write_text(file.read_text().replace("stolen", "mutual"))
    assert main(["test", "--config", str(config), str(file)]) == 2
    problem = "7: cases[1].proof: 'mutual' is not accepted: write 'dpop', 'mtls', 'none' or 'stolen'\n"
    assert capsys.readouterr().err == f"{file}:{problem}"
