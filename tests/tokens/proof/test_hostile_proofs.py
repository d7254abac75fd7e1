"""A catalog of malformed and forged proofs, each with the cause in the log, and how much work each causes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from jwt.utils import raw_to_der_signature

from authz_service.core import base64url
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.keys import jwk, signatures
from support.dpop import DpopKey, thumbprint
from tokens.proof.proofs import (
    NOW,
    OWNER,
    THIEF,
    TOKEN,
    claims_json,
    header_json,
    json_proof,
    proof,
    verified,
    verifier,
)

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = proof(jti="good")
HEADER, CLAIMS, SIGNATURE = GOOD.split(".")
_MEMBERS = OWNER.jwk
_RSA = DpopKey("RS256")


def header(**changes: Any) -> str:
    return proof(header_changes=changes)


def claim(**changes: Any) -> str:
    return proof(claim_changes=changes)


def null_header(name: str) -> str:
    return json_proof(header=json.dumps({**json.loads(header_json()), name: None}))


def null_claim(name: str) -> str:
    return json_proof(claims=claims_json(**{name: None}))


def after_header(more: str) -> str:
    """The header with this string appended to its members."""
    return json_proof(header=f"{header_json()[:-1]},{more}}}")


def after_claims(more: str) -> str:
    return json_proof(claims=f"{claims_json()[:-1]},{more}}}")


def with_key(**changes: Any) -> str:
    """The key in the header is the owner's, with these members besides or instead."""
    return header(jwk=OWNER.jwk | changes)


def without(name: str) -> str:
    return header(jwk={key: value for key, value in _MEMBERS.items() if key != name})


def utf16() -> str:
    return OWNER.sign_json(header_json().encode("utf-16"), claims_json().encode())


def stray_bit(part: str) -> str:
    """The same octets in base64url that is not canonical."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(part) % 4 in {2, 3}
    return part[:-1] + alphabet[alphabet.index(part[-1]) | 1]


def padded_claims() -> str:
    """Claims whose base64url has unused bits."""
    text = claims_json()
    return text + " " * (2 - len(text) % 3)


def numbers(bits: int, exponent: bytes = b"\1\0\1") -> dict[str, Any]:
    """The members of an RSA key of this length; nothing can be signed with it."""
    modulus = (1 << bits - 1 | 1).to_bytes((bits + 7) // 8, "big")
    return {"kty": "RSA", "n": base64url.encode(modulus), "e": base64url.encode(exponent)}


_TYPE = "typ in the header is not dpop+jwt"
_ALGORITHM = "alg in the header is not one of ES256, ES384, Ed25519, EdDSA, PS256, RS256"
_NO_STRING = "alg or kid in the header is not a string"
_NO_JWK = "jwk in the header is missing or not an object"
_SECRET = "jwk in the header: it holds a secret"
_KTY = "jwk in the header: its type is not one of RSA, EC, OKP, AKP"
_LACKS = "jwk in the header: it lacks one of crv, kty, x, y, or has one that is not a string"
_STRANGER = "jwk in the header is not the key to which the token is bound"
_METHOD = "htm is not the method of the request"
_NO_URL = "htu is not an absolute http or https URL"
_NO_HTU = "htu is missing or not a string"
_ORIGIN = "the origin in htu is not that of the request: expected 'https://api.example.com' (dpop.origins)"
_PATH = "the path in htu is not that of the request"
_NO_IAT = "iat is missing or not a number"
_OLD = "iat is longer ago than 60 s (dpop.max_age)"
_FUTURE = "iat is in the future (leeway 5 s)"
_JTI = "jti is missing or not a string"
_JTI_LENGTH = "jti is empty or has more than 256 characters"
_ATH = "ath is not the SHA-256 digest of the token"
_NO_ATH = "ath is missing or not a string"
_NONCE = "nonce is missing or not a string"
_PARTS = "parts; expected three"

# What is refused before a key is parsed, and so before a signature is verified.
CHEAP: dict[str, tuple[str, str]] = {
    "empty": ("", f"1 {_PARTS}"),
    "one part": ("a", f"1 {_PARTS}"),
    "two parts": (f"{HEADER}.{CLAIMS}", f"2 {_PARTS}"),
    "four parts": (f"{GOOD}.", f"4 {_PARTS}"),
    "five parts": (f"{GOOD}..", "five parts, as in an encrypted token (JWE); expected three"),
    "thousands of parts": ("." * 8000, f"8001 {_PARTS}"),
    "long": (header(x="a" * 6500), "longer than 8192 bytes"),
    "long without form": ("a" * 8193, "longer than 8192 bytes"),
    "two proofs": (f"{GOOD},{GOOD}", "more than one DPoP header"),
    "two proofs with a space": (f"{GOOD}, {proof()}", "more than one DPoP header"),
    "a comma behind": (f"{GOOD},", "more than one DPoP header"),
    "a comma before": (f",{GOOD}", "more than one DPoP header"),
    "only a comma": (",", "more than one DPoP header"),
    "a space before": (f" {GOOD}", "the header: not base64url"),
    "a space behind": (f"{GOOD} ", "the signature: not base64url"),
    "a scheme": (f"DPoP {GOOD}", "the header: not base64url"),
    "quoted": (f'"{GOOD}"', "the header: not base64url"),
    "a newline": (f"{HEADER}.{CLAIMS}\n.{SIGNATURE}", "the claims: not base64url"),
    "a null": (f"{GOOD}\0", "the signature: not base64url"),
    "not ASCII": (f"{GOOD}\u00e9", "not ASCII"),
    "a surrogate": (f"{GOOD}\udcff", "not ASCII"),
    "no header": (f".{CLAIMS}.{SIGNATURE}", "the header: not JSON"),
    "no claims": (f"{HEADER}..{SIGNATURE}", "the claims: not JSON"),
    "padded header": (f"{HEADER}=.{CLAIMS}.{SIGNATURE}", "the header: not base64url"),
    "padded signature": (f"{GOOD}==", "the signature: not base64url"),
    "other alphabet": (f"{HEADER}.{CLAIMS}.{SIGNATURE[:-2]}+/", "the signature: not base64url"),
    "stray bit in the signature": (
        f"{HEADER}.{CLAIMS}.{stray_bit(SIGNATURE)}",
        "the signature: not canonical base64url",
    ),
    "stray bit in the claims": (
        OWNER.signer.sign_parts(HEADER, stray_bit(base64url.encode(padded_claims().encode()))),
        "the claims: not canonical base64url",
    ),
    "header is a list": (json_proof(header="[]"), "the header: not a JSON object"),
    "header is a string": (json_proof(header='"a"'), "the header: not a JSON object"),
    "header is no JSON": (json_proof(header="{"), "the header: not JSON"),
    "header with NaN": (after_header('"x":NaN'), "the header: NaN or Infinity"),
    "header in UTF-16": (utf16(), "the header: not UTF-8"),
    "header with a BOM": (json_proof(header=f"\ufeff{header_json()}"), "the header: not JSON"),
    "header with a lone surrogate": (after_header(r'"x":"\ud800"'), "the header: a lone surrogate"),
    "nested header": (after_header(f'"x":{"[" * 40}{"]" * 40}'), "the header: nested too deeply"),
    "very nested header": (after_header(f'"x":{"[" * 2500}{"]" * 2500}'), "the header: nested too deeply"),
    "alg twice": (after_header('"alg":"ES256"'), "the header: a duplicate member"),
    "typ twice": (after_header('"typ":"dpop+jwt"'), "the header: a duplicate member"),
    "jwk twice": (after_header(f'"jwk":{json.dumps(THIEF.jwk)}'), "the header: a duplicate member"),
    "jwk twice, escaped": (after_header(f'"\\u006awk":{json.dumps(THIEF.jwk)}'), "the header: a duplicate member"),
    "kty twice in jwk": (
        json_proof(header=header_json().replace('"kty"', '"kty": "EC", "kty"')),
        "the header: a duplicate member",
    ),
    "crit": (header(crit=["exp"]), "crit in the header is not supported"),
    "empty crit": (header(crit=[]), "crit in the header is not supported"),
    "null crit": (null_header("crit"), "crit in the header is not supported"),
    "b64": (header(b64=False), "b64 in the header is not supported"),
    "enc": (header(enc="A128GCM"), "enc in the header, as in an encrypted token (JWE)"),
    "zip": (header(zip="DEF"), "zip in the header, as in an encrypted token (JWE)"),
    "epk": (header(epk=OWNER.jwk), "epk in the header, as in an encrypted token (JWE)"),
    "p2c": (header(p2c=1), "p2c in the header, as in an encrypted token (JWE)"),
    "kid is a number": (header(kid=7), _NO_STRING),
    "kid is null": (null_header("kid"), _NO_STRING),
    "no typ": (header(typ=None), _TYPE),
    "typ JWT": (header(typ="JWT"), _TYPE),
    "typ of an access token": (header(typ="at+jwt"), _TYPE),
    "typ is a number": (header(typ=7), _TYPE),
    "typ is a list": (header(typ=["dpop+jwt"]), _TYPE),
    "typ is null": (null_header("typ"), _TYPE),
    "typ with a space": (header(typ="dpop+jwt "), _TYPE),
    "typ with a parameter": (header(typ="dpop+jwt;v=1"), _TYPE),
    "typ of another tree": (header(typ="text/dpop+jwt"), _TYPE),
    "typ dpop": (header(typ="dpop"), _TYPE),
    "typ with a Kelvin sign": (header(typ="dpop+\u212awt"), _TYPE),
    "no alg": (header(alg=None), _NO_STRING),
    "alg is a number": (header(alg=256), _NO_STRING),
    "alg is a list": (header(alg=["ES256"]), _NO_STRING),
    "alg none": (header(alg="none"), _ALGORITHM),
    "alg None": (header(alg="None"), _ALGORITHM),
    "empty alg": (header(alg=""), _ALGORITHM),
    "alg HS256": (header(alg="HS256"), _ALGORITHM),
    "alg HS256 with its key": (header(alg="HS256", jwk={"kty": "oct", "k": "c2VjcmV0"}), _ALGORITHM),
    "alg that is not configured": (header(alg="ES512"), _ALGORITHM),
    "alg of an unknown curve": (header(alg="ES256K"), _ALGORITHM),
    "alg in lower case": (header(alg="es256"), _ALGORITHM),
    "alg with a space": (header(alg="ES256 "), _ALGORITHM),
    "alg of encryption": (header(alg="RSA-OAEP"), _ALGORITHM),
    "no jwk": (header(jwk=None), _NO_JWK),
    "jwk is null": (null_header("jwk"), _NO_JWK),
    "jwk is a string": (header(jwk=json.dumps(OWNER.jwk)), _NO_JWK),
    "jwk is a list": (header(jwk=[OWNER.jwk]), _NO_JWK),
    "jku instead of jwk": (header(jwk=None, jku="https://thief.example/keys"), _NO_JWK),
    "x5c instead of jwk": (header(jwk=None, x5c=["MIIB"]), _NO_JWK),
    "kid instead of jwk": (header(jwk=None, kid=OWNER.jkt), _NO_JWK),
    "empty jwk": (header(jwk={}), _KTY),
    "symmetric jwk": (header(jwk={"kty": "oct", "k": "c2VjcmV0"}), _SECRET),
    "symmetric jwk without its key": (header(jwk={"kty": "oct"}), _KTY),
    "private jwk": (with_key(d="c2VjcmV0"), _SECRET),
    "private jwk, null": (with_key(d=None), _SECRET),
    "private jwk, empty": (with_key(d=""), _SECRET),
    "jwk with a prime": (with_key(p="AQAB"), _SECRET),
    "jwk with other primes": (with_key(oth=[]), _SECRET),
    "jwk with a secret": (with_key(k="c2VjcmV0"), _SECRET),
    "jwk with a seed": (with_key(priv="c2VjcmV0"), _SECRET),
    "jwk of another key": (THIEF.proof("GET", "https://api.example.com/v1/orders", TOKEN, now=NOW), _STRANGER),
    "jwk of another type": (_RSA.proof("GET", "https://api.example.com/v1/orders", TOKEN, now=NOW), _STRANGER),
    "jwk with another x": (with_key(x=THIEF.jwk["x"]), _STRANGER),
    "jwk with padding": (with_key(x=OWNER.jwk["x"] + "="), _STRANGER),
    "jwk of another curve": (with_key(crv="P-384"), _STRANGER),
    "jwk with a key set": (header(jwk={"keys": [OWNER.jwk]}), _KTY),
    "kty in lower case": (with_key(kty="ec"), _KTY),
    "kty is a number": (with_key(kty=7), _KTY),
    "kty is a list": (with_key(kty=["EC"]), _KTY),
    "no kty": (without("kty"), _KTY),
    "no x": (without("x"), _LACKS),
    "no crv": (without("crv"), _LACKS),
    "y is a number": (with_key(y=7), _LACKS),
    "x is null": (with_key(x=None), _LACKS),
    "x is not ASCII": (with_key(x="\u00e9"), _STRANGER),
    "claims are a list": (json_proof(claims="[]"), "the claims: not a JSON object"),
    "claims are null": (json_proof(claims="null"), "the claims: not a JSON object"),
    "jti twice": (after_claims('"jti":"two"'), "the claims: a duplicate member"),
    "htu twice": (after_claims('"htu":"https://thief.example/"'), "the claims: a duplicate member"),
    "a long number": (after_claims(f'"x":{"9" * 41}'), "the claims: a number with too many digits"),
    "no htm": (claim(htm=None), _METHOD),
    "another htm": (claim(htm="POST"), _METHOD),
    "htm in lower case": (claim(htm="get"), _METHOD),
    "htm with a space": (claim(htm="GET "), _METHOD),
    "htm is a list": (claim(htm=["GET"]), _METHOD),
    "htm is null": (null_claim("htm"), _METHOD),
    "no htu": (claim(htu=None), _NO_HTU),
    "htu is a list": (claim(htu=["https://api.example.com/v1/orders"]), _NO_HTU),
    "htu is null": (null_claim("htu"), _NO_HTU),
    "empty htu": (claim(htu=""), _NO_URL),
    "htu is a path": (claim(htu="/v1/orders"), _NO_URL),
    "htu without scheme": (claim(htu="//api.example.com/v1/orders"), _NO_URL),
    "htu of another scheme": (claim(htu="wss://api.example.com/v1/orders"), _NO_URL),
    "htu without host": (claim(htu="https:///v1/orders"), _NO_URL),
    "htu with a user": (claim(htu="https://a@api.example.com/v1/orders"), _NO_URL),
    "htu with another host as its user": (claim(htu="https://api.example.com@thief.example/v1/orders"), _NO_URL),
    "htu with a backslash": (claim(htu="https://api.example.com\\v1/orders"), _NO_URL),
    "htu with a space in the host": (claim(htu="https://api.example.com /v1/orders"), _NO_URL),
    "htu with a space behind": (claim(htu="https://api.example.com/v1/orders "), _PATH),
    "htu with a newline": (claim(htu="https://api.example.com/v1/orders\n"), _NO_URL),
    "htu with a control": (claim(htu="https://api.example.com/v1\x00/orders"), _NO_URL),
    "htu that is not ASCII": (claim(htu="https://api.ex\u00e4mple.com/v1/orders"), _NO_URL),
    "htu with a long s": (claim(htu="http\u017f://api.example.com/v1/orders"), _NO_URL),
    "htu with a Kelvin sign": (claim(htu="https://api.example.com/v1/orders?\u212a"), _NO_URL),
    "htu with a port in words": (claim(htu="https://api.example.com:https/v1/orders"), _NO_URL),
    "htu with a broken escape": (claim(htu="https://api.example.com/v1/orders%2"), _NO_URL),
    "htu with a broken escape in the host": (claim(htu="https://api.example.com%2/v1/orders"), _NO_URL),
    "htu with an escaped slash in the host": (claim(htu="https://api.example.com%2fv1/orders"), _NO_URL),
    "htu of another host": (claim(htu="https://api.example.org/v1/orders"), _ORIGIN),
    "htu of a longer host": (claim(htu="https://api.example.com.thief.example/v1/orders"), _ORIGIN),
    "htu over http": (claim(htu="http://api.example.com/v1/orders"), _ORIGIN),
    "htu of another port": (claim(htu="https://api.example.com:8443/v1/orders"), _ORIGIN),
    "htu of the port of http": (claim(htu="https://api.example.com:80/v1/orders"), _ORIGIN),
    "htu of another path": (claim(htu="https://api.example.com/v1/order"), _PATH),
    "htu without path": (claim(htu="https://api.example.com"), _PATH),
    "htu with a slash behind": (claim(htu="https://api.example.com/v1/orders/"), _PATH),
    "htu in upper case": (claim(htu="https://api.example.com/V1/orders"), _PATH),
    "htu with an encoded slash": (claim(htu="https://api.example.com/v1%2Forders"), _PATH),
    "htu with dot segments": (claim(htu="https://api.example.com/x/../v1/orders"), _PATH),
    "htu with encoded dot segments": (claim(htu="https://api.example.com/x/%2e%2e/v1/orders"), _PATH),
    "htu with two slashes": (claim(htu="https://api.example.com//v1/orders"), _PATH),
    "no iat": (claim(iat=None), _NO_IAT),
    "iat is null": (null_claim("iat"), _NO_IAT),
    "iat is a string": (claim(iat=str(int(NOW))), _NO_IAT),
    "iat is true": (claim(iat=True), _NO_IAT),
    "iat is a list": (claim(iat=[NOW]), _NO_IAT),
    "iat is infinite": (
        json_proof(claims=claims_json().replace(str(NOW), "1e999")),
        "the claims: a number that is too large",
    ),
    "iat is NaN": (claim(iat=float("nan")), "the claims: NaN or Infinity"),
    "iat too old": (claim(iat=NOW - 60.5), _OLD),
    "iat in milliseconds": (claim(iat=NOW * 1000), _FUTURE),
    "iat negative": (claim(iat=-1), _OLD),
    "iat zero": (claim(iat=0), _OLD),
    "iat in the future": (claim(iat=NOW + 5.5), _FUTURE),
    "iat in the far future": (claim(iat=10**39), _FUTURE),
    "exp has passed": (claim(exp=NOW - 5), "exp has passed (leeway 5 s)"),
    "exp is a string": (claim(exp="never"), "exp is missing or not a number"),
    "exp is null": (null_claim("exp"), "exp is missing or not a number"),
    "nbf in the future": (claim(nbf=NOW + 6), "nbf is in the future (leeway 5 s)"),
    "nbf is true": (claim(nbf=True), "nbf is missing or not a number"),
    "no jti": (claim(jti=None), _JTI),
    "jti is null": (null_claim("jti"), _JTI),
    "jti is a number": (claim(jti=7), _JTI),
    "jti is a list": (claim(jti=["a"]), _JTI),
    "empty jti": (claim(jti=""), _JTI_LENGTH),
    "long jti": (claim(jti="a" * 257), _JTI_LENGTH),
    "no ath": (claim(ath=None), _NO_ATH),
    "ath is null": (null_claim("ath"), _NO_ATH),
    "ath is a number": (claim(ath=7), _NO_ATH),
    "empty ath": (claim(ath=""), _ATH),
    "ath of another token": (OWNER.proof("GET", "https://api.example.com/v1/orders", "other", now=NOW), _ATH),
    "ath of the header's value": (
        OWNER.proof("GET", "https://api.example.com/v1/orders", f"DPoP {TOKEN}", now=NOW),
        _ATH,
    ),
    "ath is the token": (claim(ath=TOKEN), _ATH),
    "ath with padding": (claim(ath=json.loads(claims_json())["ath"] + "="), _ATH),
    "ath in lower case": (claim(ath=json.loads(claims_json())["ath"].lower()), _ATH),
    "ath that is not ASCII": (claim(ath="\u00e9" * 43), _ATH),
    "nonce is a number": (claim(nonce=7), _NONCE),
    "nonce is null": (null_claim("nonce"), _NONCE),
    "nonce is a list": (claim(nonce=["a"]), _NONCE),
}  # fmt: skip

# The token is bound to the key in the header, so that the key is parsed, and refused.
_OFF_CURVE = OWNER.jwk | {"y": THIEF.jwk["y"]}
_SHORT = OWNER.jwk | {"x": "AQAB" * 12}
BAD_KEYS: dict[str, tuple[dict[str, Any], str, str]] = {
    "not on the curve": (_OFF_CURVE, "ES256", "jwk in the header: x and y are not a point on P-256"),
    "not of the curve": (_SHORT, "ES256", "jwk in the header: x has 36 octets, and P-256 has 32"),
    "unknown curve": (
        OWNER.jwk | {"crv": "secp256k1"},
        "ES256",
        "jwk in the header: its type or curve is not one of RSA, P-256, P-384, P-521, Ed25519, Ed448, AKP",
    ),
    "padded": (OWNER.jwk | {"x": OWNER.jwk["x"] + "="}, "ES256", "jwk in the header: not base64url"),
    "of another alg": (OWNER.jwk, "ES384", "jwk in the header is not a key for its alg"),
    "of another type": (OWNER.jwk, "RS256", "jwk in the header is not a key for its alg"),
    "RSA for ES256": (_RSA.jwk, "ES256", "jwk in the header is not a key for its alg"),
    "1024 bits": (numbers(1024), "RS256", "jwk in the header: it is an RSA key of 1024 bits, not of 2048 to 16384"),
    "4104 bits": (numbers(4104), "RS256", "jwk in the header is an RSA key of more than 4096 bits"),
    "long exponent": (
        numbers(2048, b"\1" + bytes(4) + b"\1"),
        "RS256",
        "jwk in the header: it is an RSA key with an exponent of more than 32 bits",
    ),
    "for encryption": (OWNER.jwk | {"use": "enc"}, "ES256", "jwk in the header has a use other than sig"),
    "use is a list": (OWNER.jwk | {"use": ["sig"]}, "ES256", "jwk in the header has a use other than sig"),
    "for signing": (
        OWNER.jwk | {"key_ops": ["sign"]},
        "ES256",
        "jwk in the header: its key_ops is not a list that contains 'verify'",
    ),
    "alg of its own": (
        OWNER.jwk | {"alg": "ES384"},
        "ES256",
        "jwk in the header: its alg is 'ES384', not one of ES256",
    ),
    "unknown alg of its own": (OWNER.jwk | {"alg": "my secret"}, "ES256", "jwk in the header has an unknown alg"),
    "alg of its own is a list": (OWNER.jwk | {"alg": ["ES256"]}, "ES256", "jwk in the header has an unknown alg"),
    "kid is a number": (OWNER.jwk | {"kid": 7}, "ES256", "jwk in the header: its kid is not a string"),
}  # fmt: skip

_DER = raw_to_der_signature(base64url.decode(SIGNATURE), OWNER.signer.key.curve)
FORGED: dict[str, str] = {
    "signed by another": proof(sign_with=THIEF),
    "another signature": f"{HEADER}.{CLAIMS}.{proof().rpartition('.')[2]}",
    "another header": f"{header(x=1).partition('.')[0]}.{CLAIMS}.{SIGNATURE}",
    "no signature": f"{HEADER}.{CLAIMS}.",
    "zeros": f"{HEADER}.{CLAIMS}.{base64url.encode(bytes(64))}",
    "cut": f"{HEADER}.{CLAIMS}.{base64url.encode(base64url.decode(SIGNATURE)[:-1])}",
    "longer": f"{HEADER}.{CLAIMS}.{base64url.encode(base64url.decode(SIGNATURE) + bytes(1))}",
    "DER": f"{HEADER}.{CLAIMS}.{base64url.encode(_DER)}",
    "a long one": f"{HEADER}.{CLAIMS}.{'A' * 4000}",
}  # fmt: skip


class Work:
    """Counts the expensive steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        for algorithm, verify in signatures.VERIFIERS.items():
            monkeypatch.setitem(signatures.VERIFIERS, algorithm, self._counted("verified", verify))
        monkeypatch.setattr(jwk, "parse", self._counted("parsed", jwk.parse))

    def _counted(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.steps.append(step)
            return function(*arguments)

        return counted


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


def rejection(each: str, **options: Any) -> Rejected:
    with pytest.raises(Rejected) as rejected:
        verified(each, **options)
    return rejected.value


@pytest.mark.parametrize("known", [False, True], ids=["first proof", "known key"])
@pytest.mark.parametrize("name", CHEAP)
def test_a_malformed_proof_is_refused_before_a_key_is_parsed(name: str, *, known: bool, work: Work) -> None:
    each, cause = CHEAP[name]
    key = verified(proof()).key if known else None
    work.steps.clear()
    rejected = rejection(each, known=key)
    assert (rejected.reason, rejected.cause) == (Reason.INVALID_PROOF, cause)
    assert work.steps == []


@pytest.mark.parametrize("name", BAD_KEYS)
def test_an_unusable_key_is_refused_before_a_signature_is_verified(name: str, work: Work) -> None:
    members, algorithm, cause = BAD_KEYS[name]
    each = header(jwk=members, alg=algorithm)
    rejected = rejection(each, jkt=thumbprint(members))
    assert (rejected.reason, rejected.cause) == (Reason.INVALID_PROOF, cause)
    assert "verified" not in work.steps


@pytest.mark.parametrize("known", [False, True], ids=["first proof", "known key"])
@pytest.mark.parametrize("name", FORGED)
def test_a_forged_proof_costs_one_verification_and_is_not_recorded(name: str, *, known: bool, work: Work) -> None:
    by = verifier()
    key = verified(proof(), by).key if known else None
    work.steps.clear()
    rejected = rejection(FORGED[name], by=by, known=key)
    assert (rejected.reason, rejected.cause) == (Reason.INVALID_PROOF, "the signature does not verify")
    assert work.steps.count("verified") == 1
    assert verified(GOOD, by)  # its jti was not recorded


@pytest.mark.parametrize("name", ["first proof", "known key"])
def test_a_valid_proof_costs_one_verification_and_its_key_is_parsed_once(name: str, work: Work) -> None:
    by = verifier()
    key = verified(proof(), by).key if name == "known key" else None
    work.steps.clear()
    assert verified(GOOD, by, known=key)
    assert work.steps == (["verified"] if key else ["parsed", "verified"])


def test_no_cause_quotes_a_proof() -> None:
    marked = DpopKey(name="marked")
    marker = "mark3r-of-the-proof"
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        *(({name: marker}, {}) for name in ("typ", "alg", "jwk", "crit", "enc")),
        *(
            ({"jwk": marked.jwk | {name: marker}}, {})
            for name in ("kty", "crv", "x", "y", "use", "alg", "key_ops", "d")
        ),
        *(({}, {name: marker}) for name in ("htm", "htu", "iat", "ath", "nonce", "exp", "nbf")),
        ({}, {"htu": f"https://{marker}/"}),
        ({}, {"htu": f"https://api.example.com/{marker}"}),
    ]
    for in_header, in_claims in changes:
        each = marked.proof(
            *("GET", "https://api.example.com/v1/orders", TOKEN),
            now=NOW,
            header_changes=in_header,
            claim_changes=in_claims,
        )
        members = in_header.get("jwk", marked.jwk)
        complete = isinstance(members, dict) and all(isinstance(value, str) for value in members.values())
        jkt = thumbprint(members) if complete and members["kty"] == "EC" else marked.jkt
        if in_claims == {"nonce": marker}:
            continue  # nonces are not required, and any is accepted
        assert marker not in rejection(each, jkt=jkt).cause
