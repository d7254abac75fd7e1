"""The search for parts of tokens and proofs finds any part that gives something away."""

from __future__ import annotations

import pytest

from support.dpop import DpopKey, access_token_hash
from support.secrecy import members_of_proof, parts_in

_SECRET = "".join(map(chr, range(ord("0"), ord("z"))))


@pytest.mark.parametrize("start", [0, 1, 20, len(_SECRET) - 16])
def test_any_sixteen_octets_are_found(start: int) -> None:
    part = _SECRET[start : start + 16]
    assert parts_in(f"...{part}...", {_SECRET, "an unrelated secret"}) == {_SECRET}
    assert parts_in(f"...{part[1:]}...{part[:-1]}...", {_SECRET}) == set()


def test_the_members_of_a_proof_are_those_that_its_request_does_not_have() -> None:
    key = DpopKey()
    proof = key.proof("GET", "https://api.example/", "token", now=0, jti="j" * 16, nonce="n" * 16)
    assert members_of_proof(proof) == {"j" * 16, "n" * 16, access_token_hash("token"), key.jwk["x"], key.jwk["y"]}
