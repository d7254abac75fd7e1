"""The pages on DPoP and mutual TLS show what ``explain`` prints for a proof or a certificate that is wrong."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import trustme
import yaml

from authz_service.cli import main
from authz_service.core import base64url
from support import offline
from support.documents import blocks, page
from support.dpop import DpopKey
from support.signing import Signer

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

OWNER, SIGNER = DpopKey(), Signer("ES256", "a")
URL = "https://shop.example.com/payments"


def issuer_of(name: str, folder: Path) -> dict[str, Any]:
    """Write the first configuration of a page, and return its issuer."""
    settings = yaml.safe_load(blocks(page(name), "yaml", "config.yaml")[0].text)
    issuer: dict[str, Any]
    (issuer,) = offline.written(settings, folder, SIGNER)["issuers"]
    return issuer


def bound(issuer: dict[str, Any], cnf: dict[str, str], scope: str = "") -> str:
    now = int(time.time())
    claims = {"iss": issuer["issuer"], "aud": issuer["audiences"][0], "azp": "web", "scope": scope, "cnf": cnf}
    return SIGNER.sign(claims | {"iat": now - 10, "exp": now + 300})


def shown(name: str) -> str:
    (text,) = (each.text for each in blocks(page(name), "text") if "✗ proof" in each.text)
    return text


def about_proof(printed: str) -> list[list[str]]:
    """The words of each line about a proof, of which there are some."""
    found = [words for line in printed.splitlines() if (words := line.split())[1:2] in (["proof"], ["proof:"])]
    assert found
    return found


def test_explain_shows_an_old_proof_for_another_method_as_the_page_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = bound(issuer_of("how-to/dpop", tmp_path), OWNER.cnf, "payments")
    (tmp_path / "token").write_text(token)
    proof = OWNER.proof("GET", URL, token, now=time.time() - 3600)
    command = ["explain", "--config", str(tmp_path / "config.yaml"), "--method", "POST", "--url", URL]
    assert main([*command, "--token-file", str(tmp_path / "token"), "--header", f"DPoP: {proof}"]) == 1
    printed = capsys.readouterr().out.replace("3601 s", "3600 s").replace("3541 s", "3540 s")
    assert about_proof(printed) == about_proof(shown("how-to/dpop"))


def test_explain_shows_another_certificate_as_the_page_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    issuer = issuer_of("how-to/mutual-tls", tmp_path)
    (tmp_path / "token").write_text(bound(issuer, {"x5t#S256": base64url.encode(bytes(32))}))
    (tmp_path / "client.pem").write_bytes(trustme.CA().issue_cert("client").cert_chain_pems[0].bytes())
    command = ["explain", "--config", str(tmp_path / "config.yaml"), "--url", "https://api.example.com/partners/7"]
    files = ["--token-file", str(tmp_path / "token"), "--client-certificate", str(tmp_path / "client.pem")]
    assert main([*command, *files]) == 1
    assert about_proof(capsys.readouterr().out) == about_proof(shown("how-to/mutual-tls"))
