"""The commands: their output, and the exit status on which scripts and probes rely."""

from __future__ import annotations

import json
import os
import platform
import pty
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from authz_service import __version__
from authz_service.cli import main
from authz_service.config.server import Server
from support.key_source import jwks
from support.sidecar_process import SidecarProcess, wait_until
from support.uncovered import PYTHON

if TYPE_CHECKING:
    from pathlib import Path

HANG_TIMEOUT = 60.0  # seconds; only a test that hangs takes this long


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "authz_service", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_TIMEOUT, check=False, **options)


def write(folder: Path, **server: Any) -> Path:
    """Write a valid configuration file."""
    (folder / "jwks.json").write_bytes(jwks("a"))
    file = folder / "config.yaml"
    listening = {"grpc_address": f"unix:{folder / 's'}", "admin_address": "127.0.0.1:0"}
    issuer = {"issuer": "https://issuer.example", "audiences": ["api"], "keys": {"jwks_file": "jwks.json"}}
    file.write_text(json.dumps({"server": listening | server, "issuers": [issuer], "rules": [{"name": "all"}]}))
    return file


BAD = """\
issuers:
- issuer: https://issuer.example
  audiences: [api]
  keys: {timeout: 2}
rules:
- name: all
  acess: public
"""


# Printing.


def into_a_closed_pipe(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program with a closed pipe as its standard output."""
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    command = [sys.executable, "-m", "authz_service", *arguments]
    with open(writing_end, "wb") as closed:  # noqa: PTH123 - of a descriptor
        return subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, timeout=HANG_TIMEOUT, check=False)


def test_a_command_whose_output_nobody_reads_ends_quietly_as_if_by_sigpipe(tmp_path: Path) -> None:
    config, bad, cases = str(write(tmp_path)), tmp_path / "bad.yaml", tmp_path / "cases.yaml"
    bad.write_text(BAD)
    cases.write_text(CASES)
    for arguments in (
        *(["schema"], ["schema", "--cases"], ["version"], ["--version"]),
        *(["check-config", config], ["check-config", str(bad)], ["test", "--config", config, str(cases)]),
        *(["explain", "--config", config, "--url", "https://a.example/"], ["healthcheck", "--config", config]),
        *(["explain", "--config", config, "--url", "https://a.example/", "--json"], ["completion", "bash"]),
    ):
        done = into_a_closed_pipe(*arguments)
        assert (arguments, done.returncode, done.stderr) == (arguments, 141, b"")
    for arguments in (["--help"], ["explain", "--help"]):  # argparse itself ignores a closed pipe
        assert into_a_closed_pipe(*arguments).stderr == b""


def test_problems_on_a_standard_error_that_nobody_reads_end_quietly(tmp_path: Path) -> None:
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    command = [sys.executable, "-m", "authz_service", "serve", "--config", str(tmp_path / "none.yaml")]
    with open(writing_end, "wb") as closed:  # noqa: PTH123 - of a descriptor
        done = subprocess.run(command, stdout=closed, stderr=closed, timeout=HANG_TIMEOUT, check=False)
    assert done.returncode == 141


def test_a_command_without_a_standard_output_ends_as_usual() -> None:
    command = [sys.executable, "-m", "authz_service", "version"]
    without = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    done = subprocess.run(without, stderr=subprocess.PIPE, timeout=HANG_TIMEOUT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_command_that_is_interrupted_ends_quietly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "authz_service", "explain", "--config", str(write(tmp_path))]
    command += ["--url", "https://a.example/", "--token-file", "-"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"Paste the token, then press Enter and Ctrl-D.\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=HANG_TIMEOUT)
    for descriptor in (ours, theirs):
        os.close(descriptor)
    assert (process.returncode, out, err) == (130, b"", b"")


VERSION = f"authz-service {__version__}, Python {platform.python_version()}, transport asyncio\n"


def test_the_transport_of_the_version_is_the_default() -> None:
    assert VERSION.endswith(f"transport {Server().transport}\n")


def test_version_prints_version_python_and_transport(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == VERSION


def test_the_option_version_prints_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["--version"])
    assert exited.value.code == 0
    assert capsys.readouterr().out == VERSION


def test_the_module_runs_the_same_program() -> None:
    done = program("version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"authz-service {__version__},")


def test_schema_prints_a_json_schema_with_the_required_keys(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["required"]) == {"issuers", "rules"}
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["serve"], ["check-config"], ["version", "more"], ["serve", "--config"], ["healthcheck", "x"]],
)
def test_wrong_usage_exits_with_2_and_prints_the_name_of_the_program(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "authz-service" in printed.err


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["--help"])
    assert exited.value.code == 0
    out = capsys.readouterr().out
    for command in (
        "serve",
        "check-config",
        "explain",
        "test",
        "schema",
        "healthcheck",
        "demo",
        "completion",
        "version",
    ):
        assert command in out


# The modules that a command loads.

CHECKS = {"yaml", "cryptography"}  # for the file itself and for key set files
SERVERS = ("transport.asyncio_server", "transport.grpcio_server", "transport.http2", "transport.addresses", "admin")


def loaded_by(*arguments: str, status: int = 0) -> set[str]:
    """The modules that a command imports, ours without the package's name."""
    code = (
        "import atexit, sys; from authz_service.cli import main; "
        "atexit.register(lambda: print('\\nmodules', *sys.modules)); sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [*PYTHON, "-c", code, *arguments], capture_output=True, timeout=HANG_TIMEOUT, check=False, text=True
    )
    assert (done.returncode, done.stderr) == (status, "")
    return {name.removeprefix("authz_service.") for name in done.stdout.rpartition("modules ")[2].split()}


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


@pytest.mark.parametrize("command", ["version", "--version", "schema", "schema --cases", "completion bash", "--help"])
def test_a_command_that_only_prints_loads_nothing_but_the_configuration(command: str) -> None:
    loaded = loaded_by(*command.split())
    assert not packages(loaded) & {
        *("grpc", "google", "prometheus_client", "h11", "uvloop", "aiohttp", "jwt", "asyncio", "ssl"),
        *("cryptography", "pydantic", "yaml"),
        *("transport", "admin", "runtime", "demo", "authorizer", "tokens", "rules", "keys", "providers", "telemetry"),
    }


@pytest.mark.parametrize("command", ["version", "--version", "completion zsh", "--help", "schema"])
def test_a_command_loads_the_configuration_model_only_if_it_prints_it(command: str) -> None:
    loaded = loaded_by(*command.split())
    assert ("config.model" in loaded) == (command == "schema")
    assert "completion" in loaded or command != "completion zsh"


@pytest.mark.parametrize("command", ["version", "--version"])
def test_printing_the_version_loads_next_to_nothing(command: str) -> None:
    loaded = packages(loaded_by(command))
    assert not loaded & {"dataclasses", "inspect", "json", "pathlib", "platform"}
    assert not loaded & {"config", "terminal", "completion"}


def test_check_config_loads_no_server(tmp_path: Path) -> None:
    loaded = loaded_by("check-config", str(write(tmp_path)))
    assert packages(loaded) >= CHECKS
    assert not packages(loaded) & {
        *("grpc", "google", "_pb", "prometheus_client", "h11", "http1", "uvloop", "aiohttp", "wsgiref", "socketserver"),
        *("admin", "demo", "authorizer", "tokens", "rules", "policy_tools"),
    }
    assert not {name for name in loaded if name.startswith("transport")}
    assert {name for name in loaded if name.startswith("runtime.")} == {"runtime.preflight"}


CASES = """\
cases:
- name: without a token
  request: {url: https://a.example/}
  expect: {decision: deny}
"""


def test_test_loads_no_server(tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text(CASES)
    loaded = loaded_by("test", "--config", str(write(tmp_path)), str(cases))
    assert not packages(loaded) & {"grpc", "google", "_pb", "transport", "admin", "demo", "uvloop", "aiohttp"}
    assert {name for name in loaded if name.startswith("runtime.")} == {"runtime.assembly"}


def test_healthcheck_loads_no_server(tmp_path: Path) -> None:
    loaded = loaded_by("healthcheck", "--config", str(write(tmp_path)), status=1)
    assert not packages(loaded) & {
        *("admin", "demo", "runtime", "authorizer", "tokens", "keys", "uvloop", "aiohttp"),
        *("grpc", "google", "_pb", "hpack", "h11", "jwt", "prometheus_client"),
    }
    assert {name for name in loaded if name.startswith(SERVERS)} == {
        *("transport.http2", "transport.http2.client", "transport.http2.compression", "transport.http2.fields"),
        *("transport.http2.frames", "transport.http2.grpc_framing", "transport.http2.huffman"),
        "transport.http2.static_table",
    }
    # A probe runs every few seconds, so it reads the server section alone, and finds no words where nothing is wrong.
    assert not loaded & {"config.consistency", "config.load", "config.messages", "config.warnings", "difflib"}
    assert not packages(loaded) & {"asyncio", "ssl", "hashlib", "cryptography", "logging", "telemetry"}


def test_explain_loads_no_server(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rules": [{"name": "all", "access": "public"}]}))
    loaded = loaded_by("explain", "--config", str(file), "--url", "https://a.example/")
    assert not packages(loaded) & {"grpc", "admin", "demo", "uvloop", "aiohttp"}
    assert not {name for name in loaded if name.startswith(SERVERS)}
    assert {name for name in loaded if name.startswith("runtime.")} == {"runtime.assembly"}


# check-config.


def test_a_valid_configuration_is_reported_as_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path)
    assert main(["check-config", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{file}: valid"


def test_every_problem_is_printed_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(BAD)
    assert main(["check-config", str(file)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{file}:4: issuers[0].keys.timeout: ")
    assert second.startswith(f"{file}:7: rules[0].acess: ")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"issuers: [", b"- 1", b"a: 1\na: 2\n"])
def test_anything_else_than_a_configuration_file_is_a_problem_and_no_traceback(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_bytes(content)
    assert main(["check-config", str(file)]) == 1
    assert str(file) in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"", b'{"keys": []}'])
def test_an_invalid_key_set_is_a_problem(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path)
    (tmp_path / "jwks.json").unlink()
    if content is not None:
        (tmp_path / "jwks.json").write_bytes(content)
    assert main(["check-config", str(file)]) == 1
    assert "issuers[0].keys.jwks_file" in capsys.readouterr().out


def test_invalid_certificates_are_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, tls={"certificate_file": "tls.crt", "key_file": "tls.key"})
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).write_text("nothing")
    assert main(["check-config", str(file)]) == 1
    assert f"{file}:1: server.tls" in capsys.readouterr().out


def test_without_files_only_those_that_the_configuration_names_are_not_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, tls={"certificate_file": "/etc/authz-tls/tls.crt", "key_file": "/etc/authz-tls/tls.key"})
    (tmp_path / "jwks.json").unlink()
    assert main(["check-config", "--without-files", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{file}: valid"
    file.write_text(BAD)
    assert main(["check-config", "--without-files", str(file)]) == 1
    assert capsys.readouterr().out.splitlines()[0].startswith(f"{file}:4: issuers[0].keys.timeout: ")


# serve.


def test_serving_an_invalid_configuration_exits_with_1_and_its_problems(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(BAD)
    done = program("serve", "--config", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == ["issuers[0].keys.timeout", "rules[0].acess"]


@pytest.mark.parametrize("which", ["grpc_address", "admin_address"])
def test_serving_on_an_address_in_use_exits_with_1_and_names_it(which: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        done = program("serve", "--config", str(write(tmp_path, **{which: f"127.0.0.1:{port}"})))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("authz-service: ")
    assert str(port) in last
    assert "Traceback" not in done.stderr


def test_serving_on_a_unix_socket_in_use_exits_with_1_and_does_not_touch_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as occupied:
        occupied.bind(str(tmp_path / "s"))
        occupied.listen()
        done = program("serve", "--config", str(write(tmp_path)))
        assert done.returncode == 1
        assert "another process serves it" in done.stderr
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))


async def test_serving_with_an_expired_certificate_logs_a_warning(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("localhost", not_after=datetime(2021, 1, 1, tzinfo=UTC))
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    file = write(tmp_path, tls={"certificate_file": "tls.crt", "key_file": "tls.key"})
    async with SidecarProcess(file, tmp_path / "log") as sidecar:
        await wait_until(lambda: sidecar.records("configuration warning") != [])
        (warning,) = sidecar.records("configuration warning")
    assert f"{file}:1: warning: server.tls.certificate_file: expired at 2021-01-01T00:00:00+00:00" in warning["warning"]


async def test_one_of_several_workers_logs_the_warnings_for_all(tmp_path: Path) -> None:
    file = write(tmp_path, workers=2)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rules": [{"name": "a", "mode": "shadow"}]}))
    async with SidecarProcess(file, tmp_path / "log") as sidecar:
        await wait_until(lambda: len(sidecar.records("ready")) == 2)
        await wait_until(lambda: sidecar.records("configuration warning") != [])
    (warning,) = sidecar.records("configuration warning")
    assert "rules[0].mode: denies nothing" in warning["warning"]
    assert warning["worker"] == 1


# healthcheck.


def test_the_healthcheck_fails_with_a_message_where_no_sidecar_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["healthcheck", "--config", str(write(tmp_path))]) == 1
    assert capsys.readouterr().out == f"unix:{tmp_path / 's'} does not answer: No such file or directory\n"


@pytest.mark.parametrize("server", ["{grpc_adress: 127.0.0.1:1}", "7", "{grpc_address: nowhere}"])
def test_the_healthcheck_fails_with_the_problem_of_an_invalid_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], server: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"server: {server}\n{BAD}")
    assert main(["healthcheck", "--config", str(file)]) == 1
    (problem,) = capsys.readouterr().err.splitlines()
    assert ":1: server" in problem


def test_the_healthcheck_ignores_mistakes_elsewhere_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"server: {{grpc_address: 'unix:{tmp_path / 's'}'}}\n{BAD}")
    assert main(["healthcheck", "--config", str(file)]) == 1
    assert capsys.readouterr().out == f"unix:{tmp_path / 's'} does not answer: No such file or directory\n"


async def test_the_healthcheck_succeeds_while_the_sidecar_serves(tmp_path: Path) -> None:
    file = write(tmp_path)
    async with SidecarProcess(file, tmp_path / "log"):
        done = program("healthcheck", "--config", str(file))
        assert (done.returncode, done.stdout, done.stderr) == (0, f"unix:{tmp_path / 's'} is SERVING\n", "")
    assert program("healthcheck", "--config", str(file)).returncode == 1


async def test_the_healthcheck_fails_while_the_sidecar_has_no_keys(tmp_path: Path) -> None:
    file = write(tmp_path)
    configuration = json.loads(file.read_text())
    configuration["issuers"][0]["keys"] = {"jwks_uri": "http://127.0.0.1:1/keys"}
    file.write_text(json.dumps(configuration))
    async with SidecarProcess(file, tmp_path / "log", wait_until_ready=False):
        done = program("healthcheck", "--config", str(file))
    assert (done.returncode, done.stdout) == (1, f"unix:{tmp_path / 's'} is NOT_SERVING\n")


def test_it_runs_with_an_empty_environment_and_in_any_folder(tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if name.startswith(("COVERAGE", "PYTHONPATH"))}
    assert program("check-config", str(write(tmp_path)), cwd=tmp_path, env=bare).returncode == 0


def test_without_its_extra_the_demo_prints_what_to_install() -> None:
    code = "import sys; sys.modules['aiohttp'] = None; from authz_service.cli import main; sys.exit(main(['demo']))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=HANG_TIMEOUT, check=False, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "authz-service: the demo needs aiohttp: pip install 'authz-service[demo]'\n"


@pytest.mark.parametrize(
    "module",
    ["authz_service.runtime.application", "authz_service.runtime.supervisor", "authz_service.policy_tools.explain"],
)
def test_serving_and_explaining_do_not_load_the_demos_libraries(module: str) -> None:
    code = f"import sys; import {module}; sys.exit(bool({{'aiohttp', 'yarl', 'multidict'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=HANG_TIMEOUT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
