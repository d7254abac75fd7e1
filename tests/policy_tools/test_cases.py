"""The command ``test``: cases are read strictly, decided by the sidecar's code, and reported without tokens."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.cli import main
from authz_service.config.model import Settings
from authz_service.core.reasons import Reason
from authz_service.policy_tools.cases import Cases
from authz_service.policy_tools.run_cases import CaseRunner
from support.signing import ML_DSA
from support.trust import ISSUER, OTHER

if TYPE_CHECKING:
    from pathlib import Path

RULES: list[dict[str, Any]] = [
    {"name": "health", "match": {"paths": ["/healthz"]}, "access": "public"},
    {
        "name": "tenant",
        "match": {"methods": ["GET"], "paths": ["/t/{tenant}/**"], "headers": {"x-v": "2"}},
        "require": {"scopes": ["read:{tenant}"], "issuers": ["main"]},
    },
    {"name": "pay", "match": {"paths": ["/pay"]}, "require": {"max_auth_age": "15m"}},
    {"name": "watched", "match": {"paths": ["/watched"]}, "mode": "shadow", "require": {"scopes": ["admin"]}},
    {"name": "routed", "policy": "billing", "require": {"audiences": ["billing"]}},
    {"name": "elsewhere", "match": {"paths": ["/elsewhere"]}, "credential": {"header": "x-jwt"}},
]


def configuration(**changes: Any) -> dict[str, Any]:
    main_issuer = {"issuer": ISSUER, "name": "main", "audiences": ["api"]}
    return {
        "upstream": {"metadata": {"tenant": "tenant", "groups": "groups"}},
        "issuers": [main_issuer | changes, {"issuer": OTHER, "name": "other", "audiences": ["other"]}],
        "rules": RULES,
    }


def differences(case: dict[str, Any], **changes: Any) -> tuple[str, ...]:
    """What is not as the case expects."""
    runner = CaseRunner(Settings.read(configuration(**changes)))
    (only,) = Cases.read({"cases": [{"name": "case"} | case]}).cases
    return runner.run(only).differences


def request(path: str = "/pay", **others: Any) -> dict[str, Any]:
    return {"url": f"https://api.example{path}"} | others


def token(issuer: str = "main", **others: Any) -> dict[str, Any]:
    return {"issuer": issuer, "auth_time": "-1m"} | others


def test_a_case_can_expect_the_metadata_of_a_resource() -> None:
    resources = [{"resource": "https://api.example/pay"}, {"resource": "https://api.example/watched"}]
    runner = CaseRunner(Settings.read(configuration() | {"resources": resources}))
    path = "/.well-known/oauth-protected-resource"
    answer = {"decision": "answer", "status": 200, "reason": "resource_metadata", "rule": "-", "mode": "enforce"}
    url = f"https://api.example{path}/pay"
    cases: list[dict[str, Any]] = [
        {"request": request(f"{path}/pay"), "expect": answer},
        {"request": request(f"{path}/pay"), "token": "no token", "expect": answer | {"challenge": None}},
        {"request": request(f"{path}/watched", method="OPTIONS"), "expect": answer},
        {"request": request(f"{path}/pay", method="POST"), "expect": {"decision": "deny", "reason": "no_rule"}},
        {"request": {"url": f"https://evil.example{path}/pay"}, "expect": {"decision": "deny", "reason": "no_rule"}},
        {"request": request(), "expect": {"challenge": f'Bearer realm="api", resource_metadata="{url}"'}},
        {"request": request("/watched"), "expect": {"decision": "allow", "reason": "missing_token"}},
    ]
    named = Cases.read({"cases": [{"name": str(place)} | case for place, case in enumerate(cases)]})
    assert [runner.run(case).differences for case in named.cases] == [()] * len(cases)
    (wrong,) = Cases.read({"cases": [{"name": "wrong"} | cases[0] | {"expect": {"decision": "deny"}}]}).cases
    assert runner.run(wrong).differences == ("- decision: deny", "+ decision: answer")


TENANT = request("/t/acme/a", headers={"X-V": "2"})


@pytest.mark.parametrize(
    "case",
    [
        {"request": request("/healthz"), "expect": {"decision": "allow", "rule": "health", "reason": "public"}},
        {"request": request("/healthz", method="get"), "expect": {"reason": "no_rule", "rule": "-"}},
        {"request": request("/t/%2e%2e/"), "expect": {"decision": "deny", "status": 400, "reason": "ambiguous_path"}},
        {"request": request(), "expect": {"status": 401, "challenge": 'Bearer realm="api"'}},
        {"request": request("/healthz"), "expect": {"challenge": None}},
        {"request": request(), "token": token(), "expect": {"decision": "allow", "reason": "ok", "mode": "enforce"}},
        {"request": request(), "token": token(auth_time="-1h"), "expect": {"reason": "stale_authentication"}},
        {"request": request(), "token": token(auth_time=None), "expect": {"reason": "stale_authentication"}},
        {"request": request(), "token": token(exp="-1m"), "expect": {"reason": "expired"}},
        {"request": request(), "token": token(exp="250ms"), "expect": {"reason": "ok"}},
        {"request": request(), "token": token(nbf="+1h"), "expect": {"reason": "not_yet_valid"}},
        {"request": request(), "token": token(exp=1), "expect": {"reason": "expired"}},
        {"request": request(), "token": token(exp="soon"), "expect": {"reason": "invalid_claim"}},
        {"request": request("/elsewhere"), "token": token(), "expect": {"decision": "allow", "rule": "elsewhere"}},
        {
            "request": request("/elsewhere", headers={"authorization": "Bearer x"}),
            "expect": {"reason": "missing_token"},
        },
        {"request": request("//"), "token": token(), "expect": {"reason": "ambiguous_path"}},
        {
            "request": request(),
            "token": token(tenant="acme", groups=[1]),
            "expect": {"metadata": {"tenant": "acme", "groups": [1]}},
        },
        {"request": request(), "token": token(exp=None), "expect": {"reason": "missing_claim"}},
        {"request": request(), "token": token(aud="x"), "expect": {"reason": "wrong_audience"}},
        {"request": request(), "token": token(aud=None), "expect": {"reason": "wrong_audience"}},
        {"request": request(), "token": token(iss="https://x/"), "expect": {"reason": "unknown_issuer"}},
        {"request": request(), "token": token(nonce="n"), "expect": {"reason": "id_token"}},
        {"request": request(), "token": token(header={"typ": "JWT"}), "expect": {"reason": "ok"}},
        {"request": request(), "token": token(header={"typ": None}), "expect": {"reason": "ok"}},
        {"request": request(), "token": token(header={"typ": "logout+jwt"}), "expect": {"reason": "wrong_token_type"}},
        {"request": request(), "token": token(header={"kid": "gone"}), "expect": {"reason": "unknown_key"}},
        {"request": request(), "token": token(header={"alg": "none"}), "expect": {"reason": "unsupported_algorithm"}},
        {"request": request(), "token": token(signed_by="stranger"), "expect": {"reason": "bad_signature"}},
        {"request": request(), "token": "not.a.token", "expect": {"reason": "malformed_token"}},
        {"request": request(), "token": "", "expect": {"reason": "malformed_request"}},
        {"request": request(), "token": token("other"), "expect": {"decision": "allow"}},
        {"request": TENANT, "token": token("other"), "expect": {"reason": "issuer_not_allowed"}},
        {"request": TENANT, "token": token(), "expect": {"status": 403, "reason": "insufficient_scope"}},
        {
            "request": TENANT,
            "token": token(scope="read:acme", sub="u1"),
            "expect": {"upstream": {"X-Auth-Subject": "u1", "x-auth-scopes": "read:acme", "x-auth-client": None}},
        },
        {
            "request": request("/watched"),
            "expect": {"decision": "allow", "reason": "missing_token", "mode": "shadow", "upstream": {"x": None}},
        },
        {"request": request(policy="billing"), "expect": {"rule": "pay"}},
        {"request": request("/x", policy="billing"), "token": token(aud="billing"), "expect": {"rule": "routed"}},
        {"request": request("/x", policy="none"), "expect": {"reason": "no_rule"}},
    ],
    ids=lambda case: json.dumps(case)[:100],
)
def test_a_case_with_the_expected_decision_passes(case: dict[str, Any]) -> None:
    assert differences(case) == ()


@pytest.mark.parametrize(
    "algorithm", ["RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "Ed448", *ML_DSA]
)
def test_a_token_is_signed_with_an_algorithm_of_the_issuer(algorithm: str) -> None:
    case = {"request": request(), "token": token(), "expect": {"reason": "ok"}}
    assert differences(case, algorithms=[algorithm]) == ()


@pytest.mark.parametrize(
    ("changes", "token_keys"),
    [
        ({"audience_claims": ["client_id"]}, {}),
        ({"audience_claims": ["client_id"], "audiences": ["app"]}, {"client_id": "app"}),
        ({"audience_claims": ["cluster.audiences"]}, {}),
        ({"access_token_profile": "rfc9068"}, {}),
        ({"max_token_age": "1h"}, {}),
        ({"keys": {"jwks_file": "/none/such.json", "ca_file": "/none/such.pem"}}, {}),
        ({"keys": {"snapshot_file": "/none/such.json"}}, {}),
    ],
)
def test_a_token_is_valid_by_default(changes: dict[str, Any], token_keys: dict[str, Any]) -> None:
    assert (
        differences({"request": request(), "token": token(**token_keys), "expect": {"reason": "ok"}}, **changes) == ()
    )


@pytest.mark.parametrize(
    ("changes", "token_keys", "reason"),
    [
        ({}, {}, "ok"),
        ({}, {"tid": "acme"}, "ok"),
        ({"tenants": ["acme"]}, {}, "ok"),
        ({"tenants": ["acme"]}, {"tid": "other"}, "unknown_issuer"),
        ({}, {"tid": "acme", "iss": "https://login.example/other"}, "invalid_claim"),
        ({}, {"iss": "https://login.example/a/b"}, "unknown_issuer"),
    ],
)
def test_a_token_of_an_issuer_template_is_that_of_its_tid_or_first_tenant(
    changes: dict[str, Any], token_keys: dict[str, Any], reason: str
) -> None:
    template = {"issuer": "https://login.example/{t}", "keys": {"jwks_uri": "https://login.example/keys"}}
    case = {"request": request(), "token": token(**token_keys), "expect": {"reason": reason}}
    assert differences(case, **template, **changes) == ()


def test_the_default_audience_may_come_from_the_first_rule_that_accepts_the_issuer() -> None:
    rules = [
        {"name": "theirs", "match": {"paths": ["/a"]}, "require": {"issuers": ["other"], "audiences": ["x"]}},
        {"name": "ours", "match": {"paths": ["/b"]}, "require": {"audiences": ["y", "z"]}},
    ]
    parts = configuration() | {"rules": rules}
    del parts["issuers"][0]["audiences"]
    runner = CaseRunner(Settings.read(parts))
    (case,) = Cases.read(
        {"cases": [{"name": "b", "request": request("/b"), "token": token(), "expect": {"reason": "ok"}}]}
    ).cases
    assert runner.run(case).passed


def test_differences_are_reported_line_by_line_with_the_cause() -> None:
    expect = {
        "decision": "allow", "rule": "health", "status": 200, "reason": "ok", "mode": "shadow", "challenge": None,
        "upstream": {"x-auth-subject": "u1"}, "metadata": {"tenant": ["a"]},
    }  # fmt: skip
    assert differences({"request": request(), "expect": expect}) == (
        "- decision: allow", "+ decision: deny", "- rule: health", "+ rule: pay", "- status: 200", "+ status: 401",
        "- reason: ok", "+ reason: missing_token", "- mode: shadow", "+ mode: enforce",
        "- challenge: none", '+ challenge: Bearer realm="api"',
        "- upstream x-auth-subject: u1", "+ upstream x-auth-subject: none",
        "- metadata tenant: ['a']", "+ metadata tenant: none",
        "  cause: no Authorization header",
    )  # fmt: skip


# The command.


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.config.write_text(json.dumps(configuration(keys={"jwks_file": "not-here.json"})))

    def cases(self, *cases: dict[str, Any], name: str = "cases.yaml") -> str:
        numbered = [{"name": f"case {place}"} | case for place, case in enumerate(cases)]
        (self.folder / name).write_text(json.dumps({"cases": numbered}))
        return str(self.folder / name)

    def run(self, *arguments: str) -> int:
        return main(["test", "--config", str(self.config), *arguments])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_terminal_control_characters_in_a_case_are_escaped(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    expect = {"challenge": "\x1b[2J\n::error::\u202e", "upstream": {"x\x1b[1m\n": "\x9b5m"}}
    file = place.cases({"request": request("/healthz"), "expect": expect}, name="\x1b[2J.yaml")
    report = place.folder / "report.xml"
    assert place.run(file, "--junit", str(report)) == 1
    assert capsys.readouterr().out == (
        "FAIL case 0\n  - challenge: \\x1b[2J\\n::error::\\u202e\n  + challenge: none\n"
        "  - upstream x\\x1b[1m\\n: \\x9b5m\n  + upstream x\\x1b[1m\\n: none\n0 passed, 1 failed\n"
    )
    (place.folder / "\x1b[2J.yaml").write_text("cases: 7")
    assert place.run(file) == 2
    assert "\x1b" not in "".join(capsys.readouterr())


GOOD = {"request": request("/healthz"), "expect": {"decision": "allow"}}
BAD = {"request": request("/healthz"), "token": "s3cret-token", "expect": {"reason": "ok"}}


def test_each_case_has_a_line_and_the_last_has_the_totals(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run(place.cases(GOOD)) == 0
    assert capsys.readouterr().out == "pass case 0\n1 passed, 0 failed\n"
    assert place.run(place.cases(GOOD, BAD), place.cases(GOOD, name="more.yaml")) == 1
    assert capsys.readouterr().out == (
        "pass case 0\nFAIL case 1\n  - reason: ok\n  + reason: public\npass case 0\n2 passed, 1 failed\n"
    )


def test_a_junit_report_is_written(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    report = place.folder / "report.xml"
    assert place.run("--junit", str(report), place.cases(GOOD, BAD | {"name": 'a <b> & "c" é'})) == 1
    (suite,) = ET.fromstring(report.read_text("utf-8"))  # noqa: S314 - our own
    assert {key: suite.attrib[key] for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "2", "failures": "1", "errors": "0", "skipped": "0",
    }  # fmt: skip
    good, bad = suite
    assert (good.attrib["name"], len(good)) == ("case 0", 0)
    assert bad.attrib["name"] == 'a <b> & "c" é'
    assert bad[0].text == "- reason: ok\n+ reason: public"
    assert "s3cret" not in report.read_text() + capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_an_error(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run("--junit", str(place.folder / "none" / "report.xml"), place.cases(GOOD)) == 2
    output = capsys.readouterr()
    assert "1 passed, 0 failed" in output.out
    assert "cannot be written: No such file or directory" in output.err


def test_every_mistake_in_a_file_of_cases_is_reported_and_the_other_files_run(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = place.folder / "wrong.yaml"
    wrong.write_text(
        """cases:
  - name: a
    request: {urll: x, url: /relative}
    token: {sub: x}
    expect: {}
  - name: b
    request: {url: "https://a/"}
    expect: {status: "401", decisoin: allow}
    token: [x]
    extra: 1
"""
    )
    assert place.run(str(wrong), place.cases(GOOD)) == 2
    output = capsys.readouterr()
    assert "1 passed, 0 failed" in output.out
    assert [line.removeprefix(f"{wrong}:") for line in output.err.splitlines()] == [
        "3: cases[0].request.url: the URL must be absolute: write https://host/path",
        "3: cases[0].request.urll: is not a key here: did you mean url?",
        "4: cases[0].token: needs an issuer: write the name of a configured issuer",
        "5: cases[0].expect: expects nothing: write at least a decision",
        "8: cases[1].expect.status: must be a whole number, not the string '401': write it without quotes",
        "8: cases[1].expect.decisoin: is not a key here: did you mean decision?",
        "9: cases[1].token: must be a mapping of claims, or a string to send unchanged",
        "10: cases[1].extra: is not a key here: write one of name, request, token, proof, expect",
    ]


def test_unknown_issuers_rules_and_reasons_are_reported(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    case = {"name": "a", "request": request(), "token": {"issuer": "mian"}, "expect": {"rule": "helth"}}
    assert place.run(place.cases(case, case | {"expect": {"reason": "missing", "metadata": {"org": 1}}})) == 2
    problems = [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert problems == [
        "cases[0].token.issuer: no issuer is named mian: did you mean main?",
        "cases[0].expect.rule: no rule is named helth: did you mean health?",
        "cases[1].name: cases[0] has the same name: give each case its own name",
        "cases[1].token.issuer: no issuer is named mian: did you mean main?",
        "cases[1].expect.metadata.org: is not in upstream.metadata: add it there, or remove it here",
        "cases[1].expect.reason: 'missing' is not a reason: did you mean missing_token?",
    ]


@pytest.mark.parametrize("content", [None, b"", b"cases: []", b"cases: [", b"\xff", b"a: 1"])
def test_a_missing_file_is_unreadable(place: Place, capsys: pytest.CaptureFixture[str], content: bytes | None) -> None:
    file = place.folder / "cases.yaml"
    if content is not None:
        file.write_bytes(content)
    assert place.run(str(file)) == 2
    assert capsys.readouterr().err.startswith(f"{file}:1: ")


def test_no_case_runs_with_an_invalid_configuration(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.config.write_text("rules: 7\n")
    assert place.run(place.cases(GOOD)) == 2
    assert "rules: must be a list" in capsys.readouterr().err


def test_every_reason_can_be_expected() -> None:
    for reason in Reason:
        parts = {"name": "a", "request": request(), "expect": {"reason": str(reason)}}
        assert Cases.read({"cases": [parts]}).cases[0].expect.reason == reason


def test_on_a_terminal_lines_are_colored(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    assert place.run(place.cases(GOOD, BAD)) == 1
    assert "\x1b[32mpass\x1b[0m case 0" in terminal.getvalue()
    assert "\x1b[31m- reason: ok\x1b[0m" in terminal.getvalue()
