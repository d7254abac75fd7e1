"""What a process passes to the one that it starts arrives unchanged."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from authz_service.runtime.handover import Supervision, Worker, command_of
from authz_service.transport.addresses import SharedAddress

if TYPE_CHECKING:
    from pathlib import Path

SERVER = {"grpc_address": "127.0.0.1:1", "tls": {"key_file": '/a " \u00e9.key'}}


def test_a_worker_is_passed_on_the_command_line_unchanged() -> None:
    worker = Worker(2, 7, SERVER, SharedAddress("127.0.0.1:1", 9))
    assert Worker.decode(worker.encode()) == worker


def test_a_supervision_is_passed_on_the_command_line_unchanged() -> None:
    supervision = Supervision("/a b.yaml", 3, "unix:/s", ("::1", 2), "info", "json", SERVER)
    assert Supervision.decode(supervision.encode()) == supervision


@pytest.mark.parametrize("isolated", [0, 1])
def test_another_process_is_isolated_from_the_environment_if_this_one_is(
    monkeypatch: pytest.MonkeyPatch, isolated: int
) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(sys, "flags", SimpleNamespace(ignore_environment=isolated, no_user_site=isolated))
        command = command_of("some.module", "an argument")
    options = command[1 : command.index("-m")]
    assert [each in options for each in ("-E", "-s")] == [bool(isolated)] * 2
    assert command[-3:] == ["-m", "some.module", "an argument"]


@pytest.mark.parametrize("imported", [False, True])
def test_another_process_imports_from_the_working_directory_only_if_this_one_does(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    imported: bool,  # noqa: FBT001
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)] if imported else [])
    assert ("-P" in command_of("some.module")) is not imported


def test_another_process_can_be_started_from_a_working_directory_that_was_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    removed = tmp_path / "removed"
    removed.mkdir()
    monkeypatch.chdir(removed)
    removed.rmdir()
    assert "-P" in command_of("some.module")
