"""The demo's proofs are those that the sidecar accepts, and its token endpoint finds their keys."""

from __future__ import annotations

import time

import pytest

from authz_service.core import base64url
from authz_service.core.attributes import Attributes
from authz_service.demo.dpop import DpopKey, jkt_of
from authz_service.tokens.proof.dpop import DpopVerifier
from authz_service.tokens.proof.replay import ReplayCache
from authz_service.tokens.proof.target import Targets

_URL = "https://api.demo/v1/appointments/7"


def test_the_sidecar_accepts_a_proof_for_its_request() -> None:
    key, token = DpopKey(), "token"
    replays = ReplayCache(1, 60, lambda: None)
    verifier = DpopVerifier(algorithms=["ES256"], max_age=60, targets=Targets(), replays=replays)
    request = Attributes("GET", "api.demo", "/v1/appointments/7", {})
    thumbprint = base64url.decode(key.jkt)
    verifier.verify(key.proof("GET", _URL, token), request, token, thumbprint, leeway=0, now=time.time())
    assert len(replays) == 1


def test_a_key_from_its_file_is_the_same_key() -> None:
    key = DpopKey()
    assert DpopKey(key.pem()).jkt == key.jkt != DpopKey().jkt


def test_the_key_of_a_proof_is_found() -> None:
    key = DpopKey()
    assert jkt_of(key.proof("POST", _URL), "POST", _URL) == key.jkt


@pytest.mark.parametrize(("method", "url"), [("GET", _URL), ("POST", f"{_URL}1")])
def test_a_proof_for_another_request_is_invalid(method: str, url: str) -> None:
    with pytest.raises(ValueError, match="for another request"):
        jkt_of(DpopKey().proof(method, url), "POST", _URL)


def test_an_old_proof_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    proof = DpopKey().proof("POST", _URL)
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(ValueError, match="for another request"):
        jkt_of(proof, "POST", _URL)
