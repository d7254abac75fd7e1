"""A published key set is parsed into exactly the keys that may verify signatures, whatever else it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from authz_service.core import base64url
from authz_service.core.errors import FetchFailed
from authz_service.keys import keyset
from authz_service.keys.keyset import KeySet
from support.signing import ML_DSA, Signer

VECTORS = Path(__file__).with_name("vectors")

RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {
    "P-256": (ec.SECP256R1(), "ES256"),
    "P-384": (ec.SECP384R1(), "ES384"),
    "P-521": (ec.SECP521R1(), "ES512"),
}


def rsa_jwk(bits: int = 2048, **members: Any) -> dict[str, Any]:
    key = rsa.generate_private_key(65537, bits).public_key()
    return public_members(RSAAlgorithm.to_jwk(key, as_dict=True)) | members


def ec_jwk(curve: str = "P-256", **members: Any) -> dict[str, Any]:
    key = ec.generate_private_key(_CURVES[curve][0]).public_key()
    return public_members(ECAlgorithm.to_jwk(key, as_dict=True)) | members


def okp_jwk(curve: str = "Ed25519", **members: Any) -> dict[str, Any]:
    private = ed25519.Ed25519PrivateKey.generate() if curve == "Ed25519" else ed448.Ed448PrivateKey.generate()
    return public_members(OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)) | members


def public_members(jwk: dict[str, Any]) -> dict[str, Any]:
    """Without the key_ops that PyJWT adds, so that each test sets what it is about."""
    return {name: jwk[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in jwk}


def without(jwk: dict[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in jwk.items() if other != name}


def encoded(number: int) -> str:
    return base64url.encode(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def parse(*entries: Any, max_keys: int = 100) -> KeySet:
    return keyset.parse(json.dumps({"keys": entries}).encode(), max_keys)


def vector(name: str) -> Any:
    return json.loads((VECTORS / name).read_bytes())


GOOD = ec_jwk(kid="good")
RSA = rsa_jwk()


# Usable keys.


def test_of_the_public_keys_in_rfc_7517_only_the_one_for_signatures_is_used() -> None:
    keys = keyset.parse((VECTORS / "rfc7517_a1_public_keys.json").read_bytes(), 100)
    assert [(key.kid, set(key.algorithms)) for key in keys.keys] == [("2011-04-29", {"RS256"})]
    assert keys.refused == ("key '1': its use is 'enc', not 'sig'",)


@pytest.mark.parametrize("name", ["rfc7517_a2_private_key.json", "rfc7517_a3_symmetric_keys.json"])
def test_the_secret_keys_in_rfc_7517_are_refused(name: str) -> None:
    with pytest.raises(FetchFailed, match="no usable key"):
        keyset.parse((VECTORS / name).read_bytes(), 100)


@pytest.mark.parametrize("example", vector("signatures.json"), ids=lambda example: str(example["from"]))
def test_the_signatures_in_the_standards_verify_and_altered_ones_do_not(example: dict[str, Any]) -> None:
    (key,) = parse(example["jwk"]).keys
    signing_input = example["signing_input"].encode()
    signature = base64url.decode(example["signature"])
    assert key.verifies(example["alg"], signing_input, signature)
    assert not key.verifies(example["alg"], signing_input + b"A", signature)
    assert not key.verifies(example["alg"], signing_input, signature[:-1] + bytes([signature[-1] ^ 1]))


@pytest.mark.parametrize("signature", [b"", b"\0", b"\0" * 64, b"\xff" * 64, b"\0" * 65, b"\xff" * 256, b"\0" * 10_000])
@pytest.mark.parametrize(("jwk", "algorithm"), [(GOOD, "ES256"), (RSA, "PS256"), (okp_jwk(), "EdDSA")])
def test_a_malformed_signature_of_any_length_does_not_verify(
    jwk: dict[str, Any], algorithm: str, signature: bytes
) -> None:
    (key,) = parse(jwk).keys
    assert key.verifies(algorithm, b"a.b", signature) is False


@pytest.mark.parametrize(
    ("jwk", "algorithms"),
    [
        (RSA, RSA_ALGORITHMS),
        (ec_jwk("P-256"), {"ES256"}),
        (ec_jwk("P-384"), {"ES384"}),
        (ec_jwk("P-521"), {"ES512"}),
        (okp_jwk("Ed25519"), {"EdDSA", "Ed25519"}),
        (okp_jwk("Ed25519") | {"alg": "Ed25519"}, {"EdDSA", "Ed25519"}),
        (okp_jwk("Ed25519") | {"alg": "EdDSA"}, {"EdDSA", "Ed25519"}),
        (okp_jwk("Ed448"), {"EdDSA", "Ed448"}),
        (okp_jwk("Ed448") | {"alg": "Ed448"}, {"EdDSA", "Ed448"}),
        (RSA | {"alg": "PS384"}, {"PS384"}),
        (RSA | {"use": "sig"}, RSA_ALGORITHMS),
        (RSA | {"key_ops": ["verify"]}, RSA_ALGORITHMS),
        (RSA | {"key_ops": ["encrypt", "verify"]}, RSA_ALGORITHMS),
        (RSA | {"x5c": ["junk"], "x5t": 1, "unheard-of": {"of": []}}, RSA_ALGORITHMS),
        # Serializers write absent members as null or empty.
        (
            RSA | dict.fromkeys(("kid", "use", "key_ops", "alg", "x5c", "x5t", "crv", "d", "p", "oth", "k")),
            RSA_ALGORITHMS,
        ),
        (RSA | {"use": "", "key_ops": [], "alg": "", "x5c": []}, RSA_ALGORITHMS),
        (RSA | {"key_ops": ""}, RSA_ALGORITHMS),
        (okp_jwk("Ed25519") | {"alg": "", "y": None}, {"EdDSA", "Ed25519"}),
    ],
)
def test_a_key_verifies_the_algorithms_that_its_type_curve_and_alg_allow(
    jwk: dict[str, Any], algorithms: set[str]
) -> None:
    (key,) = parse(jwk).keys
    assert key.algorithms == algorithms
    assert key.kid is None


def test_a_key_never_verifies_another_algorithm() -> None:
    (key,) = parse(RSA | {"alg": "RS256"}).keys
    assert not key.verifies("RS512", b"", b"")
    assert not key.verifies("none", b"", b"")
    assert not key.verifies("HS256", b"", b"")


# Unusable entries.

BAD: dict[str, Any] = {
    "not an object": "key",
    "a list": [],
    "a number": 7,
    "an empty object": {},
    "no type": without(RSA, "kty"),
    "a type that is a number": RSA | {"kty": 1},
    "a type that is a list": RSA | {"kty": ["RSA"]},
    "an unknown type": RSA | {"kty": "DSA"},
    "a type in lower case": RSA | {"kty": "rsa"},
    "an ML-DSA key that is too short": {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
    "an ML-DSA key without alg": {"kty": "AKP", "pub": "AA"},
    "an ML-DSA key with an empty alg": {"kty": "AKP", "alg": "", "pub": "AA"},
    "an ML-DSA key with another alg": {"kty": "AKP", "alg": "EdDSA", "pub": "AA"},
    "an ML-DSA key without pub": {"kty": "AKP", "alg": "ML-DSA-44"},
    "a private ML-DSA key": {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA", "priv": "AA"},
    "an ML-DSA key with the length of another": Signer("ML-DSA-44").jwk(alg="ML-DSA-65") if ML_DSA else {},
    "Ed448 as the alg of Ed25519": okp_jwk() | {"alg": "Ed448"},
    "Ed25519 as the alg of Ed448": okp_jwk("Ed448") | {"alg": "Ed25519"},
    "Ed25519 as the alg of P-256": GOOD | {"alg": "Ed25519"},
    "an x that is empty": GOOD | {"x": ""},
    "an x of zero": GOOD | {"x": "AA", "y": "AA"},
    "an Ed25519 key of 33 bytes": okp_jwk() | {"x": "AA" + okp_jwk()["x"]},
    "an unknown curve": GOOD | {"crv": "secp256k1"},
    "a curve of another type": GOOD | {"crv": "Ed25519"},
    "a curve for key agreement": okp_jwk() | {"crv": "X25519"},
    "a curve that is a list": GOOD | {"crv": ["P-256"]},
    "no curve": without(GOOD, "crv"),
    "no x": without(GOOD, "x"),
    "no y": without(GOOD, "y"),
    "no n": without(RSA, "n"),
    "no e": without(RSA, "e"),
    "no x for Ed25519": without(okp_jwk(), "x"),
    "an n that is a number": RSA | {"n": 17},
    "an n that is null": RSA | {"n": None},
    "an n that is empty": RSA | {"n": ""},
    "an n that is not base64url": RSA | {"n": "\u00e9\u00e9"},
    "a point off the curve": GOOD | {"y": GOOD["x"]},
    "a point of another length": GOOD | {"x": GOOD["x"][:-4]},
    "an x beyond the field": GOOD | {"x": encoded(2**256 - 1)},
    "an Ed25519 key of 31 bytes": okp_jwk() | {"x": encoded(2**247)},
    "an e of 1": RSA | {"e": "AQ"},
    "an even e": RSA | {"e": "Ag"},
    "RSA of 512 bits": RSA | {"n": encoded(2**511 + 1)},
    "RSA of 1024 bits": rsa_jwk(1024),
    "RSA of 2047 bits": RSA | {"n": encoded(2**2046 + 1)},
    "RSA of 16385 bits": RSA | {"n": encoded(2**16384 + 1)},
    "RSA with an exponent of 33 bits": RSA | {"e": encoded(2**32 + 1)},
    "RSA with an exponent as long as the key": RSA | {"e": encoded(2**2047 - 1)},
    "RSA of a million bits": RSA | {"n": encoded(2**1_000_000 + 1)},
    "a symmetric key": {"kty": "oct", "k": "AAAA", "alg": "HS256"},
    "a symmetric key without its secret": {"kty": "oct", "alg": "HS256"},
    "a private RSA key": RSA | {"d": "AQAB"},
    "a private EC key": GOOD | {"d": "AQAB"},
    "a prime": RSA | {"p": "AQAB"},
    "for encryption": RSA | {"use": "enc"},
    "a use that is a list": RSA | {"use": ["sig"]},
    "a use in upper case": RSA | {"use": "SIG"},
    "operations without verify": RSA | {"key_ops": ["encrypt"]},
    "operations that are a string": RSA | {"key_ops": "verify"},
    "operations that are an object": RSA | {"key_ops": {}},
    "a private part that is empty": GOOD | {"d": ""},
    "a use for JWT-SVIDs": GOOD | {"use": "jwt-svid"},
    "an alg of another type": RSA | {"alg": "ES256"},
    "an alg of another curve": GOOD | {"alg": "ES384"},
    "an alg for encryption": RSA | {"alg": "RSA-OAEP"},
    "a symmetric alg": RSA | {"alg": "HS256"},
    "alg none": RSA | {"alg": "none"},
    "an alg that is a number": RSA | {"alg": 256},
    "an alg that is a list": RSA | {"alg": ["RS256"]},
    "an alg that is an object": RSA | {"alg": {"RS256": True}},
    "a kid that is a number": RSA | {"kid": 1},
    "a kid that is a list": RSA | {"kid": ["a"]},
    "a kid that is an object": RSA | {"kid": {}},
}


@pytest.mark.parametrize("entry", BAD.values(), ids=BAD.keys())
def test_an_unusable_entry_is_refused_with_a_reason_and_does_not_affect_others(entry: Any) -> None:
    keys = parse(entry, GOOD)
    assert [key.kid for key in keys.keys] == ["good"]
    assert len(keys.refused) == 1
    assert keys.refused[0].startswith(("key 0 (no kid): it", "key "))


def test_every_unusable_entry_is_refused_with_a_reason() -> None:
    keys = parse(*BAD.values(), GOOD)
    assert [key.kid for key in keys.keys] == ["good"]
    assert len(keys.refused) == len(BAD)


def test_an_rsa_key_of_the_maximum_size_is_usable() -> None:
    (key,) = parse(RSA | {"n": encoded(2**16383 + 1)}).keys
    assert key.algorithms == RSA_ALGORITHMS


def test_null_entries_count_as_absent() -> None:
    keys = parse(None, GOOD, None, max_keys=1)
    assert [key.kid for key in keys.keys] == ["good"]
    assert not keys.refused


@pytest.mark.parametrize("curve", _CURVES)
@pytest.mark.parametrize("octets", [-1, 1, 4])
def test_a_coordinate_may_lack_leading_zero_octets_or_have_more_of_them(curve: str, octets: int) -> None:
    jwk = ec_jwk(curve)
    while curve != "P-521" and octets < 0 and base64url.decode(jwk["x"])[0]:
        jwk = ec_jwk(curve)
    for name in ("x", "y") if octets > 0 else ("x",):
        value = base64url.decode(jwk[name])
        changed = bytes(octets) + value if octets > 0 else value.lstrip(b"\0")
        (key,) = parse(jwk | {name: base64url.encode(changed)}).keys
        assert key.identity == parse(jwk).keys[0].identity
        assert key.jwk[name] == jwk[name]


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        (GOOD | {"x": base64url.encode(b"\1" * 33)}, "x has 33 octets, and P-256 has 32"),
        (GOOD | {"y": GOOD["x"]}, "x and y are not a point on P-256"),
        (okp_jwk() | {"x": "AAAA"}, "x has 3 octets, and Ed25519 has 32"),
        (okp_jwk() | {"alg": "Ed448"}, "its alg is 'Ed448', not one of Ed25519, EdDSA"),
        (RSA | {"e": "AQ"}, "n and e are not an RSA key"),
        (RSA | {"kid": "k", "use": "enc"}, "its use is 'enc', not 'sig'"),
    ],
)
def test_the_reason_names_what_is_wrong_with_a_key(entry: dict[str, Any], cause: str) -> None:
    name = f"key {entry['kid']!r}" if "kid" in entry else "key 0 (no kid)"
    assert parse(entry, GOOD).refused == (f"{name}: {cause}",)


def test_a_key_for_jwt_svids_is_used_where_that_use_is_accepted() -> None:
    document = json.dumps({"keys": [GOOD | {"use": "jwt-svid"}, ec_jwk(kid="x509", use="x509-svid")]}).encode()
    keys = keyset.parse(document, 2, frozenset({"sig", "jwt-svid"}))
    assert [key.kid for key in keys.keys] == ["good"]
    assert keys.refused == ("key 'x509': its use is 'x509-svid', not 'sig' or 'jwt-svid'",)


def test_a_reason_quotes_a_long_or_hostile_kid_shortened_and_escaped() -> None:
    (line,) = parse(RSA | {"use": "enc", "kid": "a\r\nforged: line\u202e" + "x" * 10_000}, GOOD).refused
    assert line.isprintable()
    assert line.isascii()
    assert len(line) < 250


def test_a_reason_never_quotes_a_secret() -> None:
    (line,) = parse(RSA | {"d": "c2VjcmV0"}, GOOD).refused
    assert "c2VjcmV0" not in line


# Selecting keys.


def test_a_kid_selects_its_key_only() -> None:
    keys = parse(GOOD | {"kid": "a"}, RSA | {"kid": "b"})
    assert [key.kid for key in keys.candidates("a")] == ["a"]
    assert keys.candidates("A") == ()
    assert keys.candidates("") == ()
    assert keys.has_kids


def test_an_unknown_kid_selects_the_keys_without_kid() -> None:
    keys = parse(GOOD | {"kid": "a"}, RSA, without(ec_jwk(), "kid"))
    assert [key.kid for key in keys.candidates("a")] == ["a"]
    assert [key.kid for key in keys.candidates("b")] == [None, None]
    assert not parse(RSA).has_kids


def test_keys_that_share_a_kid_are_all_candidates() -> None:
    keys = parse(GOOD | {"kid": "a"}, RSA | {"kid": "a"}, ec_jwk(kid="b"))
    assert len(keys.candidates("a")) == 2


def test_without_a_kid_every_key_is_a_candidate() -> None:
    keys = parse(GOOD | {"kid": "a"}, RSA)
    assert len(keys.candidates(None)) == 2


def test_an_empty_kid_is_a_kid() -> None:
    keys = parse(GOOD | {"kid": ""}, RSA | {"kid": "b"})
    assert [key.kid for key in keys.candidates("")] == [""]


def test_a_key_set_contains_the_same_key_parsed_again_but_not_another_with_its_kid() -> None:
    for jwk in (GOOD, RSA, okp_jwk(kid="good")):
        (first,) = parse(jwk | {"kid": "good"}).keys
        (again,) = parse({"kid": "good"} | jwk | {"use": "sig"}).keys
        assert first in KeySet((again,))
    (first,) = parse(GOOD).keys
    assert first not in parse(ec_jwk(kid="good"))
    assert first not in parse(GOOD | {"kid": "another"})
    assert first not in parse(without(GOOD, "kid"))


# Invalid key sets.


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"{}",
        b"7",
        b'"keys"',
        b'{"keys": null}',
        b'{"keys": {}}',
        b'{"keys": "keys"}',
        b'{"Keys": []}',
        b'{"keys": []}',
        b'{"keys": [',
        b"<!doctype html><html><title>Sign in</title></html>",
        b"\x1f\x8b\x08\x00",
        b"\xff\xfe\xfd",
        b"\xef\xbb\xbf" * 2 + json.dumps({"keys": [GOOD]}).encode(),
        json.dumps({"keys": [GOOD]}).encode("utf-16"),
        json.dumps({"keys": [GOOD]}).encode("utf-32"),
        json.dumps({"keys": [GOOD]}).encode() + b"{}",
        json.dumps({"keys": [GOOD], "n": float("nan")}).encode(),
        json.dumps({"keys": [GOOD], "s": "\ud800"}).encode(),
        b'{"keys": [], "keys": [' + json.dumps(GOOD).encode() + b"]}",
        b'{"keys": [{"kid": "a", ' + json.dumps(GOOD).encode()[1:] + b"]}",
        b'{"keys": ' + b"[" * 100_000,
        b'{"keys": [], "n": ' + b"9" * 10_000 + b"}",
        json.dumps(GOOD).encode(),
    ],
)
def test_invalid_or_ambiguous_documents_are_rejected(data: bytes) -> None:
    with pytest.raises(FetchFailed):
        keyset.parse(data, 100)


def test_a_byte_order_mark_is_ignored() -> None:
    assert keyset.parse(b"\xef\xbb\xbf" + json.dumps({"keys": [GOOD]}).encode(), 1).keys


def test_too_many_keys_are_rejected_as_a_whole_even_if_one_is_unusable() -> None:
    assert len(parse(GOOD, GOOD, max_keys=2).keys) == 2
    with pytest.raises(FetchFailed, match=r"3 keys, more than keys.max_keys \(2\)"):
        parse(GOOD, GOOD, "bad", max_keys=2)


def test_the_error_for_no_usable_key_lists_a_few_entries_only() -> None:
    with pytest.raises(FetchFailed) as failure:
        parse(*(RSA | {"use": "enc", "kid": "x" * 1000} for _ in range(1000)), max_keys=1000)
    assert "its use is 'enc', not 'sig'" in str(failure.value)
    assert len(str(failure.value)) < 1000


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_rejected(data: bytes) -> None:
    with pytest.raises(FetchFailed):
        keyset.parse(data, 100)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
_NAMES = st.sampled_from(["kty", "crv", "n", "e", "x", "y", "kid", "use", "key_ops", "alg", "d", "x5c"])


@given(st.sampled_from([GOOD, RSA]), st.dictionaries(_NAMES, _JSON, max_size=4))
def test_a_good_key_is_usable_whatever_the_other_entry_is(base: dict[str, Any], members: dict[str, Any]) -> None:
    entry = json.loads(json.dumps(base | members).encode("utf-8", "replace"))
    keys = parse(entry, GOOD)
    assert keys.candidates("good")
    assert len(keys.keys) + len(keys.refused) == 2
