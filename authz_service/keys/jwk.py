"""Parses one JSON Web Key (RFC 7517) into a key that verifies signatures. Pure.

Owns which keys are accepted, and for which algorithms: only public keys for asymmetric signatures, each with the
algorithms that its type, curve, ``use``, ``key_ops`` and ``alg`` allow. A member that is null counts as absent, and so
does an empty ``use``, ``alg`` or ``key_ops``: serializers write absent members so.

A key's numbers are base64url. Padding and the characters of plain base64 are accepted, which some providers write, and
zeros in front of a number; any other deviation makes the key unusable.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from authz_service.core import base64url, ml_dsa
from authz_service.core.errors import quoted
from authz_service.keys.signatures import BY_CURVE, RSA, VERIFIERS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_MIN_RSA_BITS = 2048  # RFC 7518 section 3.3
_MAX_RSA_BITS = 16384  # OpenSSL's limit
_USUAL_BITS = 4096
_MAX_EXPONENT_BITS = 32  # nearly all are 65537; an exponent as long as the key makes verifying 80 times as slow
_MIN_EXPONENT = 3

# The members that identify a key, by type: those of a thumbprint, in its order (RFC 7638 section 3.2, RFC 8037 section
# 2, RFC 9964 section 6).
_KEY_MEMBERS = {
    "RSA": ("e", "kty", "n"),
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
    "AKP": ("alg", "kty", "pub"),
}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})
_CURVES = {"P-256": SECP256R1(), "P-384": SECP384R1(), "P-521": SECP521R1()}
_CURVE_NAMES = {curve.name: name for name, curve in _CURVES.items()}
_OCTETS = {"P-256": 32, "P-384": 48, "P-521": 66}  # of a coordinate
_EDWARDS: Mapping[str, tuple[Any, int]] = {  # with the octets of a key
    "Ed25519": (Ed25519PublicKey, 32),
    "Ed448": (Ed448PublicKey, 57),
}

SIGNATURE_USE: Final = frozenset({"sig"})


class UnusableKey(Exception):  # noqa: N818 - it never leaves this package
    """Why an entry is not a key that may verify signatures."""


class Key(NamedTuple):
    """A public key and the algorithms that it may verify."""

    kid: str | None
    algorithms: frozenset[str]
    fingerprint: bytes  # SHA-256 of its type and numbers, however they were written
    material: Any  # a public key of cryptography
    jwk: Mapping[str, Any]  # enough to parse it again; its numbers have one form

    @property
    def identity(self) -> tuple[str | None, bytes]:
        """Equal for the same key in another key set: ``kid``, type and numbers."""
        return self.kid, self.fingerprint

    @property
    def cost(self) -> float:
        """How long verifying takes: 1 for nearly all keys, and more for long RSA keys (16 for 16384 bits)."""
        return max(1.0, (self.material.key_size / _USUAL_BITS) ** 2) if self.jwk["kty"] == "RSA" else 1.0

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether the signature is valid; not if the algorithm is not one of the key's."""
        return algorithm in self.algorithms and VERIFIERS[algorithm](signing_input, self.material, signature)


def parse(entry: Any, uses: Collection[str] = SIGNATURE_USE) -> Key:
    """The key in an entry of a key set. ``uses`` are the values of ``use`` that are accepted.

    Raises:
        UnusableKey: with the reason.
    """
    if not isinstance(entry, dict):
        raise UnusableKey("it is not an object")
    members = {name: value for name, value in entry.items() if value is not None}
    kid = members.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise UnusableKey("its kid is not a string")
    _require_public_signature_key(members, uses)
    algorithms = _supported_algorithms(members)
    names = _KEY_MEMBERS[members["kty"]]
    numbers = {name: value for name in names if isinstance(value := members.get(name), str)}
    if len(numbers) < len(names):
        raise UnusableKey(f"it lacks one of {', '.join(names)}, or has one that is not a string")
    material = _PARSERS[numbers["kty"]](numbers)
    canonical = members_of(material)
    usage = {name: members[name] for name in ("kid", "alg") if name in members} | {"use": members.get("use") or "sig"}
    return Key(kid, algorithms, thumbprint(canonical), material, canonical | usage)


def thumbprint(members: Mapping[str, Any]) -> bytes:
    """The SHA-256 thumbprint of a public key (RFC 7638), which need not be a usable one.

    Raises:
        UnusableKey: if it holds a secret, even null, or lacks a member of its type.
    """
    if not _PRIVATE.isdisjoint(members):
        raise UnusableKey("it holds a secret")
    kty = members.get("kty")
    names = _KEY_MEMBERS.get(kty) if isinstance(kty, str) else None
    if names is None:
        raise UnusableKey(f"its type is not one of {', '.join(_KEY_MEMBERS)}")
    values = {name: members.get(name) for name in names}
    if not all(isinstance(value, str) for value in values.values()):
        raise UnusableKey(f"it lacks one of {', '.join(names)}, or has one that is not a string")
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


def members_of(material: Any) -> dict[str, Any]:
    """The JWK of a public key of ``cryptography``, without ``kid`` and usage.

    Raises:
        UnusableKey: if it has none.
    """
    if isinstance(material, RSAPublicKey):
        rsa = material.public_numbers()
        return {"kty": "RSA", "n": _encoded(rsa.n), "e": _encoded(rsa.e)}
    if isinstance(material, EllipticCurvePublicKey):
        curve = _CURVE_NAMES.get(material.curve.name)
        if curve is None:
            raise UnusableKey(f"its curve is {material.curve.name}, not P-256, P-384 or P-521")
        point, octets = material.public_numbers(), _OCTETS[curve]
        return {"kty": "EC", "crv": curve, "x": _encoded(point.x, octets), "y": _encoded(point.y, octets)}
    for curve, (key_type, _) in _EDWARDS.items():
        if isinstance(material, key_type):
            return {"kty": "OKP", "crv": curve, "x": base64url.encode(material.public_bytes_raw())}
    for name, each in ml_dsa.supported().items():
        if isinstance(material, each.key_type):
            return {"kty": "AKP", "alg": name, "pub": base64url.encode(material.public_bytes_raw())}
    raise UnusableKey(f"its type is {type(material).__name__}, not RSA, EC, Ed25519, Ed448 or ML-DSA")


def _encoded(number: int, octets: int | None = None) -> str:
    return base64url.encode(number.to_bytes(octets or (number.bit_length() + 7) // 8, "big"))


def _require_public_signature_key(members: Mapping[str, Any], uses: Collection[str]) -> None:
    if not _PRIVATE.isdisjoint(members):
        raise UnusableKey("it holds a secret: publish public keys only")
    use = members.get("use", "")
    if use != "" and not (isinstance(use, str) and use in uses):
        raise UnusableKey(f"its use is {quoted(use)}, not {' or '.join(map(repr, sorted(uses, reverse=True)))}")
    operations = members.get("key_ops", [])
    if operations not in ([], "") and not (isinstance(operations, list) and "verify" in operations):
        raise UnusableKey("its key_ops is not a list that contains 'verify'")


def _supported_algorithms(members: Mapping[str, Any]) -> frozenset[str]:
    kty, curve, algorithm = members.get("kty"), members.get("crv"), members.get("alg", "")
    if kty == "RSA":
        supported = RSA
    elif kty == "AKP":
        supported = frozenset(ml_dsa.supported())
        if not supported:
            raise UnusableKey("its type is AKP, and the installed cryptography does not support ML-DSA")
    elif isinstance(kty, str) and isinstance(curve, str):
        supported = BY_CURVE.get((kty, curve), frozenset())
    else:
        supported = frozenset()
    if not supported:
        raise UnusableKey("its type or curve is not one of RSA, P-256, P-384, P-521, Ed25519, Ed448, AKP")
    if algorithm == "" and kty != "AKP":
        return supported
    if not isinstance(algorithm, str) or algorithm not in supported:
        raise UnusableKey(f"its alg is {quoted(algorithm)}, not one of {', '.join(sorted(supported))}")
    return supported if kty == "OKP" else frozenset({algorithm})


def _rsa(numbers: Mapping[str, str]) -> Any:
    n, e = (int.from_bytes(_decoded(name, numbers[name]), "big") for name in ("n", "e"))
    if not _MIN_RSA_BITS <= n.bit_length() <= _MAX_RSA_BITS:
        raise UnusableKey(f"it is an RSA key of {n.bit_length()} bits, not of {_MIN_RSA_BITS} to {_MAX_RSA_BITS}")
    if e.bit_length() > _MAX_EXPONENT_BITS:
        raise UnusableKey(f"it is an RSA key with an exponent of more than {_MAX_EXPONENT_BITS} bits")
    problem = "n and e are not an RSA key"
    if e < _MIN_EXPONENT or not e & n & 1:  # both are odd
        raise UnusableKey(problem)
    return _made_by(RSAPublicNumbers(e, n).public_key, problem)


def _ec(numbers: Mapping[str, str]) -> Any:
    """Coordinates with missing or additional zero octets in front are accepted: the point must be on the curve."""
    curve = numbers["crv"]
    point = b"\4"  # uncompressed
    for name in ("x", "y"):
        octets = _decoded(name, numbers[name])
        number = octets.lstrip(b"\0")
        if not octets or len(number) > _OCTETS[curve]:
            raise UnusableKey(f"{name} has {len(octets)} octets, and {curve} has {_OCTETS[curve]}")
        point += number.rjust(_OCTETS[curve], b"\0")
    problem = f"x and y are not a point on {curve}"
    return _made_by(lambda: EllipticCurvePublicKey.from_encoded_point(_CURVES[curve], point), problem)


def _okp(numbers: Mapping[str, str]) -> Any:
    curve = numbers["crv"]
    key_type, length = _EDWARDS[curve]
    octets = _decoded("x", numbers["x"])
    _require_length("x", octets, curve, length)
    return _made_by(lambda: key_type.from_public_bytes(octets), f"x is not a key on {curve}")


def _akp(numbers: Mapping[str, str]) -> Any:
    algorithm, octets = numbers["alg"], _decoded("pub", numbers["pub"])
    parameters = ml_dsa.supported()[algorithm]
    _require_length("pub", octets, algorithm, parameters.octets)
    return _made_by(lambda: parameters.key_type.from_public_bytes(octets), f"pub is not a key of {algorithm}")


_PARSERS: Final[dict[str, Callable[[Mapping[str, str]], Any]]] = {"RSA": _rsa, "EC": _ec, "OKP": _okp, "AKP": _akp}


def _require_length(name: str, octets: bytes, what: str, length: int) -> None:
    if len(octets) != length:
        raise UnusableKey(f"{name} has {len(octets)} octets, and {what} has {length}")


def _decoded(name: str, value: str) -> bytes:
    try:
        return base64url.decode(value.rstrip("=").replace("+", "-").replace("/", "_"))
    except ValueError:
        raise UnusableKey(f"{name} is not base64url") from None


def _made_by(constructor: Callable[[], Any], problem: str) -> Any:
    try:
        return constructor()
    except Exception:  # noqa: BLE001 - cryptography raises several types for a malformed key
        raise UnusableKey(problem) from None
