"""One test for each published advisory about software that does what this service does, kept permanently.

Each has one line for what the other software accepted. The request or token is built here, and must be denied with the
reason beside it.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authz_service.authorizer import Pending
from authz_service.core.decision import Deny
from authz_service.tokens.jwt.cache import digest_of
from support.signing import Signer, base64url
from support.trust import ES, ISSUER, NOW, OTHER, OTHER_RS, RS, STRANGER, LocalAuthorizer, claims, good

if TYPE_CHECKING:
    from collections.abc import Callable

RULES: list[dict[str, Any]] = [
    {"name": "admin", "match": {"paths": ["/admin", "/admin/**"]}, "require": {"scopes": ["admin"]}},
    {"name": "internal", "match": {"hosts": ["internal.example"]}, "require": {"scopes": ["admin"]}},
    {"name": "public", "match": {"paths": ["/public/**"]}, "access": "public"},
    {"name": "rest"},
]


def local_authorizer(**settings: Any) -> LocalAuthorizer:
    return LocalAuthorizer(RULES, {"x-auth-subject": "sub"}, **settings)


def hmac_with(secret: bytes, algorithm: str = "HS256", kid: str = "rs") -> str:
    """A token with an HMAC whose secret is public."""
    signing_input = f"{base64url(json.dumps({'alg': algorithm, 'kid': kid}).encode())}.{good().split('.')[1]}"
    return f"{signing_input}.{base64url(hmac.digest(secret, signing_input.encode(), f'sha{algorithm[2:]}'))}"


def unsigned(algorithm: str) -> str:
    return f"{base64url(json.dumps({'alg': algorithm}).encode())}.{good().split('.')[1]}."


def public_key(signer: Signer, encoding: Encoding, form: PublicFormat) -> bytes:
    data: bytes = signer.key.public_key().public_bytes(encoding, form)
    return data


def json_serialization() -> str:
    """JWS JSON serialization that also splits into three parts at its dots, with forged claims in the middle."""
    header, body, signature = good().split(".")
    forged = base64url(json.dumps(claims(sub="admin", scope="admin")).encode())
    return f'{{"{header}.{forged}.":"","protected":"{header}","payload":"{body}","signature":"{signature}"}}'


def jwe_bomb() -> str:
    header = base64url(json.dumps({"alg": "dir", "enc": "A256GCM", "zip": "DEF"}).encode())
    return f"{header}..AAAA.{base64url(zlib.compress(bytes(1_000_000)))}.AAAA"


PEM = public_key(RS, Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
ALGORITHM, SIGNATURE, MALFORMED = "unsupported_algorithm", "bad_signature", "malformed_token"
TOKENS: list[tuple[str, str, Callable[[], str], str]] = [
    ("CVE-2015-2951", "several: alg none needs no signature", lambda: unsigned("none"), ALGORITHM),
    ("CVE-2015-9235", "jsonwebtoken: an RSA public key as an HMAC secret", lambda: hmac_with(PEM), ALGORITHM),
    ("CVE-2016-10555", "jwt-simple: the token chooses the algorithm", lambda: hmac_with(PEM, "HS512"), ALGORITHM),
    ("CVE-2017-11424", "PyJWT: a PKCS 1 public key as an HMAC secret",
     lambda: hmac_with(public_key(RS, Encoding.PEM, PublicFormat.PKCS1)), ALGORITHM),
    ("CVE-2018-0114", "node-jose: the key in the token's own header verifies it",
     lambda: STRANGER.sign(claims(), {"kid": None, "jwk": STRANGER.jwk()}), SIGNATURE),
    ("CVE-2020-28042", "ServiceStack: an empty signature verifies", lambda: f"{good().rpartition('.')[0]}.", SIGNATURE),
    ("CVE-2022-21449", "Java: an ECDSA signature of zeros verifies everything",
     lambda: f"{ES.sign(claims()).rpartition('.')[0]}.{base64url(bytes(64))}", SIGNATURE),
    ("CVE-2022-23540", "jsonwebtoken: unsigned tokens are accepted by default", lambda: unsigned("None"), ALGORITHM),
    ("CVE-2022-29217", "PyJWT: an OpenSSH public key as an HMAC secret",
     lambda: hmac_with(public_key(ES, Encoding.OpenSSH, PublicFormat.OpenSSH), kid="es"), ALGORITHM),
    ("CVE-2022-39227", "python-jwt: verified as JSON, read as compact", json_serialization, "malformed_request"),
    ("CVE-2023-48223", "fast-jwt: an RSA PEM as an HMAC secret", lambda: hmac_with(PEM.strip()), ALGORITHM),
    ("CVE-2024-33663", "python-jose: an ECDSA public key as an HMAC secret",
     lambda: hmac_with(public_key(ES, Encoding.DER, PublicFormat.SubjectPublicKeyInfo), kid="es"), ALGORITHM),
    ("CVE-2024-33664", "python-jose: a compressed JWE is decompressed without bounds", jwe_bomb, MALFORMED),
    ("CVE-2024-51744", "golang-jwt: a forged token is reported as expired",
     lambda: STRANGER.sign(claims(exp=1), {"kid": "rs"}), SIGNATURE),
    ("CVE-2024-53861", "PyJWT: a part of the issuer is accepted", lambda: good(iss=ISSUER[8:-1]), "unknown_issuer"),
    ("CVE-2025-30144", "fast-jwt: a list that contains the issuer is accepted",
     lambda: good(iss=["https://evil.example/", ISSUER]), "unknown_issuer"),
    ("CVE-2025-30204", "golang-jwt: every dot of a token costs memory", lambda: "." * 16_000, MALFORMED),
    ("CVE-2025-59420", "Authlib: critical extensions are ignored",
     lambda: RS.sign(claims(), {"crit": ["cnf"], "cnf": {}}), MALFORMED),
    ("CVE-2026-32597", "PyJWT: the same", lambda: RS.sign(claims(), {"crit": ["x"], "x": 1}), MALFORMED),
    ("CVE-2026-34950", "fast-jwt: a PEM after whitespace", lambda: hmac_with(b"\n" + PEM), ALGORITHM),
    ("CVE-2026-48523", "PyJWT: an allowed algorithm in the header, another one in the signature",
     lambda: Signer("PS256", "ps").sign(claims(), {"alg": "RS256"}), ALGORITHM),
    ("CVE-2026-48525", "PyJWT: unencoded content is decoded before it is refused",
     lambda: RS.sign_json(b'{"alg":"RS256","kid":"rs","b64":false,"crit":["b64"]}', b"x" * 9000), MALFORMED),
]  # fmt: skip


@pytest.mark.parametrize(("token", "reason"), [pytest.param(t[2], t[3], id=f"{t[0]} {t[1]}") for t in TOKENS])
def test_a_token_of_an_advisory_is_rejected(token: Callable[[], str], reason: str) -> None:
    decision = local_authorizer().decide("/orders", token())
    assert isinstance(decision, Deny)
    assert decision.reason == reason


PATHS: list[tuple[str, str, str]] = [
    ("CVE-2019-9901", "Envoy: dot segments are not resolved before rules are matched", "/public/../admin"),
    ("CVE-2019-9901, encoded", "the same with %2e", "/public/%2e%2e/admin"),
    ("CVE-2021-29492", "Envoy: an encoded slash is a slash for the upstream only", "/public/..%2fadmin"),
    ("CVE-2021-29492, backslash", "the same with %5c", "/public/..%5cadmin"),
    ("CVE-2021-31920", "Istio: repeated slashes", "//admin"),
    ("CVE-2021-31920, later", "the same, later", "/public//../admin"),
    ("CVE-2021-39156", "Istio: a fragment in the path", "/admin#/public"),
    ("CVE-2020-5902", "BIG-IP: parameters hide a dot segment", "/public/..;/admin"),
]


@pytest.mark.parametrize("path", [pytest.param(p[2], id=f"{p[0]} {p[1]}") for p in PATHS])
def test_a_path_of_an_advisory_is_ambiguous_with_and_without_a_token(path: str) -> None:
    for token in (None, good()):
        assert local_authorizer().decide(path, token).reason == "ambiguous_path"


@pytest.mark.parametrize(
    "host", ["INTERNAL.example", "Internal.Example:443", "internal.example.", "internal.example.:80"]
)
def test_cve_2021_39155_istio_a_host_in_another_case_matches_the_same_rule(host: str) -> None:
    decision = local_authorizer().decide("/orders", good(), host=host)
    assert (decision.rule, decision.reason) == ("internal", "insufficient_scope")


@pytest.mark.parametrize(
    "joined", ["Bearer {},Bearer x", "Bearer x,Bearer {}", "Basic x, Bearer {}", "Bearer {}, Basic x"]
)
def test_cve_2021_32777_envoy_no_value_of_a_repeated_header_is_used(joined: str) -> None:
    decision = local_authorizer().decide("/orders", authorization=joined.format(good()))
    assert decision.reason == "malformed_request"


@pytest.mark.parametrize("header", ["Bearer {}\0", "Bearer\0 {}", "\0Bearer {}"])
def test_cve_2019_9900_envoy_a_header_with_a_nul_is_malformed(header: str) -> None:
    assert local_authorizer().decide("/orders", authorization=header.format(good())).reason == "malformed_request"


def test_cve_2026_48524_pyjwt_unknown_kids_share_one_fetch_and_a_failed_fetch_keeps_the_keys() -> None:
    service = local_authorizer()
    service.sources[ISSUER].published = None  # the provider is unreachable
    before = service.sources[ISSUER].fetches

    async def flood() -> None:
        for number in range(50):
            decision = service.begin("/orders", STRANGER.sign(claims(), {"kid": f"forged-{number}"}))
            if isinstance(decision, Pending):
                await decision.ready()
                decision = service.authorizer.finish(decision, NOW)
            assert isinstance(decision, Deny)

    asyncio.run(flood())
    assert service.sources[ISSUER].fetches == before + 1
    assert service.decide("/orders", good()).reason == "ok"


def test_cve_2025_59936_get_jwks_no_kid_selects_a_key_of_another_issuer() -> None:
    service = local_authorizer()
    for kid in (f"theirs:{OTHER}", f"{OTHER}theirs", "theirs", f"{OTHER}:theirs"):
        for issuer in (ISSUER, OTHER):
            accepted = service.reason(OTHER_RS.sign(claims(iss=issuer), {"kid": kid})) == "ok"
            assert accepted == (kid == "theirs" and issuer == OTHER)


def test_ghsa_rp9m_7r4c_75qg_fast_jwt_two_tokens_never_share_cached_claims() -> None:
    service = local_authorizer()
    tokens = {subject: good(sub=subject) for subject in ("u1", "u2", "u1 ", "U1")}
    assert len({digest_of(token) for token in tokens.values()}) == len(tokens)
    for _ in range(2):
        assert {subject: service.claims(token).subject for subject, token in tokens.items()} == {s: s for s in tokens}


def test_padding_and_alphabet_of_base64_give_no_second_encoding_of_a_token() -> None:
    """Deny lists, replay caches and logs compare tokens as strings (CWE-180)."""
    service = local_authorizer()
    token = good(sub="~~~???")
    service.claims(token)
    header, body, signature = token.split(".")
    data = base64.urlsafe_b64decode(signature + "==")
    for other in (base64.b64encode(data).decode(), signature + "==", signature[:9] + "\n" + signature[9:]):
        assert other == signature or service.reason(f"{header}.{body}.{other}") == "malformed_token"
