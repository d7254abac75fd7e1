"""ML-DSA (FIPS 204): which parameter sets the installed ``cryptography`` and its OpenSSL support. Pure.

Finding out takes 4 ms, so it waits until a configuration or a key has such an algorithm.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


NAMES: Final = frozenset({"ML-DSA-44", "ML-DSA-65", "ML-DSA-87"})  # of the algorithms in JOSE (RFC 9964)


class Parameters(NamedTuple):
    """One parameter set."""

    octets: int  # of a public key
    key_type: Any  # cryptography's class of public keys
    private_key_type: Any  # and of private keys


@cache
def supported() -> Mapping[str, Parameters]:
    """The supported ones of ``NAMES``."""
    try:
        from cryptography.hazmat.primitives.asymmetric import mldsa  # older versions lack it
    except ImportError:
        return {}
    known = {
        "ML-DSA-44": Parameters(1312, mldsa.MLDSA44PublicKey, mldsa.MLDSA44PrivateKey),
        "ML-DSA-65": Parameters(1952, mldsa.MLDSA65PublicKey, mldsa.MLDSA65PrivateKey),
        "ML-DSA-87": Parameters(2592, mldsa.MLDSA87PublicKey, mldsa.MLDSA87PrivateKey),
    }
    return {name: each for name, each in known.items() if _has_openssl_support(each)}


def _has_openssl_support(parameters: Parameters) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        parameters.key_type.from_public_bytes(bytes(parameters.octets))
    except UnsupportedAlgorithm:
        return False
    return True
