"""The samples cover what the sidecar promises, and expect no answer that it could not give."""

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
def wanted() -> list[Sample]:
    return samples(IdentityProvider())


def test_they_show_every_kind_of_answer(wanted: list[Sample]) -> None:
    assert {sample.reason for sample in wanted} == {
        *("ok", "public", "anonymous", "missing_token", "expired", "wrong_audience", "insufficient_scope", "id_token"),
        *("bad_signature", "unsupported_algorithm", "inactive", "ambiguous_path", "no_rule"),
    }


def test_they_expect_only_reasons_that_there_are(wanted: list[Sample]) -> None:
    assert {sample.reason for sample in wanted} <= {reason.value for reason in Reason}


def test_they_expect_a_challenge_exactly_where_a_token_would_help(wanted: list[Sample]) -> None:
    challenged = {sample.reason for sample in wanted if sample.error is not None}
    assert challenged == {sample.reason for sample in wanted if sample.status == 401} | {"insufficient_scope"}


def test_a_spoofed_header_is_expected_to_be_replaced_or_gone(wanted: list[Sample]) -> None:
    spoofed = [sample for sample in wanted if "x-auth-subject" in sample.headers]
    assert [sample.upstream["x-auth-subject"] for sample in spoofed] == ["alice", None]


@pytest.mark.parametrize("folder", ["plain", "a #b: c", "it's", '"quoted"'])
def test_their_configuration_is_valid_whatever_the_temporary_folder_is_called(tmp_path: Path, folder: str) -> None:
    home = tmp_path / folder
    home.mkdir()
    (home / SECRET_FILE).touch()
    file = home / "config.yaml"
    file.write_text(configuration("http://127.0.0.1:1", "https://api.demo/", f"{home}/authz.sock"))
    assert load(file).server.grpc_address == f"unix:{home}/authz.sock"
