"""An explanation names everything that is wrong with a sender's proof, and shows nothing of the proof."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from authz_service.authorizer import Pending
from authz_service.cli import main
from authz_service.config.model import Settings
from authz_service.core.bounded import NO_CACHE
from authz_service.policy_tools import explanation
from authz_service.policy_tools.explain import Explanation, explained
from authz_service.policy_tools.request import attributes_of, with_token
from authz_service.runtime.assembly import ProofState, authorizer_of
from authz_service.terminal import Color
from authz_service.tokens.jwt.cache import JwtCache
from authz_service.tokens.revocation.revocations import RevocationList
from support.dpop import DpopKey
from support.signing import base64url
from support.trust import ISSUER, NOW, OTHER, RS, LocalValidator, good, jwks

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.core.attributes import Attributes

OWNER, THIEF = DpopKey(), DpopKey(name="thief")
URL = "https://api.example/pay?amount=7"
TOKEN = good(exp=4_000_000_000, iat=1, cnf=OWNER.cnf)
TRUST = LocalValidator()


def explain(attributes: Attributes, rule: dict[str, Any] | None = None, **sections: Any) -> Explanation:
    """The explanation at NOW of a request under one rule."""
    issuers = [
        {"issuer": ISSUER, "name": "main", "audiences": ["api"]},
        {"issuer": OTHER, "name": "other", "audiences": ["api"]},
    ]
    settings = Settings.read({"issuers": issuers, "rules": [{"name": "all"} | (rule or {})]} | sections)
    state = ProofState.of(settings, TRUST.metrics, None, float(NOW))
    authorizer = authorizer_of(settings, TRUST.issuers, JwtCache(NO_CACHE, 0.0), TRUST.metrics, state, RevocationList())
    attributes = with_token(attributes, TOKEN, authorizer.policy)
    decision = authorizer.begin(attributes, NOW)
    assert not isinstance(decision, Pending)
    return explained(settings, authorizer, attributes, decision, NOW)


def request(proof: str | None, method: str = "POST") -> Attributes:
    return attributes_of(method, URL, [] if proof is None else [("DPoP", proof)])


def proof(
    method: str = "POST", url: str = URL, token: str = TOKEN, *, key: DpopKey = OWNER, now: float = NOW, **changes: Any
) -> str:
    return key.proof(method, url, token, now=now, **changes)


def about_proof(result: Explanation) -> dict[str, tuple[bool | None, str]]:
    return {
        step.name.removeprefix("proof: "): (step.passed, step.detail)
        for step in result.steps
        if step.name.startswith("proof")
    }


def shown(result: Explanation, attributes: Attributes) -> str:
    return explanation.as_text(result, attributes, Color(io.StringIO())) + explanation.as_json(result, attributes)


def test_each_part_of_a_valid_proof_is_shown() -> None:
    result = explain(request(proof(now=NOW - 12)))
    assert result.decision.reason == "ok"
    assert about_proof(result) == {
        "htm": (True, "the method of the request"),
        "htu": (True, "the URL of the request"),
        "iat": (True, "12 s ago (dpop.max_age is 60 s)"),
        "ath": (True, "the SHA-256 digest of the token"),
        "thumbprint": (True, "of the key to which the token is bound (cnf.jkt)"),
        "proof": (True, "DPoP (cnf.jkt)"),
    }
    (credential,) = [step for step in result.steps if step.name == "credential"]
    assert credential.detail == "in Authorization: Bearer, sent with the scheme DPoP"


@pytest.mark.parametrize(
    ("made", "name", "detail"),
    [
        (proof("GET"), "htm", "not the method of the request"),
        (proof(url="https://evil.example/pay"), "htu", "the origin in htu is not that of the request"),
        (proof(url="https://api.example/other"), "htu", "the path in htu is not that of the request"),
        (proof(claim_changes={"htu": 7}), "htu", "htu is not an absolute http or https URL"),
        (proof(now=NOW - 312), "iat", "312 s ago, 252 s too long (dpop.max_age is 60 s)"),
        (proof(now=NOW + 42), "iat", "42 s in the future, 12 s too far (the issuer's leeway is 30 s)"),
        (proof(claim_changes={"iat": "now"}), "iat", "not a time in seconds since 1970"),
        (proof(claim_changes={"iat": True}), "iat", "not a time in seconds since 1970"),
        (proof(claim_changes={"iat": -1e300}), "iat", "not a time in seconds since 1970"),
        (proof(claim_changes={"iat": NOW * 1000}), "iat", "not a time in seconds since 1970"),
        (proof(token=TOKEN + "x"), "ath", "not the SHA-256 digest of the token"),
        (proof(claim_changes={"ath": None}), "ath", "not the SHA-256 digest of the token"),
        (proof(key=THIEF), "thumbprint", "not of the key to which the token is bound (cnf.jkt)"),
        (proof(header_changes={"jwk": None}), "thumbprint", "the header has no jwk"),
        (proof(header_changes={"jwk": {"kty": "oct", "k": "AAAA"}}), "thumbprint", "jwk in the header: it holds a"),
    ],
)
def test_a_part_that_is_wrong_is_a_remark_and_the_denial_follows(made: str, name: str, detail: str) -> None:
    result = explain(request(made))
    assert result.decision.reason == "invalid_proof"
    parts = about_proof(result)
    passed, found = parts.pop(name)
    assert passed is None
    assert found.startswith(detail)
    passed, found = parts.pop("proof")
    assert passed is False
    assert found.startswith("invalid_proof: ")
    assert result.steps[-1].name == "proof"
    assert all(passed for passed, _ in parts.values())


def test_an_iat_a_little_in_the_future_is_accepted() -> None:
    assert about_proof(explain(request(proof(now=NOW + 5))))["iat"] == (
        True,
        "5 s in the future (dpop.max_age is 60 s)",
    )


def test_all_mistakes_of_a_proof_are_shown_at_once() -> None:
    made = proof("GET", "https://x.example/", "other", now=NOW - 99, key=THIEF)
    parts = about_proof(explain(request(made), dpop={"nonce": "required"}))
    assert [name for name, (passed, _) in parts.items() if passed is None] == [
        *("htm", "htu", "iat", "ath", "thumbprint", "nonce")
    ]


@pytest.mark.parametrize("made", [None, "", "a.b.c", f"{proof()},{proof()}", "x" * 10_000, proof() + "."])
def test_a_proof_that_cannot_be_parsed_has_no_parts(made: str | None) -> None:
    result = explain(request(made))
    assert result.decision.reason == ("missing_proof" if made is None else "invalid_proof")
    assert list(about_proof(result)) == ["proof"]


def test_a_forged_signature_is_wrong_although_each_part_is_right() -> None:
    result = explain(request(proof(sign_with=THIEF)))
    *parts, last = about_proof(result).values()
    assert all(passed for passed, _ in parts)
    assert last == (False, "invalid_proof: DPoP proof: the signature does not verify")


def test_a_required_nonce_is_explained_and_a_fresh_one_is_in_the_answer() -> None:
    attributes = request(proof())
    result = explain(attributes, dpop={"nonce": "required"})
    assert result.decision.reason == "nonce_required"
    assert about_proof(result)["nonce"] == (None, "missing, and required (dpop.nonce)")
    assert about_proof(result)["proof"] == (False, "nonce_required: DPoP proof: it has no nonce")
    text = explanation.as_text(result, attributes, Color(io.StringIO()))
    assert 'www-authenticate: DPoP error="use_dpop_nonce"' in text
    (nonce,) = [line.split()[-1] for line in text.splitlines() if line.strip().startswith("dpop-nonce: ")]
    used = about_proof(explain(request(proof(nonce=nonce)), dpop={"nonce": "required"}))
    assert used["nonce"] == (True, "present")
    cause = "its nonce has expired, or was issued with another key (dpop.nonce_key_file)"
    assert used["proof"][1] == f"nonce_required: DPoP proof: {cause}"


def test_a_nonce_that_is_due_is_shown_with_an_allowance(tmp_path: Path) -> None:
    (tmp_path / "nonce.key").write_bytes(bytes(32))
    dpop = {"nonce": "required", "nonce_key_file": str(tmp_path / "nonce.key"), "nonce_lifetime": "60s"}
    settings = Settings.read(
        {"issuers": [{"issuer": ISSUER, "audiences": ["a"]}], "rules": [{"name": "r"}], "dpop": dpop}
    )
    nonce = ProofState.of(settings, TRUST.metrics, None, float(NOW)).nonces.issue(NOW - 40.0)
    attributes = request(proof(nonce=nonce))
    result = explain(attributes, dpop=dpop)
    assert result.decision.reason == "ok"
    assert "to the client: dpop-nonce: " in explanation.as_text(result, attributes, Color(io.StringIO()))


def test_a_rule_that_requires_a_proof_has_only_its_challenge() -> None:
    attributes = attributes_of("POST", URL, [])
    result = explain(attributes, {"require": {"proof": "dpop"}})
    assert result.decision.reason == "missing_proof"
    (answer,) = [line for line in shown(result, attributes).splitlines() if line.strip().startswith("www-authenticate")]
    assert 'DPoP error="invalid_token"' in answer
    assert 'algs="ES256 ES384 EdDSA Ed25519 PS256 RS256"' in answer


_CHANGES: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(["htm", "htu", "iat", "jti", "ath", "nonce", "exp", "nbf"]),
    st.sampled_from([None, "", "x", 7, NOW, NOW - 61, NOW + 31, True, [], {}, "https://api.example/pay", "POST"]),
    max_size=2,
)


@given(
    _CHANGES, st.sampled_from([OWNER, THIEF]), st.sampled_from(["off", "required"]), st.sampled_from(["POST", "GET"])
)
def test_the_parts_agree_with_the_decision_and_nothing_of_a_proof_is_shown(
    changes: dict[str, Any], key: DpopKey, nonce: str, method: str
) -> None:
    made = proof(jti="s3cret-jti-of-a-proof", claim_changes=changes, key=key)
    attributes = request(made, method)
    result = explain(attributes, dpop={"nonce": nonce})  # raises if the steps end in another reason
    wrong = [name for name, (passed, _) in about_proof(result).items() if passed is None]
    assert not wrong or result.decision.reason in {"invalid_proof", "nonce_required"}
    output = shown(result, attributes)
    assert "s3cret" not in output
    assert "amount=7" not in output
    assert not [part for part in (*made.split("."), *TOKEN.split("."), key.jwk["x"], key.jkt) if part in output]


# The command, with client certificates.

CA = trustme.CA()
CERTIFICATE = CA.issue_cert("client.example")
OTHER_CERTIFICATE = CA.issue_cert("other.example")


def x5t(certificate: trustme.LeafCert) -> str:
    der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    return base64url(hashlib.sha256(der).digest())


class Command:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        (folder / "jwks.json").write_bytes(jwks(RS.jwk()))
        (folder / "client.pem").write_bytes(CERTIFICATE.cert_chain_pems[0].bytes() + CA.cert_pem.bytes())
        (folder / "other.pem").write_bytes(b"Certificate:\n  text\n" + OTHER_CERTIFICATE.cert_chain_pems[0].bytes())
        self.token(cnf={"x5t#S256": x5t(CERTIFICATE)})
        self.configure()

    def token(self, **claims: Any) -> str:
        token = good(exp=4_000_000_000, iat=1, **claims)
        (self.folder / "token").write_text(token)
        return token

    def configure(self, **sections: Any) -> None:
        issuer = {"issuer": ISSUER, "name": "main", "audiences": ["api"], "keys": {"jwks_file": "jwks.json"}}
        document = {"issuers": [issuer], "rules": [{"name": "all"}]} | sections
        (self.folder / "config.yaml").write_text(json.dumps(document))

    def run(self, *arguments: str, certificate: str | None = "client.pem") -> tuple[int, str]:
        shown_ = [] if certificate is None else ["--client-certificate", str(self.folder / certificate)]
        config, token = str(self.folder / "config.yaml"), str(self.folder / "token")
        status = main(["explain", "--config", config, "--url", URL, "--token-file", token, *shown_, *arguments])
        output = self._capsys.readouterr()
        return status, output.out + output.err


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


@pytest.mark.parametrize("mtls", [{}, {"certificate": "xfcc"}, {"certificate": "xfcc", "xfcc_hops": 3}])
def test_the_client_certificate_is_where_the_configuration_has_it(command: Command, mtls: dict[str, Any]) -> None:
    command.configure(mtls=mtls)
    status, output = command.run()
    assert (status, "client certificate (cnf.x5t#S256)" in output) == (0, True)
    status, output = command.run(certificate="other.pem")
    assert status == 1
    assert "proof: certificate  not the one to which the token is bound (cnf.x5t#S256)" in output
    assert "invalid_proof: the client certificate is not the one" in output
    status, output = command.run(certificate=None)
    assert status == 1
    assert "proof: certificate  the request has none" in output
    assert "missing_proof" in output


def test_a_header_with_a_malformed_certificate_is_explained(command: Command) -> None:
    command.configure(mtls={"certificate": "xfcc"})
    status, output = command.run("--header", "X-Forwarded-Client-Cert: Hash=x", certificate=None)
    assert status == 1
    assert "proof: certificate  Hash in x-forwarded-client-cert is not a SHA-256 digest" in output


def test_a_token_may_need_both_proofs(command: Command) -> None:
    token = command.token(cnf=OWNER.cnf | {"x5t#S256": x5t(CERTIFICATE)})
    header = "DPoP: " + OWNER.proof("GET", URL, token, now=time.time())
    status, output = command.run("--header", header)
    assert status == 0
    assert "DPoP (cnf.jkt) and client certificate (cnf.x5t#S256)" in output
    assert command.run("--header", header, certificate=None)[0] == 1
    status, output = command.run("--header", header, "--json")
    steps = json.loads(output)["steps"]
    assert status == 0
    assert [step["name"] for step in steps if step["name"].startswith("proof")] == [
        *("proof: certificate", "proof: htm", "proof: htu", "proof: iat", "proof: ath", "proof: thumbprint", "proof")
    ]


def test_an_old_proof_of_a_browser_is_too_old_and_its_age_is_shown(command: Command) -> None:
    token = command.token(cnf=OWNER.cnf)
    header = "dpop: " + OWNER.proof("GET", URL, token, now=time.time() - 3600)
    status, output = command.run("--header", header, certificate=None)
    assert status == 1
    assert re.search(r"proof: iat +36\d\d s ago, 35\d\d s too long \(dpop.max_age is 60 s\)", output)
    assert "invalid_proof: DPoP proof: iat is longer ago than 60 s (dpop.max_age)" in output


def test_an_ignored_confirmation_is_explained(command: Command) -> None:
    keys = {"jwks_file": "jwks.json"}
    issuer = {"issuer": ISSUER, "name": "main", "audiences": ["api"], "keys": keys, "confirmation": "ignore"}
    command.configure(issuers=[issuer])
    status, output = command.run(certificate=None)
    assert status == 0
    assert "not required: confirmation is ignore" in output
    assert "proof: " not in output


KEY = CERTIFICATE.private_key_pem.bytes()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "has no certificate in PEM: write the client's certificate, not its key"),
        (KEY, "has no certificate in PEM: write the client's certificate, not its key"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "has no certificate in PEM"),
        (base64.b64encode(bytes(900)), "has no certificate in PEM"),
        (CERTIFICATE.cert_chain_pems[0].bytes() + bytes(1 << 20), "is larger than 1048576 bytes"),
    ],
)
def test_a_file_without_a_certificate_is_named_and_not_quoted(
    command: Command, content: bytes | None, problem: str
) -> None:
    file = command.folder / "wrong\x1b.pem"
    if content is not None:
        file.write_bytes(content)
    status, output = command.run(certificate=file.name)
    assert status == 2
    assert output.startswith(f"authz-service: --client-certificate {command.folder}/wrong\\x1b.pem: {problem}")
    assert KEY.splitlines()[1].decode() not in output


def test_a_key_of_nonces_that_cannot_be_used_is_an_error(command: Command) -> None:
    (command.folder / "nonce.key").write_bytes(b"short")
    command.configure(dpop={"nonce": "required", "nonce_key_file": "nonce.key"})
    status, output = command.run()
    assert status == 2
    assert output.startswith(f"{command.folder}/config.yaml: dpop.nonce_key_file: has 5 bytes, expected 32 or more")
