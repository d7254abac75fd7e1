"""A JSON Web Key Set (RFC 7517) as keys that can verify.

Law: pure. Only public keys for asymmetric signatures are kept, each with the algorithms that its type, curve, ``use``,
``key_ops`` and ``alg`` allow; one bad entry does not spoil the others. PyJWT parses the numbers and verifies; what may
be used for what is decided here, since PyJWT looks at neither ``use`` nor ``key_ops`` and only warns about short keys.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

from authz_service.core import strict_json
from authz_service.core.errors import FetchFailed, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MIN_RSA_BITS = 2048  # RFC 7518 section 3.3
_MAX_RSA_BITS = 16384  # what OpenSSL verifies at all
_MAX_EXPONENT_BITS = 32  # nearly all are 65537; with one as long as the key, verifying costs 80 times as much
MAX_CANDIDATES = 8  # keys that a token without kid is tried against

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_BY_CURVE = {
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
    ("OKP", "Ed448"): frozenset({"EdDSA"}),
}
# Members that make the key and its fingerprint, by type. No others reach the parser.
_MEMBERS = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}
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
    """A public key and what it may verify. Two entries with the same ``kid`` and numbers are the same key."""

    kid: str | None
    algorithms: frozenset[str]
    fingerprint: bytes  # SHA-256 of its DER form: its type and numbers
    material: Any  # a public key of cryptography
    jwk: Mapping[str, Any]  # its public members, and what it may be used for: enough to read it again

    @property
    def identity(self) -> tuple[str | None, bytes]:
        """What makes it the same key in another key set."""
        return self.kid, self.fingerprint

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's. The algorithm must be one of the key's own."""
        return algorithm in self.algorithms and _VERIFIERS[algorithm].verify(signing_input, self.material, signature)


class KeySet:
    """The usable keys of one issuer at one time."""

    __slots__ = ("_by_kid", "_identities", "keys", "refused")

    def __init__(self, keys: tuple[Key, ...], refused: tuple[str, ...] = ()) -> None:
        """``refused`` says, a line each, which entries were left out and why."""
        self.keys = keys
        self.refused = refused
        self._identities = frozenset(key.identity for key in keys)
        self._by_kid: dict[str, tuple[Key, ...]] = {}
        for key in keys:
            if key.kid is not None:
                self._by_kid[key.kid] = (*self._by_kid.get(key.kid, ()), key)

    def __contains__(self, key: Key) -> bool:
        return key.identity in self._identities

    def named(self, kid: str | None) -> tuple[Key, ...]:
        """The keys that a token with this ``kid`` may mean: all of them, when it has none."""
        return self.keys if kid is None else self._by_kid.get(kid, ())


def parse(data: bytes, max_keys: int) -> KeySet:
    """Read a key set.

    Raises:
        FetchFailed: when it is no key set, has more than ``max_keys`` entries, or not one usable key.
    """
    try:
        document = strict_json.loads(data)
    except ValueError as error:
        raise FetchFailed(f"the key set is no JSON that can be read in one way: {error}") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise FetchFailed("not a key set: no list of keys")
    if len(entries) > max_keys:
        raise FetchFailed(f"the key set has {len(entries)} keys, more than max_keys ({max_keys})")
    keys: list[Key] = []
    refused: list[str] = []
    for place, entry in enumerate(entries):
        try:
            keys.append(_key(entry))
        except _Unusable as unusable:
            kid = entry.get("kid") if isinstance(entry, dict) else None
            refused.append(f"key {place} (kid {quoted(kid)}): {unusable}")
    if not keys:
        raise FetchFailed("no usable key in the key set" + "".join(f"; {line}" for line in refused[:3]))
    return KeySet(tuple(keys), tuple(refused))


class _Unusable(Exception):  # noqa: N818 - it never leaves this module
    """A key that verifies nothing for us, and why."""


def _key(entry: Any) -> Key:
    if not isinstance(entry, dict):
        raise _Unusable("not an object")
    kid = entry.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _Unusable("its kid is not a text")
    _require_for_signatures(entry)
    algorithms = _fitting_algorithms(entry)
    members = {name: entry.get(name) for name in _MEMBERS[entry["kty"]]}
    if not all(isinstance(value, str) for value in members.values()):
        raise _Unusable("a member of the key is missing or not a text")
    material = _material(members)
    told = {name: entry[name] for name in ("kid", "alg") if entry.get(name) is not None}
    return Key(kid, algorithms, _fingerprint(material), material, members | told | {"use": "sig"})


def _require_for_signatures(entry: Mapping[str, Any]) -> None:
    if not _PRIVATE.isdisjoint(entry):
        raise _Unusable("it holds a secret: a published key set has public keys alone")
    if entry.get("use", "sig") != "sig":
        raise _Unusable("its use is not sig")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _Unusable("its key_ops do not say verify")


def _fitting_algorithms(entry: Mapping[str, Any]) -> frozenset[str]:
    kty, curve, algorithm = entry.get("kty"), entry.get("crv"), entry.get("alg")
    if kty == "RSA":
        fitting = _RSA
    elif isinstance(kty, str) and isinstance(curve, str):
        fitting = _BY_CURVE.get((kty, curve), frozenset())
    else:
        fitting = frozenset()
    if not fitting:
        raise _Unusable("its type or curve is not one of RSA, P-256, P-384, P-521, Ed25519, Ed448")
    if algorithm is None:
        return fitting
    if not isinstance(algorithm, str) or algorithm not in fitting:
        raise _Unusable("its alg is not one of its type and curve")
    return frozenset({algorithm})


def _material(members: Mapping[str, Any]) -> Any:
    try:
        material = _PARSERS[members["kty"]](dict(members))
    except Exception as error:  # noqa: BLE001 - two libraries' worth of types, each of which means the same to us
        raise _Unusable(f"its numbers make no key ({type(error).__name__})") from None
    if isinstance(material, RSAPublicKey) and not _MIN_RSA_BITS <= material.key_size <= _MAX_RSA_BITS:
        raise _Unusable(f"an RSA key of {material.key_size} bits: {_MIN_RSA_BITS} to {_MAX_RSA_BITS} are accepted")
    if isinstance(material, RSAPublicKey) and material.public_numbers().e.bit_length() > _MAX_EXPONENT_BITS:
        raise _Unusable(f"an RSA key with an exponent of more than {_MAX_EXPONENT_BITS} bits")
    return material


def _fingerprint(material: Any) -> bytes:
    """Of the one DER form that the key has, however its members were written."""
    return hashlib.sha256(material.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
