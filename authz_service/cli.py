"""The commands: parse the arguments, call, print, return the exit status.

Each command imports what it needs when it runs, so that a check, a probe or a schema does not load a server.
"""

from __future__ import annotations

import argparse
import io
import sys
from typing import TYPE_CHECKING

from authz_service import __version__
from authz_service.core.errors import ConfigError, printable
from authz_service.exit_status import status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import TextIO

    from authz_service.config.model import Settings
    from authz_service.core.attributes import Attributes
    from authz_service.policy_tools.cases import Case
    from authz_service.policy_tools.run_cases import CaseRunner, Outcome

_PROGRAM = "authz-service"
_DEFAULT_TRANSPORT = "asyncio"  # of server.transport, whose model takes longer to load than everything else here
_MAX_TOKEN_FILE = 1 << 20  # characters: far beyond max_token_bytes, so that explain can show that denial


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 for success, 1 for failure, 2 for wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # its encoding may lack some characters
            stream.reconfigure(errors="backslashreplace")
    return status_of(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    options = _parser().parse_args(argv)
    try:
        status: int = options.command(options)
    except ConfigError as error:
        _print_problems(error.problems, sys.stderr)
        return 1
    return status


def _print_problems(problems: Iterable[str], stream: TextIO) -> None:
    """Problems or warnings of files."""
    from authz_service.terminal import Color

    color = Color(stream)
    for problem in problems:
        print(color.problem(problem), file=stream)


def _parser() -> argparse.ArgumentParser:
    return _parsers()[0]


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and those of the commands."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM, description="Token authorization for Envoy: access tokens in, allow or deny out."
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print version, Python and transport")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        added.set_defaults(command=command)
        return added

    serve = add("serve", _serve, "decide Envoy's requests until SIGTERM or SIGINT, then drain")
    serve.add_argument("--config", type=_path, required=True, metavar="FILE", help="the configuration file")
    serve.add_argument("--worker", help=argparse.SUPPRESS)  # for the supervisor, which starts workers

    check = add("check-config", _check_config, "validate a configuration file and print every problem, and warnings")
    check.add_argument("config", type=_path, metavar="FILE", help="the configuration file")
    check.add_argument(
        "--without-files",
        action="store_true",
        help="do not look at the files that it names, such as secrets, which need not exist",
    )

    _add_explain(add("explain", _explain, "decide one request and print every step"))

    test = add("test", _test, "run policy test cases against a configuration, offline")
    test.add_argument("--config", type=_path, required=True, metavar="FILE", help="the configuration file")
    test.add_argument("--junit", type=_path, metavar="FILE", help="also write a JUnit XML report")
    test.add_argument("cases", type=_path, nargs="+", metavar="CASES.yaml", help="files with cases")

    schema = add("schema", _schema, "print the JSON Schema of the configuration file, for editors")
    schema.add_argument("--cases", action="store_true", help="print the schema of files with policy test cases")

    healthcheck = add("healthcheck", _healthcheck, "query the health service of a running instance")
    healthcheck.add_argument("--config", type=_path, metavar="FILE", help="the configuration file of the instance")

    demo = add("demo", _demo, "run Envoy, authz-service and an identity provider on this machine")
    demo.add_argument("--once", action="store_true", help="send the sample requests and exit")

    _add_init(add("init", _init, "write a commented configuration for an issuer, from the metadata that it publishes"))

    completion = add(
        "completion", _completion, "print a script for the completion of commands and options in bash, zsh or fish"
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that evaluates it")

    add("version", _version, "print version, Python and transport")
    return parser, dict(commands.choices)


def _add_explain(explain: argparse.ArgumentParser) -> None:
    explain.add_argument("--config", type=_path, required=True, metavar="FILE", help="the configuration file")
    explain.add_argument("--method", default="GET", metavar="METHOD", help="default: GET")
    explain.add_argument("--url", required=True, metavar="URL", help="https://host/path, used literally")
    explain.add_argument(
        "--header", action="append", default=[], metavar="'K: V'", help="a request header; may be repeated"
    )
    explain.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with the access token; - for standard input. With a DPoP header, its scheme is DPoP",
    )
    explain.add_argument(
        "--client-certificate", type=_path, metavar="FILE", help="the client's certificate, PEM, for tokens bound to it"
    )
    explain.add_argument(
        "--policy", default="", metavar="NAME", help="value of the route's context extension authz_policy"
    )
    explain.add_argument("--json", action="store_true", help="print JSON")
    explain.add_argument(
        "--exit-zero", action="store_true", help="exit with status 0 for a denial as well, such as for kubectl exec"
    )


def _add_init(init: argparse.ArgumentParser) -> None:
    init.add_argument(
        "--issuer", required=True, action=_OneIssuer, metavar="URL", help="the issuer (iss) of the access tokens"
    )
    init.add_argument(
        "--audience",
        metavar="AUDIENCE",
        help="the audience (aud) of the access tokens for your API; default: ask for it",
    )
    init.add_argument("--output", type=_path, metavar="FILE", help="the file to write; default: standard output")
    init.add_argument("--force", action="store_true", help="overwrite the file if it exists")
    init.add_argument("--ca-file", type=_path, metavar="FILE", help="trust anchors for the issuer's certificate, PEM")
    init.add_argument("--allow-http", action="store_true", help="allow plain http to another host")


def _path(argument: str) -> Path:
    from pathlib import Path

    return Path(argument)


class _PrintVersion(argparse.Action):
    """``--version``. Argparse's own action would need the string up front, for every command."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object) -> None:
        parser.exit(_version(namespace))


class _OneIssuer(argparse.Action):
    """``--issuer`` of ``init``. Argparse itself would ignore all but the last one."""

    def __call__(
        self, _parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: object, *_: object
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            problem = "takes one issuer: run init for each, and put the entries of issuers into one file"
            raise argparse.ArgumentError(self, problem)
        setattr(namespace, self.dest, value)


def _serve(options: argparse.Namespace) -> int:
    from authz_service.runtime.start import run

    run(options.config, options.worker)
    return 0


def _check_config(options: argparse.Namespace) -> int:
    from authz_service.terminal import Color

    try:
        warnings = _warnings(options.config, look_at_files=not options.without_files)
    except ConfigError as error:
        _print_problems(error.problems, sys.stdout)
        return 1
    _print_problems(warnings, sys.stdout)
    print(printable(f"{options.config}: ") + Color(sys.stdout)("good", "valid"))
    return 0


def _warnings(file: Path, *, look_at_files: bool) -> tuple[str, ...]:
    """The warnings about a valid configuration."""
    if look_at_files:
        from authz_service.runtime import preflight

        return preflight.warnings_of(preflight.read(file))
    from authz_service.config.warnings import load_with_warnings

    return load_with_warnings(file, look_at_files=False)[1]


def _explain(options: argparse.Namespace) -> int:
    """Returns 0 if the request is allowed, 1 if it is denied (0 with --exit-zero), 2 if it could not be decided."""
    from authz_service.config.load import load
    from authz_service.core.decision import Deny
    from authz_service.policy_tools import explanation
    from authz_service.policy_tools.explain import UNDECIDED, explain
    from authz_service.telemetry import logs
    from authz_service.terminal import Color, width_of

    try:
        settings = load(options.config)
        attributes = _attributes(options, settings)
    except ConfigError as error:
        _print_problems(error.problems, sys.stderr)
        return 2
    except ValueError as error:
        print(f"authz-service: {error}", file=sys.stderr)
        return 2
    logs.configure("warning", "text", sys.stderr)  # for the cause when keys cannot be fetched
    try:
        explained = explain(settings, attributes)
    except ConfigError as error:  # of a file that the configuration names, which is read here
        print(printable(f"{options.config}: {error.problems[0]}"), file=sys.stderr)
        return 2
    if options.json:
        print(explanation.as_json(explained, attributes))
    else:
        print(explanation.as_text(explained, attributes, Color(sys.stdout), width_of(sys.stdout)))
    if explained.decision.reason in UNDECIDED:
        return 2
    return 1 if isinstance(explained.decision, Deny) and not options.exit_zero else 0


def _attributes(options: argparse.Namespace, settings: Settings) -> Attributes:
    from authz_service.policy_tools.client_certificate import read_certificate, with_certificate
    from authz_service.policy_tools.request import attributes_of, with_token
    from authz_service.rules.policy import Policy

    headers = [_header(text) for text in options.header]
    attributes = attributes_of(options.method, options.url, headers, options.policy)
    if options.client_certificate is not None:
        try:
            certificate = read_certificate(options.client_certificate)
        except ValueError as error:
            raise ValueError(printable(f"--client-certificate {options.client_certificate}: {error}")) from None
        attributes = with_certificate(attributes, certificate, settings.mtls)
    if options.token_file is None:
        return attributes
    token = _token(options.token_file).strip()
    return with_token(attributes, token, Policy(settings.rules, settings.issuers, settings.scope_implies))


def _token(file: str) -> str:
    from contextlib import nullcontext
    from pathlib import Path

    if file == "-" and sys.stdin.isatty():
        print("Paste the token, then press Enter and Ctrl-D.", file=sys.stderr)
    try:
        with nullcontext(sys.stdin) if file == "-" else Path(file).open(encoding="utf-8") as opened:
            text = opened.read(_MAX_TOKEN_FILE + 1)
    except UnicodeDecodeError:  # its message would quote the token
        raise ValueError(printable(f"--token-file {file}: the token is not UTF-8")) from None
    except OSError as error:
        raise ValueError(printable(f"--token-file {file}: cannot be read: {error.strerror}")) from None
    if len(text) > _MAX_TOKEN_FILE:
        raise ValueError(printable(f"--token-file {file}: is longer than {_MAX_TOKEN_FILE} characters"))
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError("a header must be written 'Name: value'")  # not quoted: it may be a credential
    return name.strip(), value.strip()


def _test(options: argparse.Namespace) -> int:
    """Returns 0 if all cases pass, 1 if some fail, 2 if a file could not be read or written."""
    from authz_service.config.load import load
    from authz_service.policy_tools import case_file, junit
    from authz_service.policy_tools.run_cases import CaseRunner
    from authz_service.terminal import Color

    unreadable: list[str] = []
    outcomes: dict[str, list[Outcome]] = {}
    try:
        settings = load(options.config, look_at_files=False)  # a pipeline has no secrets, and needs none
        runner = CaseRunner(settings)
    except ConfigError as error:
        _print_problems(error.problems, sys.stderr)
        return 2
    for file in options.cases:
        try:
            outcomes[str(file)] = _run_cases(runner, case_file.read(file, settings))
        except ConfigError as error:
            unreadable += error.problems
    if options.junit is not None:
        try:
            junit.write(options.junit, outcomes)
        except OSError as error:
            unreadable.append(printable(f"{options.junit}: cannot be written: {error.strerror}"))
    every = [outcome for of_file in outcomes.values() for outcome in of_file]
    failed = sum(not outcome.passed for outcome in every)
    print(Color(sys.stdout)("bad" if failed else "good", f"{len(every) - failed} passed, {failed} failed"))
    if unreadable:
        _print_problems(unreadable, sys.stderr)
        return 2
    return 1 if failed else 0


def _run_cases(runner: CaseRunner, cases: Iterable[Case]) -> list[Outcome]:
    """Run each case and print its result at once."""
    from authz_service.terminal import Color

    color, outcomes = Color(sys.stdout), []
    for case in cases:
        outcome = runner.run(case)
        outcomes.append(outcome)
        print(color("good", "pass") if outcome.passed else color("bad", "FAIL"), case.name)
        for line in outcome.differences:
            print(f"  {color({'-': 'bad', '+': 'good'}.get(line[0], 'dim'), line)}")
    return outcomes


def _schema(options: argparse.Namespace) -> int:
    import json

    if options.cases:
        from authz_service.policy_tools.cases import schema
    else:
        from authz_service.config.schema import schema

    print(json.dumps(schema(), indent=2))
    return 0


def _init(options: argparse.Namespace) -> int:
    from authz_service.initial_config.command import run

    run(
        options.issuer,
        options.audience,
        options.output,
        options.ca_file,
        force=options.force,
        allow_http=options.allow_http,
    )
    return 0


def _completion(options: argparse.Namespace) -> int:
    from authz_service.completion import script

    parser, commands = _parsers()
    print(script(_PROGRAM, parser, commands, options.shell), end="")
    return 0


def _healthcheck(options: argparse.Namespace) -> int:
    from authz_service.config.server import Server
    from authz_service.config.server_section import server_of
    from authz_service.transport.healthcheck import is_serving

    # Only the server section is read: a mistake elsewhere must not restart an instance that serves an older version.
    server = server_of(options.config) if options.config else Server()
    serving, answer = is_serving(server)
    print(answer)
    return 0 if serving else 1


def _demo(options: argparse.Namespace) -> int:
    try:
        from authz_service.demo.run import run
    except ModuleNotFoundError as missing:
        print(f"authz-service: the demo needs {missing.name}: pip install 'authz-service[demo]'", file=sys.stderr)
        return 1
    status: int = run(once=options.once)
    return status


def _version(_options: argparse.Namespace) -> int:
    python = sys.version.partition(" ")[0]
    print(f"authz-service {__version__}, Python {python}, transport {_DEFAULT_TRANSPORT}")
    return 0
