"""The samples cover every kind of decision, and expect only results that exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from authz_service.config.load import load
from authz_service.core.reasons import Reason
from authz_service.demo.identity_provider import IdentityProvider
from authz_service.demo.samples import SECRET_FILE, Sample, configuration, samples

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def requests() -> list[Sample]:
    return samples(IdentityProvider())


def test_they_cover_every_kind_of_decision(requests: list[Sample]) -> None:
    assert {sample.reason for sample in requests} == {
        *("ok", "public", "anonymous", "missing_token", "expired", "wrong_audience", "insufficient_scope", "id_token"),
        *("bad_signature", "unsupported_algorithm", "inactive", "ambiguous_path", "no_rule"),
        *("missing_proof", "invalid_proof", "replayed_proof", "resource_metadata"),
    }


def test_they_expect_only_existing_reasons(requests: list[Sample]) -> None:
    assert {sample.reason for sample in requests} <= {reason.value for reason in Reason}


def test_they_expect_a_challenge_exactly_where_another_token_would_help(requests: list[Sample]) -> None:
    challenged = {sample.reason for sample in requests if sample.error is not None}
    assert challenged == {sample.reason for sample in requests if sample.status == 401} | {"insufficient_scope"}


def test_a_spoofed_header_must_be_replaced_or_removed(requests: list[Sample]) -> None:
    spoofed = [sample for sample in requests if "x-auth-subject" in sample.headers]
    assert [sample.upstream["x-auth-subject"] for sample in spoofed] == ["alice", None]


@pytest.mark.parametrize("folder", ["plain", "a #b: c", "it's", '"quoted"'])
def test_their_configuration_is_valid_for_any_folder_name(tmp_path: Path, folder: str) -> None:
    home = tmp_path / folder
    home.mkdir()
    (home / SECRET_FILE).touch()
    file = home / "config.yaml"
    file.write_text(configuration("http://127.0.0.1:1", "https://api.demo/", f"{home}/authz.sock"))
    assert load(file).server.grpc_address == f"unix:{home}/authz.sock"
