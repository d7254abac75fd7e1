"""Parses a JSON Web Key Set (RFC 7517) into keys that verify signatures. Pure.

Owns which keys are accepted, and for which algorithms: only public keys for asymmetric signatures, each with the
algorithms that its type, curve, ``use``, ``key_ops`` and ``alg`` allow. An unusable entry does not affect the others.

PyJWT parses a key's numbers and verifies, but ignores ``use`` and ``key_ops`` and merely warns about short keys.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

from authz_service.core.errors import FetchFailed, quoted
from authz_service.providers import json_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MIN_RSA_BITS = 2048  # RFC 7518 section 3.3
_MAX_RSA_BITS = 16384  # OpenSSL's limit
_MAX_EXPONENT_BITS = 32  # nearly all are 65537; an exponent as long as the key makes verifying 80 times as slow
MAX_CANDIDATES = 8  # keys that are tried for a token without kid

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_BY_CURVE = {
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
    ("OKP", "Ed448"): frozenset({"EdDSA"}),
}
# The members that the parser gets, by type.
_KEY_MEMBERS = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

_PARSERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}

ALGORITHMS = _RSA | {"ES256", "ES384", "ES512", "EdDSA"}
_VERIFIERS = {name: algorithm for name, algorithm in get_default_algorithms().items() if name in ALGORITHMS}


@dataclass(frozen=True, slots=True)
class Key:
    """A public key and the algorithms that it may verify."""

    kid: str | None
    algorithms: frozenset[str]
    fingerprint: bytes  # SHA-256 of its SubjectPublicKeyInfo in DER: of its type and numbers
    material: Any  # a public key of cryptography
    jwk: Mapping[str, Any]  # enough to parse it again

    @property
    def identity(self) -> tuple[str | None, bytes]:
        """Equal for the same key in another key set: ``kid``, type and numbers."""
        return self.kid, self.fingerprint

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether the signature is valid; not if the algorithm is not one of the key's."""
        return algorithm in self.algorithms and _VERIFIERS[algorithm].verify(signing_input, self.material, signature)


class KeySet:
    """The usable keys of one issuer at one time."""

    __slots__ = ("_by_kid", "_identities", "keys", "refused")

    def __init__(self, keys: tuple[Key, ...], refused: tuple[str, ...] = ()) -> None:
        """``refused`` has a line for each unusable entry and the reason."""
        self.keys = keys
        self.refused = refused
        self._identities = frozenset(key.identity for key in keys)
        self._by_kid: dict[str, tuple[Key, ...]] = {}
        for key in keys:
            if key.kid is not None:
                self._by_kid[key.kid] = (*self._by_kid.get(key.kid, ()), key)

    def __contains__(self, key: Key) -> bool:
        return key.identity in self._identities

    def candidates(self, kid: str | None) -> tuple[Key, ...]:
        """The keys that a token with this ``kid`` may be signed with; all keys if it has none."""
        return self.keys if kid is None else self._by_kid.get(kid, ())


def parse(data: bytes, max_keys: int) -> KeySet:
    """Parse a key set.

    Raises:
        FetchFailed: if it is not a key set, has more than ``max_keys`` entries, or no usable key.
    """
    entries = json_object.parse(data, "the key set").get("keys")
    if not isinstance(entries, list):
        raise FetchFailed(
            "the key set has no list of keys: expected a JSON Web Key Set, an object with a member 'keys'"
        )
    if len(entries) > max_keys:
        raise FetchFailed(f"the key set has {len(entries)} keys, more than keys.max_keys ({max_keys})")
    keys: list[Key] = []
    refused: list[str] = []
    for index, entry in enumerate(entries):
        try:
            keys.append(_key(entry))
        except _Unusable as unusable:
            kid = entry.get("kid") if isinstance(entry, dict) else None
            refused.append(f"key {index} (kid {quoted(kid)}): {unusable}")
    if not keys:
        raise FetchFailed("the key set has no usable key" + "".join(f"; {line}" for line in refused[:3]))
    return KeySet(tuple(keys), tuple(refused))


class _Unusable(Exception):  # noqa: N818 - it never leaves this module
    """Why an entry is not a key that may verify signatures."""


def _key(entry: Any) -> Key:
    if not isinstance(entry, dict):
        raise _Unusable("it is not an object")
    kid = entry.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _Unusable("its kid is not a string")
    _require_public_signature_key(entry)
    algorithms = _supported_algorithms(entry)
    members = {name: entry.get(name) for name in _KEY_MEMBERS[entry["kty"]]}
    if not all(isinstance(value, str) for value in members.values()):
        raise _Unusable(f"it lacks one of {', '.join(members)}, or has one that is not a string")
    material = _material(members)
    usage = {name: entry[name] for name in ("kid", "alg") if entry.get(name) is not None} | {"use": "sig"}
    return Key(kid, algorithms, _fingerprint(material), material, members | usage)


def _require_public_signature_key(entry: Mapping[str, Any]) -> None:
    if not _PRIVATE.isdisjoint(entry):
        raise _Unusable("it holds a secret: publish public keys only")
    if (use := entry.get("use", "sig")) != "sig":
        raise _Unusable(f"its use is {quoted(use)}, not 'sig'")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _Unusable("its key_ops is not a list that contains 'verify'")


def _supported_algorithms(entry: Mapping[str, Any]) -> frozenset[str]:
    kty, curve, algorithm = entry.get("kty"), entry.get("crv"), entry.get("alg")
    if kty == "RSA":
        supported = _RSA
    elif isinstance(kty, str) and isinstance(curve, str):
        supported = _BY_CURVE.get((kty, curve), frozenset())
    else:
        supported = frozenset()
    if not supported:
        raise _Unusable("its type or curve is not one of RSA, P-256, P-384, P-521, Ed25519, Ed448")
    if algorithm is None:
        return supported
    if not isinstance(algorithm, str) or algorithm not in supported:
        raise _Unusable(f"its alg is {quoted(algorithm)}, not one of {', '.join(sorted(supported))}")
    return frozenset({algorithm})


def _material(members: Mapping[str, Any]) -> Any:
    try:
        material = _PARSERS[members["kty"]](dict(members))
    except Exception as error:  # noqa: BLE001 - PyJWT and cryptography raise many types for a malformed key
        raise _Unusable(f"its numbers are not a valid key ({type(error).__name__})") from None
    if isinstance(material, RSAPublicKey) and not _MIN_RSA_BITS <= material.key_size <= _MAX_RSA_BITS:
        raise _Unusable(f"it is an RSA key of {material.key_size} bits, not of {_MIN_RSA_BITS} to {_MAX_RSA_BITS}")
    if isinstance(material, RSAPublicKey) and material.public_numbers().e.bit_length() > _MAX_EXPONENT_BITS:
        raise _Unusable(f"it is an RSA key with an exponent of more than {_MAX_EXPONENT_BITS} bits")
    return material


def _fingerprint(material: Any) -> bytes:
    """Independent of how the JWK is written, since a key has one DER form."""
    return hashlib.sha256(material.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
