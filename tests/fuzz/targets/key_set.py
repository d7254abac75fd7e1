"""Only public keys for asymmetric signatures are taken from a published key set, and each of them works.

* Anything but a key set is rejected with ``FetchFailed``. Neither its text nor the remarks about single entries hold a
  private number.
* No entry that holds a secret becomes a key, whatever else it contains.
* PyJWT, or a direct reading of its numbers, finds the same key in the entry. An RSA key has at least 2048 bits, a key
  verifies only algorithms of its own type and curve, and no key verifies a made-up signature.
* A key can be read again from the members that are kept of it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK, PyJWTError
from jwt.utils import base64url_decode

from authz_service.core.errors import FetchFailed
from authz_service.keys import keyset
from fuzz.secrets import is_secret

if TYPE_CHECKING:
    from authz_service.keys.jwk import Key

OUTCOMES = {"usable", "usable in part", "rejected"}
MAX_BYTES = 4096
_MAX_KEYS = 8
_SECRETS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}
_BY_CURVE = {"secp256r1": {"ES256"}, "secp384r1": {"ES384"}, "secp521r1": {"ES512"}}
_RSA = {f"{kind}{bits}" for kind in ("RS", "PS") for bits in (256, 384, 512)}


def run(data: bytes) -> str:
    try:
        keys = keyset.parse(data, _MAX_KEYS)
    except FetchFailed as failure:
        _require_no_secret(str(failure), data)
        return "rejected"
    entries = _entries(data)
    entries = [entry for entry in entries if entry is not None]
    assert len(keys.keys) + len(keys.refused) == len(entries) <= _MAX_KEYS
    _require_no_secret("\n".join(keys.refused), data)
    kept = [entry for entry in entries if isinstance(entry, dict) and not _holds_secret(entry)]
    for key in keys.keys:
        require_right(key)
        assert any(_is(key, entry) for entry in kept)
    return "usable in part" if keys.refused else "usable"


def _entries(data: bytes) -> list[Any]:
    try:
        entries = json.loads(data)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
    return entries if isinstance(entries, list) else []


def _holds_secret(entry: dict[str, Any]) -> bool:
    return any(entry.get(name) is not None for name in _SECRETS)


def _require_no_secret(text: str, data: bytes) -> None:
    for entry in _entries(data):
        for name in _SECRETS.intersection(entry) if isinstance(entry, dict) else ():
            secret = entry[name]
            assert not (isinstance(secret, str) and is_secret(secret, data) and secret in text)


def require_right(key: Key) -> None:
    """The key verifies what its type allows, nothing made up, and is the same when its JWK is parsed again."""
    if isinstance(key.material, RSAPublicKey):
        assert key.material.key_size >= 2048
        fitting = _RSA
    elif isinstance(key.material, EllipticCurvePublicKey):
        fitting = _BY_CURVE[key.material.curve.name]
    elif key.jwk["kty"] == "OKP":
        fitting = {"EdDSA", key.jwk["crv"]}
    else:
        fitting = {key.jwk["alg"]}
        assert key.jwk["alg"].startswith("ML-DSA-")
    assert key.algorithms
    assert key.algorithms <= fitting
    for algorithm in key.algorithms:
        for signature in (b"", b"\0" * 64, b"\1" + b"\0" * 63, b"\xff" * 256):
            assert not key.verifies(algorithm, b"header.claims", signature)
    again = keyset.parse(json.dumps({"keys": [dict(key.jwk)]}).encode(), 1)
    assert [(each.identity, each.algorithms) for each in again.keys] == [(key.identity, key.algorithms)]


def _is(key: Key, entry: dict[str, Any]) -> bool:
    """Whether another library reads this very key there."""
    if entry.get("kid") != key.kid or entry.get("kty") != key.jwk["kty"]:
        return False
    if entry["kty"] == "AKP":
        return bool(base64url_decode(entry["pub"]) == key.material.public_bytes_raw())
    try:
        if entry["kty"] == "EC":  # PyJWT does not read a coordinate without its leading zeros
            point = key.material.public_numbers()
            return (_number(entry["x"]), _number(entry["y"])) == (point.x, point.y)
        algorithm = "EdDSA" if entry["kty"] == "OKP" else min(key.algorithms)
        material = PyJWK({name: entry[name] for name in key.jwk if name in entry}, algorithm).key
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):  # another entry of the same name
        return False
    return _der(material) == _der(key.material)


def _number(coordinate: str) -> int:
    return int.from_bytes(base64url_decode(coordinate), "big")


def _der(material: Any) -> bytes:
    der = material.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert isinstance(der, bytes)
    return der
