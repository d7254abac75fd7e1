"""The completion scripts work in the real shells."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from typing import TYPE_CHECKING

import pytest

from authz_service.cli import _parsers, main
from authz_service.completion import SHELLS
from support import missing

if TYPE_CHECKING:
    from pathlib import Path

HANG_TIMEOUT = 60.0  # seconds; only a test that hangs takes this long
# The program is replaced by a function that prints its arguments, so that a line shows what was completed.
PRINT_ARGUMENTS = "authz-service() { printf '<%s>' \"$@\"; echo; }"
EVALUATE = 'eval "$(cat ./script)"'  # as docs/reference/commands.md says
PREPARE = {
    "bash": f"{PRINT_ARGUMENTS}; {EVALUATE}",
    "zsh": f"{PRINT_ARGUMENTS}; autoload -Uz compinit; compinit -D; {EVALUATE}",
}
START = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}
LINES = [
    ("authz-service che\t", "<check-config>"),
    ("authz-service --ver\t", "<--version>"),
    ("authz-service serve --con\tconf\t", "<serve><--config><config.yaml>"),
    ("authz-service check-config conf\t", "<check-config><config.yaml>"),
    ("authz-service test --config config.yaml ca\t", "<test><--config><config.yaml><cases.yaml>"),
    ("authz-service completion f\t", "<completion><fish>"),
    ("authz-service explain --config config.yaml --url https://a.example/ --exit\t",
     "<explain><--config><config.yaml><--url><https://a.example/><--exit-zero>"),
    ("authz-service explain --token-file conf\t", "<explain><--token-file><config.yaml>"),
    ("authz-service explain --policy conf\t", "<explain><--policy><conf>"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("config.yaml", "cases.yaml"):
        (tmp_path / name).touch()
    return tmp_path


def write_script(folder: Path, shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    (folder / "script").write_text(text)
    return text


class Shell:
    """An interactive shell in a terminal."""

    def __init__(self, program: str, arguments: list[str], folder: Path) -> None:
        self._terminal, theirs = pty.openpty()
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
        self._process = subprocess.Popen(  # ended by close
            [program, *arguments], cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)

    def type(self, line: str, until: str) -> str:
        """Type a line and press Enter; returns what the terminal shows up to ``until``."""
        os.write(self._terminal, f"{line}\n".encode())
        shown = ""
        while until not in shown and select.select([self._terminal], [], [], HANG_TIMEOUT)[0]:
            shown += os.read(self._terminal, 65536).decode(errors="replace")
        return shown

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_a_tab_completes_commands_options_choices_and_files(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_script(folder, name, capsys)
    shell = Shell(missing.program(name, f"completion in {name}"), START[name], folder)
    try:
        shell.type(f"{PREPARE[name]}; echo ready-$((1 + 1))", until="ready-2")
        for line, arguments in LINES:
            end = arguments.rpartition("<")[2]
            shown = shell.type(line, until=f"<{end}")
            assert arguments in shown, line
    finally:
        shell.close()


def test_fish_completes_commands_options_choices_and_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = missing.program("fish", "completion in fish")
    write_script(folder, "fish", capsys)
    for line, arguments in LINES:
        typed = line.replace("--con\tconf\t", "--config conf").rstrip("\t")
        command = [program, "--no-config", "-c", f"source ./script; complete -C '{typed}'"]
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=HANG_TIMEOUT,
            check=True,
            env={"HOME": str(folder)},
        )
        offered = [each.partition("\t")[0] for each in done.stdout.splitlines()]
        word = arguments.rpartition("<")[2].removesuffix(">")
        assert offered == ([] if line.startswith("authz-service explain --policy") else [word]), line


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_in_the_script(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script = write_script(tmp_path, shell, capsys)
    for name, parser in _parsers()[1].items():
        assert name in script
        for option in parser.format_usage().replace("[", " ").replace("]", " ").split():
            if option.startswith("--"):
                assert (f"-l {option[2:]}" if shell == "fish" else option) in script
    assert "--worker" not in script


def test_an_unknown_shell_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["completion", "tcsh"])
    assert exited.value.code == 2
    assert "bash" in capsys.readouterr().err
