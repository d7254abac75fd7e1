"""PyJWT, which reads keys and verifies signatures independently, agrees with us, except where we are stricter.

Each exception is stated here: a signature that lacks a zero in front of it, and keys that PyJWT accepts although they
are short, have a large or even number, or are written in a sloppy form of base64url.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

from authz_service.core import base64url
from authz_service.keys import jwk
from authz_service.keys.jwk import Key, UnusableKey
from authz_service.keys.signatures import RSA
from support.signing import Signer

MESSAGE = b"header.claims"
THEIRS = get_default_algorithms()
NAMES = sorted(THEIRS.keys() & {*RSA, "ES256", "ES384", "ES512", "EdDSA"})
HASHES: list[hashes.HashAlgorithm] = [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]  # noqa: S303
# The orders of the groups of P-256, P-384 and P-521 (FIPS 186-4).
ORDERS = {
    "ES256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "ES384": int(
        "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16
    ),
    "ES512": int(
        "01FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFA51868783BF2F966B7FCC0148F709A5D03BB5C9B8"
        "899C47AEBB6FB71E91386409",
        16,
    ),
}


@functools.cache
def signed(algorithm: str) -> tuple[Key, Signer, bytes]:
    signer = Signer(algorithm)
    return jwk.parse(signer.jwk()), signer, signer.signature(MESSAGE)


def verify_both(algorithm: str, message: bytes, signature: bytes) -> bool:
    """Whether ours verifies it, once both agree."""
    key, _, good = signed(algorithm)
    ours = key.verifies(algorithm, message, signature)
    theirs = THEIRS[algorithm].verify(message, key.material, signature)
    assert ours == (theirs and len(signature) == len(good))
    return ours


# Signatures.


@pytest.mark.parametrize("algorithm", NAMES)
def test_both_verify_a_signature_and_neither_that_of_another_message(algorithm: str) -> None:
    _, signer, _ = signed(algorithm)
    for length in (0, 1, 63, 64, 1000):
        message = b"m" * length
        assert verify_both(algorithm, message, signer.signature(message))
        assert not verify_both(algorithm, message + b"\0", signer.signature(message))


@pytest.mark.parametrize("algorithm", NAMES)
@given(data=st.data())
def test_neither_verifies_an_altered_signature(algorithm: str, data: st.DataObject) -> None:
    _, _, good = signed(algorithm)
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 4)))
    changed = good[:start] + data.draw(st.binary(max_size=4)) + good[end:]
    assert verify_both(algorithm, MESSAGE, changed) == (changed == good)


@pytest.mark.parametrize("algorithm", NAMES)
@given(signature=st.binary(max_size=600))
def test_neither_verifies_made_up_octets(algorithm: str, signature: bytes) -> None:
    assert not verify_both(algorithm, MESSAGE, signature)


@pytest.mark.parametrize("algorithm", ORDERS)
@given(data=st.data())
def test_both_agree_on_the_numbers_of_an_ecdsa_signature(algorithm: str, data: st.DataObject) -> None:
    _, _, good = signed(algorithm)
    octets, order = len(good) // 2, ORDERS[algorithm]
    r, s = (int.from_bytes(half, "big") for half in (good[:octets], good[octets:]))
    near = [0, 1, 2, order - 1, order, order + 1, 2 ** (8 * octets) - 1]
    # The negated s verifies as well: ECDSA has two signatures for each r.
    numbers = st.sampled_from([*near, r, s, order - s, order - r, (r + order) % 2 ** (8 * octets)])
    pair = data.draw(numbers), data.draw(numbers)
    valid = verify_both(algorithm, MESSAGE, b"".join(number.to_bytes(octets, "big") for number in pair))
    assert valid == (pair in {(r, s), (r, order - s)})


@pytest.mark.parametrize("algorithm", ORDERS)
def test_neither_verifies_an_ecdsa_signature_in_der(algorithm: str) -> None:
    _, _, good = signed(algorithm)
    octets = len(good) // 2
    r, s = (int.from_bytes(half, "big") for half in (good[:octets], good[octets:]))
    assert not verify_both(algorithm, MESSAGE, utils.encode_dss_signature(r, s))


@pytest.mark.parametrize("algorithm", ["PS256", "PS384", "PS512"])
@pytest.mark.parametrize("salt", [0, 20, 31, 32, 33, 48, 64, padding.PSS.MAX_LENGTH])
@pytest.mark.parametrize("mask", HASHES, ids=lambda each: each.name)
def test_a_pss_signature_verifies_only_with_the_salt_and_the_mask_of_its_digest(
    algorithm: str, salt: Any, mask: hashes.HashAlgorithm
) -> None:
    _, signer, _ = signed(algorithm)
    digest = {"PS256": hashes.SHA256(), "PS384": hashes.SHA384(), "PS512": hashes.SHA512()}[algorithm]
    signature = signer.key.sign(MESSAGE, padding.PSS(padding.MGF1(mask), salt), digest)
    valid = verify_both(algorithm, MESSAGE, signature)
    assert valid == (salt == digest.digest_size and mask.name == digest.name)


@pytest.mark.parametrize("algorithm", sorted(RSA))
@pytest.mark.parametrize("digest", HASHES, ids=lambda each: each.name)
def test_an_rsa_signature_verifies_only_with_the_padding_and_the_digest_of_its_algorithm(
    algorithm: str, digest: hashes.HashAlgorithm
) -> None:
    _, signer, _ = signed(algorithm)
    signature = signer.key.sign(MESSAGE, padding.PKCS1v15(), digest)
    assert verify_both(algorithm, MESSAGE, signature) == (algorithm == f"RS{digest.name.removeprefix('sha')}")


@pytest.mark.parametrize("algorithm", ["RS256", "PS256"])
def test_a_zero_in_front_of_an_rsa_signature_cannot_be_omitted(algorithm: str) -> None:
    key, signer, _ = signed(algorithm)
    messages = (b"%d" % number for number in range(100_000))
    message, signature = next(
        (message, signature) for message in messages if not (signature := signer.signature(message))[0]
    )
    assert verify_both(algorithm, message, signature)
    assert not verify_both(algorithm, message, signature[1:])
    assert not verify_both(algorithm, message, b"\0" + signature)
    # PyJWT verifies it with PSS; we require the length, so that a token has one form.
    assert THEIRS[algorithm].verify(message, key.material, signature[1:]) == (algorithm == "PS256")


# Keys.


def read_by_pyjwt(entry: dict[str, Any]) -> Any:
    """The key as PyJWT reads it; None if it refuses it."""
    readers: dict[str, type[Algorithm]] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
    try:
        return readers[entry["kty"]].from_jwk(entry)
    except Exception:  # noqa: BLE001 - of many types
        return None


def read_by_us(entry: dict[str, Any]) -> Key | None:
    try:
        return jwk.parse(entry)
    except UnusableKey:
        return None


def padded(entry: dict[str, Any]) -> dict[str, Any]:
    """Coordinates with exactly the octets of the curve, which PyJWT requires."""
    octets = {"P-256": 32, "P-384": 48, "P-521": 66}.get(entry.get("crv", ""))
    if octets is None:
        return entry
    numbers = {name: base64url.decode(entry[name]).lstrip(b"\0") for name in ("x", "y")}
    return entry | {name: base64url.encode(number.rjust(octets, b"\0")) for name, number in numbers.items()}


def is_stricter(entry: dict[str, Any]) -> bool:
    """Whether this is an RSA key that we refuse for its size, or for an even modulus."""
    if entry["kty"] != "RSA":
        return False
    n, e = (int.from_bytes(base64url.decode(entry[name]), "big") for name in ("n", "e"))
    return not 2048 <= n.bit_length() <= 16384 or n % 2 == 0 or e.bit_length() > 32


def _entries() -> list[dict[str, Any]]:
    signers = [Signer(name) for name in ("RS256", "ES256", "ES384", "ES512", "EdDSA", "Ed448")]
    return [signer.jwk(kid=None, use=None) for signer in signers]


NUMBERS = ("n", "e", "x", "y")


@given(data=st.data())
def test_both_read_the_same_key_or_refuse_it(data: st.DataObject) -> None:
    entry = dict(data.draw(st.sampled_from(_entries())))
    name = data.draw(st.sampled_from([name for name in NUMBERS if name in entry]))
    octets = base64url.decode(entry[name])
    start = data.draw(st.integers(0, len(octets)))
    end = data.draw(st.integers(start, min(len(octets), start + 2)))
    value = octets[:start] + data.draw(st.binary(max_size=2)) + octets[end:]
    entry[name] = base64url.encode(value)
    ours = read_by_us(entry)
    theirs = read_by_pyjwt(padded(entry) if value else entry)
    if ours is None:
        assert theirs is None or is_stricter(entry)
    else:
        assert ours.material == theirs
        assert not is_stricter(entry)


@given(data=st.data())
def test_a_number_of_another_key_or_curve_gives_the_same_key_to_both_or_none(data: st.DataObject) -> None:
    entry, other = (dict(data.draw(st.sampled_from(_entries()))) for _ in range(2))
    for name in data.draw(st.sets(st.sampled_from(["kty", "crv", *NUMBERS]))):
        if name in other:
            entry[name] = other[name]
    ours = read_by_us(entry)
    theirs = read_by_pyjwt(entry)
    if ours is None:
        assert theirs is None or is_stricter(entry)
    else:
        assert ours.material == theirs


@pytest.mark.parametrize("entry", _entries(), ids=lambda entry: str(entry.get("crv", "RSA")))
def test_our_jwk_of_a_key_is_that_of_pyjwt(entry: dict[str, Any]) -> None:
    key = jwk.parse(entry)
    writers: dict[str, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
    theirs = writers[entry["kty"]].to_jwk(key.material, as_dict=True)
    theirs.pop("key_ops", None)
    assert jwk.members_of(key.material) == theirs == entry


@pytest.mark.parametrize("entry", _entries(), ids=lambda entry: str(entry.get("crv", "RSA")))
@pytest.mark.parametrize("octets", [b"", b"\n", b" ", b"=A", b"\0", "\u00e9".encode(), b"%3D"])
def test_a_number_with_other_characters_than_base64_has_is_refused(entry: dict[str, Any], octets: bytes) -> None:
    for name in (name for name in NUMBERS if name in entry):
        value = entry[name]
        changed = entry | {name: value[:3] + octets.decode() + value[3:]} if octets else entry
        found = read_by_us(changed)
        assert (found is not None) == (not octets)


@pytest.mark.parametrize("entry", _entries(), ids=lambda entry: str(entry.get("crv", "RSA")))
def test_padding_and_plain_base64_are_accepted_and_do_not_change_a_key(entry: dict[str, Any]) -> None:
    key = jwk.parse(entry)
    plain = {name: entry[name].replace("-", "+").replace("_", "/") for name in NUMBERS if name in entry}
    sloppy = jwk.parse(entry | {name: value + "=" * (-len(value) % 4) for name, value in plain.items()})
    assert (sloppy.identity, sloppy.jwk) == (key.identity, key.jwk)


@pytest.mark.parametrize("number", ["n", "e"])
def test_an_even_number_is_not_an_rsa_key(number: str) -> None:
    numbers = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    values = {"n": numbers.n, "e": numbers.e}
    values[number] += 1
    members = {name: base64url.encode(value.to_bytes(256, "big")) for name, value in values.items()}
    with pytest.raises(UnusableKey, match="n and e are not an RSA key"):
        jwk.parse({"kty": "RSA"} | members)


def test_a_point_of_another_curve_is_not_on_this_one() -> None:
    point = ec.generate_private_key(ec.SECP256K1()).public_key().public_numbers()
    members = {name: base64url.encode(getattr(point, name).to_bytes(32, "big")) for name in ("x", "y")}
    with pytest.raises(UnusableKey, match="x and y are not a point on P-256"):
        jwk.parse({"kty": "EC", "crv": "P-256"} | members)
