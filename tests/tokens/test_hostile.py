"""A catalog of hostile tokens, each with the one reason that it must be rejected with, and properties of any token."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.core.errors import Rejected
from support.signing import ML_DSA, Signer, base64url
from support.trust import ED, ES, ISSUER, NOW, OTHER, OTHER_RS, RS, STRANGER, LocalValidator, claims, good

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
INVALID_DATES: list[Any] = [str(NOW + 60), "", "never", True, False, [NOW], [], {"a": 1}, {}]
INVALID_TYPES: dict[str, list[Any]] = {
    **{name: [None, 7, 7.5, True, ["u"], [], {}] for name in
       ("sub", "jti", "client_id", "azp", "cid", "appid", "typ", "token_use", "token_type")},
    "aud": [None, 7, True, {}, [7], [["api"]], ["api", None]],
    "scope": [None, 7, True, {"a": 1}, ["a", 7], [["a"]], [None]],
    "scp": [None, 7, [{}]],
}  # fmt: skip
MARKER_VALUES: list[Any] = ["x", "", None, False, []]
EVENTS_VALUES: list[Any] = [{"http://schemas.openid.net/event/backchannel-logout": {}}, {}, None]
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def with_header(**header: Any) -> str:
    return RS.sign(claims(), header)


def json_strings(header: str = '{"alg":"RS256","kid":"rs"}', body: str | None = None) -> str:
    return RS.sign_json(header.encode(), (body or json.dumps(claims())).encode())


def with_appended_claims(more: str) -> str:
    """A valid token with this string appended to its claims."""
    return json_strings(body=f"{json.dumps(claims())[:-1]},{more}}}")


def hs256(secret: bytes) -> str:
    """Signed with this as the shared secret of an HMAC."""
    signing_input = f"{base64url(json.dumps({'alg': 'HS256', 'kid': 'rs'}).encode())}.{BODY}"
    return f"{signing_input}.{base64url(hmac.digest(secret, signing_input.encode(), hashlib.sha256))}"


def with_signature(token: str, signature: bytes) -> str:
    return f"{token.rpartition('.')[0]}.{base64url(signature)}"


def signature_of(token: str) -> bytes:
    return base64.urlsafe_b64decode(token.rpartition(".")[2] + "==")


def with_stray_bit(part: str) -> str:
    """The same bytes in base64url that is not canonical: an unused bit of the last character is set."""
    assert len(part) % 4 in {2, 3}
    return part[:-1] + ALPHABET[ALPHABET.index(part[-1]) | 1]


def encoded_with_stray_bit(text: str) -> str:
    """JSON, padded with spaces so that its base64url has unused bits, of which one is set."""
    return with_stray_bit(base64url(text.encode() + b" " * (2 - len(text.encode()) % 3)))


def with_short_salt() -> str:
    """RFC 7518 section 3.5: the salt is as long as the hash. Here it is shorter."""
    token = with_header(alg="PS256")
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 20)
    return with_signature(token, RS.key.sign(token.rpartition(".")[0].encode(), pss, hashes.SHA256()))


HEADER, BODY, SIGNATURE = good().split(".")
ES_GOOD = ES.sign(claims())
PEM = RS.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = RS.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
MALFORMED: dict[str, str] = {
    # Not a JWS in compact serialization.
    "empty": "",
    "opaque": "c0ffee",
    "only dots": "..",
    "ten thousand dots": "." * 10_000,
    "two parts": f"{HEADER}.{BODY}",
    "four parts": f"{good()}.x",
    "a dot after it": f"{good()}.",
    "five parts, a JWE": f"{HEADER}.x.x.{BODY}.{SIGNATURE}",
    "no header": f".{BODY}.{SIGNATURE}",
    "no claims": RS.sign_parts(HEADER, ""),
    "JSON serialization": json.dumps({"protected": HEADER, "payload": BODY, "signature": SIGNATURE}),
    # Not base64url, or not canonical.
    "beyond ASCII": f"{good()}é",
    "a lone surrogate after it": f"{good()}\ud800",
    "full-width": good().replace("A", "\uff21"),
    "one character too many in the header": RS.sign_parts(HEADER + "A" * ((5 - len(HEADER)) % 4), BODY),
    "padding after the signature": f"{good()}==",
    "padding after the claims": RS.sign_parts(HEADER, BODY + "="),
    "padding after the header": RS.sign_parts(HEADER + "==", BODY),
    "padding within": RS.sign_parts(HEADER, f"{BODY[:4]}===={BODY[4:]}"),
    "a line break": good().replace(".", ".\n", 1),
    "a line break after it": f"{good()}\n",
    "a space before": f" {good()}",
    "standard base64": RS.sign_parts(base64.b64encode(b'{"alg":"RS256","kid":"rs","x":"\xc3\xbf?>"}').decode().rstrip("="), BODY),
    "stray bits in the header": RS.sign_parts(encoded_with_stray_bit('{"alg":"RS256","kid":"rs"}'), BODY),
    "stray bits in the claims": RS.sign_parts(HEADER, encoded_with_stray_bit(json.dumps(claims()))),
    "stray bits in the signature": with_signature(ES_GOOD, b"")[:-1] + "." + with_stray_bit(ES_GOOD.rpartition(".")[2]),
    # Not a JSON object, or with several readings.
    "header not JSON": json_strings("alg"),
    "header a list": json_strings("[]"),
    "header a string": json_strings('"x"'),
    "header null": json_strings("null"),
    "claims not JSON": json_strings(body="x"),
    "claims a list": json_strings(body="[]"),
    "claims a number": json_strings(body="1"),
    "claims null": json_strings(body="null"),
    "claims twice": json_strings(body=json.dumps(claims()) * 2),
    "a nested JWT (RFC 7519 section 5.2)": RS.sign_parts(HEADER, base64url(good().encode())),
    "alg twice": json_strings('{"alg":"none","alg":"RS256","kid":"rs"}'),
    "kid twice": json_strings('{"alg":"RS256","kid":"es","kid":"rs"}'),
    "a claim twice": with_appended_claims('"sub":"admin"'),
    "a claim twice, one of them escaped": with_appended_claims(r'"s\u0075b":"admin"'),
    "a member within a claim twice": with_appended_claims('"x":[{"a":1,"a":2}]'),
    **{f"exp {number}": json_strings(body=json.dumps(claims(exp=None))[:-1] + f',"exp":{number}}}')
       for number in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 41, "0x77359400", "01", "+1")},
    "UTF-16": RS.sign_json(b'{"alg":"RS256","kid":"rs"}', json.dumps(claims()).encode("utf-16")),
    "UTF-16, the header": RS.sign_json('{"alg":"RS256","kid":"rs"}'.encode("utf-16-le"), json.dumps(claims()).encode()),
    "UTF-32": RS.sign_json(b'{"alg":"RS256","kid":"rs"}', json.dumps(claims()).encode("utf-32-be")),
    "a byte order mark": RS.sign_json(b'\xef\xbb\xbf{"alg":"RS256","kid":"rs"}', json.dumps(claims()).encode()),
    "Latin-1": RS.sign_json(b'{"alg":"RS256","kid":"rs"}', json.dumps(claims())[:-1].encode() + b',"x":"\xe9"}'),
    "a lone surrogate": good(sub="\ud800"),
    "a lone surrogate as a claim's name": good(**{"\udfff": 1}),
    "nested 10 000 deep, and never closed": json_strings(body="[" * 10_000),
    "nested 10 000 deep": with_appended_claims('"x":' + "[" * 10_000 + "]" * 10_000),
    "nested 33 deep in the header": json_strings('{"alg":"RS256","kid":"rs","x":' + "[" * 33 + "]" * 33 + "}"),
    # Header members of a wrong type, and extensions that are not supported (RFC 7515 section 4.1.11).
    "no alg": with_header(alg=None),
    **{f"alg {alg}": json_strings(f'{{"alg":{alg},"kid":"rs"}}') for alg in ("null", "true", "7", '["RS256"]', '{"RS256":1}')},
    **{f"kid {kid}": json_strings(f'{{"alg":"RS256","kid":{kid}}}') for kid in ("null", "7", "true", "[]", '["rs"]', '{"a":1}')},
    "crit": with_header(crit=["exp"]),
    "crit, empty": with_header(crit=[]),
    "crit null": json_strings('{"alg":"RS256","kid":"rs","crit":null}'),
    "crit names an extension that other libraries support": with_header(crit=["b64"], b64=True),
    "b64": with_header(b64=False),
    "b64 true": with_header(b64=True),
    "zip": with_header(zip="DEF"),
    # A JWE's members in the header of a JWS (RFC 7516 section 4.1, RFC 7518 sections 4.6 to 4.8).
    **{f"{name} in the header": with_header(**{name: value})
       for name, value in {"enc": "A256GCM", "epk": {"kty": "EC"}, "apu": "QQ", "apv": "QQ", "iv": "AA", "tag": "AA",
                           "p2s": "AA", "p2c": 1000}.items()},
    "enc null in the header": json_strings('{"alg":"RS256","kid":"rs","enc":null}'),
    "enc empty in the header": with_header(enc=""),
    "five parts, with the header of a JWE": base64url(b'{"alg":"RSA-OAEP","enc":"A256GCM"}') + ".x.x.x.x",
    "five parts, the first three a valid token": f"{good()}.x.x",
}  # fmt: skip
HOSTILE: dict[str, tuple[str, str]] = {
    **{f"malformed: {name}": (token, "malformed_token") for name, token in MALFORMED.items()},
    # Algorithms: only those of the issuer, only asymmetric ones, and only those of the key.
    **{f"alg {alg!r}": (with_header(alg=alg), "unsupported_algorithm")
       for alg in ("none", "None", "NONE", "nOnE", "none ", "", "HS256", "hs256", "HS512", "rs256", "RS256 ", "RS256\0", "ES256K",
                   "RS1", "dir", "RSA-OAEP", "A128KW", "PBES2-HS256+A128KW", "Ed25519", "EDDSA", "ML-DSA-44", "../RS256", "Ed448",
                   "ed25519", "ED25519", "Ed25519ph", "Ed25519 ", "ESP256", "ML-DSA", "ML-DSA-65", "ML-DSA-87", "ml-dsa-44",
                   "ML-DSA-44-ES256", "HashML-DSA-44", "Dilithium2")},
    "alg none of an unknown issuer": (RS.sign(claims(iss="https://evil.example/"), {"alg": "none"}), "unsupported_algorithm"),
    "unsigned": (f"{base64url(json.dumps({'alg': 'none'}).encode())}.{BODY}.", "unsupported_algorithm"),
    "HS256 with the key's PEM": (hs256(PEM), "unsupported_algorithm"),
    "HS256 with the key's PEM, trimmed": (hs256(PEM.strip()), "unsupported_algorithm"),
    "HS256 with the key's DER": (hs256(DER), "unsupported_algorithm"),
    "HS256 with the key's JWK": (hs256(json.dumps(RS.jwk()).encode()), "unsupported_algorithm"),
    "HS256 with the key's modulus": (hs256(RS.jwk()["n"].encode()), "unsupported_algorithm"),
    "HS256 with an empty secret": (hs256(b""), "unsupported_algorithm"),
    "an algorithm that the issuer is not configured for": (Signer("ES384", "es384").sign(claims()), "unsupported_algorithm"),
    "an algorithm of another key type": (ES.sign(claims(), {"kid": "rs"}), "unsupported_algorithm"),
    "an algorithm of another curve": (ES.sign(claims(), {"kid": "es384"}), "unsupported_algorithm"),
    "EdDSA by a key on a NIST curve": (ED.sign(claims(), {"kid": "es"}), "unsupported_algorithm"),
    "Ed448 by a key on Ed25519": (ED.sign(claims(), {"alg": "Ed448"}), "unsupported_algorithm"),
    "Ed25519 by a key on a NIST curve": (ED.sign(claims(), {"alg": "Ed25519", "kid": "es"}), "unsupported_algorithm"),
    "Ed25519 with the signature of another key": (Signer("Ed25519", "x").sign(claims(), {"kid": "ed"}), "bad_signature"),
    "EdDSA with a signature of Ed448": (Signer("Ed448", "x").sign(claims(), {"alg": "EdDSA", "kid": "ed"}), "bad_signature"),
    **{f"{name} where it is not accepted": (Signer(name).sign(claims(), {"kid": "ed"}), "unsupported_algorithm") for name in ML_DSA},
    **{f"a signature of {name} under the name of EdDSA": (Signer(name).sign(claims(), {"alg": "EdDSA", "kid": "ed"}), "bad_signature")
       for name in ML_DSA},
    "an algorithm other than the key's alg": (Signer("RS256", "ps").sign(claims()), "unsupported_algorithm"),
    "another hash than in the header": (Signer("RS512", "rs").sign(claims(), {"alg": "RS256"}), "bad_signature"),
    "another padding than in the header": (Signer("PS256", "rs").sign(claims(), {"alg": "RS256"}), "bad_signature"),
    "another salt length than the standard requires": (with_short_salt(), "bad_signature"),
    # Keys in the token itself (RFC 8725 section 3.10), and unknown keys.
    **{f"{name} in the header": (STRANGER.sign(claims(), {"kid": "rs", name: value}), "bad_signature")
       for name, value in {"jwk": STRANGER.jwk(), "jku": "https://evil.example/jwks", "x5u": "https://evil.example/c",
                           "x5c": ["MIIB"], "x5t": "abc", "x5t#S256": "abc"}.items()},
    "jwk in the header and no kid": (STRANGER.sign(claims(), {"kid": None, "jwk": STRANGER.jwk()}), "bad_signature"),
    "an unknown key under a known kid": (STRANGER.sign(claims(), {"kid": "rs"}), "bad_signature"),
    "an unknown key without kid": (STRANGER.sign(claims(), {"kid": None}), "bad_signature"),
    "an unknown kid": (STRANGER.sign(claims()), "unknown_key"),
    **{f"a kid that is {what}": (with_header(kid=kid), "unknown_key")
       for what, kid in {"empty": "", "a path": "../../dev/null", "a statement": "' OR 1=1 --", "a command": "|whoami",
                         "another case": "RS", "with a space": "rs ", "with a NUL": "rs\0", "a URL": "https://evil.example/",
                         "of 15,000 characters": "k" * 15_000, "a homoglyph": "r\u0455"}.items()},
    # Signatures.
    "no signature": (with_signature(good(), b""), "bad_signature"),
    "a signature of zeros": (with_signature(good(), b"\0" * 256), "bad_signature"),
    "a signature of the modulus": (with_signature(good(), base64.urlsafe_b64decode(RS.jwk()["n"] + "==")), "bad_signature"),
    "a signature cut short": (with_signature(good(), signature_of(good())[:-1]), "bad_signature"),
    "a signature and a byte": (with_signature(good(), signature_of(good()) + b"\0"), "bad_signature"),
    "a zero before the signature": (with_signature(good(), b"\0" + signature_of(good())), "bad_signature"),
    "another token's signature": (with_signature(good(), signature_of(good(sub="u2"))), "bad_signature"),
    **{f"an ECDSA signature with r = {r:#x} and s = {s:#x}":
       (with_signature(ES_GOOD, r.to_bytes(32, "big") + s.to_bytes(32, "big")), "bad_signature")
       for r in (0, 1, P256_ORDER, 2**256 - 1) for s in (0, P256_ORDER, 2**256 - 1)},
    **{f"an ECDSA signature of {size} bytes": (with_signature(ES_GOOD, (signature_of(ES_GOOD) * 3)[:size]), "bad_signature")
       for size in (1, 32, 63, 65, 96, 128)},
    "an ECDSA signature in DER": (with_signature(ES_GOOD, b"\x30\x06\x02\x01\x01\x02\x01\x01"), "bad_signature"),
    "an EdDSA signature of zeros": (with_signature(ED.sign(claims()), b"\0" * 64), "bad_signature"),
    "an EdDSA signature of the neutral point": (with_signature(ED.sign(claims()), b"\1" + b"\0" * 63), "bad_signature"),
    "changed claims": (f"{HEADER}.{base64url(json.dumps(claims(sub='admin')).encode())}.{SIGNATURE}", "bad_signature"),
    "a changed header": (f"{base64url(json.dumps({'alg': 'RS256', 'kid': 'rs'}).encode())}.{BODY}.{SIGNATURE}", "bad_signature"),
    "expired and forged": (STRANGER.sign(claims(exp=1), {"kid": "rs"}), "bad_signature"),
    # Issuers.
    **{f"iss {iss!r}": (RS.sign(claims() | {"iss": iss}), "unknown_issuer")
       for iss in ("https://idp.example", "https://idp.example//", "HTTPS://idp.example/", "https://IDP.example/", ISSUER + "\0",
                   "http://idp.example/", "https://idp.example:443/", "https://idp.example/\u200b", "https://\u0456dp.example/",
                   "https://idp.exampl\u0435/", "https://idp.example/ ", " https://idp.example/", "https://idp.example/%2F",
                   "https://idp.example/.well-known/..", "idp.example", "https://", [ISSUER], [ISSUER, "https://evil.example/"],
                   {"a": 1}, 7, 7.5, True, None, "")},
    "no iss": (good(iss=None), "unknown_issuer"),
    "iss in the header only": (RS.sign(claims(iss=None), {"iss": ISSUER}), "unknown_issuer"),
    "signed by another trusted issuer": (OTHER_RS.sign(claims()), "unknown_key"),
    "signed by another trusted issuer without kid": (OTHER_RS.sign(claims(), {"kid": None}), "bad_signature"),
    "signed by another trusted issuer under this issuer's kid": (Signer("RS256", "rs2").sign(claims(), {"kid": "rs"}), "bad_signature"),
    "of another trusted issuer, signed by this one": (good(iss=OTHER), "bad_signature"),
    # Times.
    "no exp": (good(exp=None), "missing_claim"),
    "exp null": (RS.sign(claims() | {"exp": None}), "missing_claim"),
    "expired": (good(exp=NOW - 30), "expired"),
    "expired, with a fraction": (good(exp=NOW - 30.5), "expired"),
    "expired long ago": (good(exp=-1), "expired"),
    "expired, far before the epoch": (good(exp=-1e300), "expired"),
    "exp zero": (good(exp=0), "expired"),
    "exp and nbf in milliseconds": (good(exp=NOW * 1000, nbf=NOW * 1000), "not_yet_valid"),
    "nbf in the future": (good(nbf=NOW + 31), "not_yet_valid"),
    "nbf in the far future": (good(nbf=10**39), "not_yet_valid"),
    "iat in the future": (good(iat=NOW + 31), "not_yet_valid"),
    **{f"{name} {value!r}": (good(**{name: value}), "invalid_claim") for name in ("exp", "nbf", "iat")
       for value in INVALID_DATES},
    **{f"{name} null": (RS.sign(claims() | {name: None}), "invalid_claim") for name in ("nbf", "iat")},
    # Other kinds of tokens.
    **{f"typ {typ!r} in the header": (with_header(typ=typ), "wrong_token_type")
       for typ in ("dpop+jwt", "logout+jwt", "id_token", "", "JWE", "JOSE", "application/jwt", "secevent+jwt", "at+jwt ", "at jwt",
                   "text/at+jwt", "application/application/at+jwt", "rt+jwt", "oauth-authz-req+jwt", 7, True, ["JWT"], {"a": 1})},
    "typ null in the header": (json_strings('{"alg":"RS256","kid":"rs","typ":null}'), "wrong_token_type"),
    **{f"{marker} {value!r}": (RS.sign(claims() | {marker: value}), "id_token")
       for marker in ("nonce", "at_hash", "c_hash", "s_hash") for value in MARKER_VALUES},
    **{f"{name} {value!r}": (good(**{name: value}), "id_token") for name in ("typ", "token_use") for value in ("id", "ID", "Id")},
    "token_use id_token": (good(token_use="id_token"), "id_token"),
    "for the client alone": (RS.sign(claims(aud="app"), {"typ": "JWT"}), "id_token"),
    "for the client alone, without typ": (RS.sign(claims(aud="app"), {"typ": None}), "id_token"),
    "for the client alone, in a list": (RS.sign(claims(aud=["app"]), {"typ": "JWT"}), "id_token"),
    "for the client alone, twice": (RS.sign(claims(aud=["app", "app"]), {"typ": "JWT"}), "id_token"),
    "for the client alone, azp": (RS.sign(claims(aud=["web"], azp="web", client_id=None), {"typ": "JWT"}), "id_token"),
    "for the client alone, azp differs from client_id": (RS.sign(claims(aud="web", azp="web"), {"typ": "JWT"}), "id_token"),
    "for two names of the client": (RS.sign(claims(aud=["web", "app"], azp="web"), {"typ": "JWT"}), "id_token"),
    **{f"typ claim {typ}": (good(typ=typ), "wrong_token_type") for typ in (
        "Refresh", "refresh", "Offline", "Logout", "LOGOUT", "Serialized-ID", "RegistrationAccessToken", "InitialAccessToken")},
    **{f"{name} with a control": (good(**{name: f"a{control}b"}), "invalid_claim")
       for name in ("sub", "client_id") for control in ("\0", "\r\n", "\x1f", "\x7f", "\x85")},
    **{f"{name} {kind}": (good(**{name: kind}), "wrong_token_type")  # SimpleJWT's, Flask-JWT-Extended's, Cognito's
       for name in ("token_use", "token_type", "type", "typ")
       for kind in ("refresh", "REFRESH", "Refresh", "refresh_token")},
    **{f"{name} {kind}": (good(**{name: kind}), "id_token")
       for name in ("token_use", "token_type", "type", "typ") for kind in ("id", "id_token", "ID_TOKEN")},
    **{f"events {value!r}": (RS.sign(claims() | {"events": value}), "wrong_token_type")
       for value in EVENTS_VALUES},
    # Claims of the wrong type.
    **{f"{name} {value!r}": (RS.sign(claims() | {name: value}), "invalid_claim")
       for name, values in INVALID_TYPES.items() for value in values},
}  # fmt: skip


LOCAL = LocalValidator()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_is_rejected_with_its_one_reason(name: str) -> None:
    token, reason = HOSTILE[name]
    LOCAL.cache.clear()  # of tokens of other tests
    assert LOCAL.reason(token) == reason
    assert LOCAL.reason(token) == reason  # it was not cached as valid
    assert len(LOCAL.cache) == 0


def test_the_helpers_of_the_catalog_build_valid_tokens_from_valid_parts() -> None:
    assert (
        LOCAL.reason(json_strings())
        == LOCAL.reason(with_appended_claims('"x":1'))
        == LOCAL.reason(with_header())
        == "ok"
    )
    assert LOCAL.reason(RS.sign_parts(HEADER, BODY)) == LOCAL.reason(ES_GOOD) == "ok"
    assert LOCAL.reason(with_signature(good(), signature_of(good()))) == "ok"


@given(st.text(max_size=200))
def test_any_string_is_malformed(text: str) -> None:
    assert LOCAL.reason(text) == "malformed_token"


@given(st.lists(st.text(st.sampled_from(ALPHABET), max_size=20), min_size=3, max_size=3))
def test_any_base64url_is_malformed(parts: list[str]) -> None:
    assert LOCAL.reason(".".join(parts)) == "malformed_token"


_SOME = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
_JSON = st.recursive(
    _SOME, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
)
_HEADERS = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "jku", "x"]), _JSON | st.sampled_from(["RS256", "ES256", "rs"])
)
_BODIES = st.dictionaries(
    st.sampled_from(
        [*claims(), "nbf", "jti", "nonce", "azp", "scp", "typ", "token_use", "token_type", "type", "events"]
    ),
    _JSON | st.sampled_from([ISSUER, "api", "app", "ID", NOW + 60]),
)


@given(_HEADERS, _BODIES)
def test_any_header_and_claims_without_the_signature_are_rejected(header: dict[str, Any], body: dict[str, Any]) -> None:
    header = {"alg": "RS256", "kid": "rs"} | header
    token = STRANGER.sign_json(json.dumps(header).encode(), json.dumps(claims() | body).encode())
    assert LOCAL.reason(token) != "ok"


@given(_BODIES)
def test_any_signed_claims_are_valid_or_rejected(body: dict[str, Any]) -> None:
    token = RS.sign_json(b'{"alg":"RS256","kid":"rs"}', json.dumps(claims() | body).encode())
    if LOCAL.reason(token) == "ok":
        found = LOCAL.claims(token)
        assert found.raw["iss"] == ISSUER
        assert not isinstance(found.raw["exp"], (bool, str))
        assert found.raw["exp"] > NOW - 30
        assert found.raw.keys().isdisjoint({"nonce", "events"})
        for name in {"sub", "jti", "azp", "client_id"} & found.raw.keys():
            assert isinstance(found.raw[name], str)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"sub": 12345}, "claim sub is a number, not a string"),
        ({"sub": 1.5}, "claim sub is a number, not a string"),
        ({"sub": True}, "claim sub is a boolean, not a string"),
        ({"sub": None}, "claim sub is null, not a string"),
        ({"azp": {}}, "claim azp is an object, not a string"),
        ({"iat": "1"}, "claim iat is a string, not a number"),
        ({"iat": False}, "claim iat is a boolean, not a number"),
        ({"nbf": None}, "claim nbf is null, not a number"),
        ({"aud": 7}, "claim aud is a number, not a string or a list of strings"),
        ({"aud": ["api", []]}, "claim aud[] is a list, not a string"),
    ],
)
def test_the_cause_names_the_type_seen_and_the_type_expected(changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(Rejected) as rejected:
        LOCAL.claims(RS.sign(claims() | changes))
    assert rejected.value.cause == cause


@pytest.mark.parametrize("signer", [RS, ES, ED], ids=lambda signer: signer.algorithm)
def test_a_token_with_one_character_changed_omitted_or_inserted_is_rejected(signer: Signer) -> None:
    token = signer.sign(claims())
    for place, character in enumerate(token):
        before, after = token[:place], token[place + 1 :]
        other = ALPHABET[(ALPHABET.find(character) + 1 + 7 * place % 63) % 64]
        assert other != character
        for changed in (
            before + other + after,
            before + "." + after,
            before + after,
            before + other + character + after,
        ):
            assert changed == token or LOCAL.reason(changed) != "ok", place


@settings(max_examples=300)
@given(st.data())
def test_parts_of_different_tokens_make_no_valid_token(data: st.DataObject) -> None:
    """Parts of valid tokens, combined: the result is valid only if all three are from one token."""
    tokens = [
        good(),
        good(sub="u2"),
        ES_GOOD,
        ED.sign(claims()),
        OTHER_RS.sign(claims(iss=OTHER)),
        with_header(kid=None),
    ]
    parts = [data.draw(st.sampled_from(tokens)).split(".")[place] for place in range(3)]
    token = ".".join(parts)
    assert (LOCAL.reason(token) == "ok") == (token in tokens)
