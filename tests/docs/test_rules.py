"""The pages on rules: what they say of failing cases, of warnings, and of each requirement in their tables."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any, get_args

import pytest
import yaml

from authz_service.cli import main
from authz_service.config.model import Alternative, ClaimCondition, Encoding, Issuer, Match, Settings, UpstreamSettings
from authz_service.config.revocations import RevocationEntry
from authz_service.core.header_value import MAX_VALUE_BYTES
from authz_service.core.upstream_metadata import MAX_DEPTH, MAX_SIZE
from authz_service.policy_tools.cases import CaseProof, Expect
from authz_service.rules.policy import Rule
from authz_service.runtime.preflight import RESTART_ONLY
from support.documents import ROOT, blocks, code, page, section, table, tables

if TYPE_CHECKING:
    from pathlib import Path

SOURCES = [
    *(ROOT / "authz_service" / "config" / f"{name}.py" for name in ("warnings", "resource_warnings", "rule_order")),
    ROOT / "authz_service" / "runtime" / "certificate_warnings.py",
]


def config_of(name: str) -> str:
    (block,) = blocks(page(name), "yaml", "config.yaml")
    return block.text


def text_blocks(name: str) -> list[str]:
    return [block.text for block in blocks(page(name), "text")]


def snippets() -> list[str]:
    """What the tables of the guide say to write."""
    rows = [row for each in tables(page("how-to/write-rules")) for row in each.rows]
    return [text for row in rows for text in code(row[-1]) if re.match("[a-z_]+: ", text)]


@pytest.mark.parametrize("written", snippets())
def test_everything_that_the_tables_say_to_write_is_valid(
    written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = yaml.safe_load(written)
    rule: dict[str, Any] = {"name": "rule", "match": {"paths": ["/t/{tenant}/{name}/**"]}}
    named = sorted({"main", *part.get("issuers", ())})
    issuers = [{"issuer": f"https://{name}.example/", "name": name, "audiences": ["api"]} for name in named]
    whole: dict[str, Any] = {"issuers": issuers, "rules": [rule]}
    (key,) = part
    if key in Alternative.declared:
        rule["require"] = part
    elif key in Match.declared:
        rule["match"] |= part
    elif key in Issuer.declared:
        issuers[0] |= part
    else:
        assert key in Settings.declared
        whole |= part
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    assert main(["check-config", str(tmp_path / "config.yaml")]) == 0, capsys.readouterr().out


def test_a_failing_case_is_shown_as_in_the_guide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "how-to/test-rules"
    (tmp_path / "config.yaml").write_text(config_of(name).replace("claims: {tenant: {equals_path: tenant}}", ""))
    (tmp_path / "cases.yaml").write_text(blocks(page(name), "yaml", "cases.yaml")[0].text)
    assert main(["test", "--config", str(tmp_path / "config.yaml"), str(tmp_path / "cases.yaml")]) == 1
    assert text_blocks(name)[0] in capsys.readouterr().out


def test_a_warning_is_shown_as_in_the_guide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = '  - {name: tenants, match: {paths: ["/t/**"]}, access: public}\n'
    text = config_of("how-to/test-rules").replace("  - name: tenant-read", f"{earlier}  - name: tenant-read")
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    main(["check-config", "config.yaml"])
    (warning, _) = capsys.readouterr().out.splitlines(keepends=True)
    assert text_blocks("how-to/test-rules")[1] == text_blocks("reference/warnings")[0] == warning


def first_column(text: str, head: str) -> list[str]:
    """The code in the first column of the table with this heading."""
    return [each for first, *_ in table(text, head) for each in code(first)]


def test_the_order_of_evaluation_is_that_of_the_reference() -> None:
    parts = {
        "issuers": ["main"],
        "audiences": ["a"],
        "proof": "any",
        "clients": ["c"],
        "claims": {"a": 1},
        "scopes": ["s"],
    }
    login = {"max_auth_age": "1m", "acr_values": ["x"]}
    issuer = {"issuer": "https://idp.example/", "name": "main"}
    require = parts | {"any_of": [{"scopes": ["other"]}]} | login
    settings = Settings.read({"issuers": [issuer], "rules": [{"name": "all", "require": require}]})
    conditions = Rule(settings.rules[0], settings.issuers).conditions
    documented = table(section(page("reference/rules"), "## The order of evaluation"), "step")
    assert [code(key) for _, key, *_ in documented] == [[key] for key in (*parts, "any_of", *login)]
    assert [code(reason)[:1] for _, _, reason, *_ in documented] == [
        [] if each.name == "any_of" else [str(each.reason)] for each in conditions
    ]


def test_every_operator_and_every_key_of_a_case_is_documented() -> None:
    rules, cases = page("reference/rules"), page("how-to/test-rules")
    operators = [name for each in first_column(rules, "condition") for name in re.findall(r"\{(\w+):", each)]
    assert sorted(operators) == sorted(ClaimCondition.declared)
    assert sorted(first_column(cases, "`proof`")) == sorted(get_args(CaseProof))
    assert sorted(first_column(cases, "key")) == sorted(Expect.declared)


def test_every_part_of_a_revocation_and_every_key_that_needs_a_restart_is_documented() -> None:
    assert sorted(first_column(page("how-to/revocation"), "part of an entry")) == sorted(RevocationEntry.declared)
    (row,) = re.findall(r"^\| `server\.(.*) \| after a restart", page("how-to/change-configuration"), re.MULTILINE)
    named = [*re.findall(r"\w+(?=`)", row), *(["tls"] if "TLS files" in row else [])]
    assert named == list(RESTART_ONLY)


def test_the_page_on_identity_headers_has_the_defaults_encodings_and_limits_of_the_program() -> None:
    text = page("how-to/identity-headers")
    table = re.findall(r"^\| `(x-auth-\w+)` \|", text, re.MULTILINE)
    assert table == list(UpstreamSettings.read({}).headers)
    assert first_column(text, "`encoding`") == list(get_args(Encoding))
    assert f"more than {MAX_VALUE_BYTES:,} bytes" in text
    assert f"more than {MAX_SIZE // 1024} KiB, more than {MAX_DEPTH} levels" in text


# The warnings: what the functions that make them say.


def warnings_by_function() -> dict[str, str]:
    """The strings of each function that yields a problem."""
    found = {}
    for source in SOURCES:
        tree = ast.parse(source.read_bytes())
        constants = {
            node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        }
        for function in tree.body:
            if not isinstance(function, ast.FunctionDef) or not any(map(is_warning, ast.walk(function))):
                continue
            texts = [
                node.value
                for node in ast.walk(function)
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            ]
            found[f"{source.stem}.{function.name}"] = "\n".join([*texts, *constants])
    return found


def is_warning(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Yield) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "Problem"
    )


def documented_warnings() -> set[str]:
    """The fixed parts of the warnings in the tables: without what … stands for."""
    rows = [row for each in tables(page("reference/warnings")) for row in each.rows]
    return {max(text.split("…"), key=len).strip(" ,") for first, *_ in rows for text in code(first)}


def test_every_warning_is_documented_in_its_own_words() -> None:
    made, documented = warnings_by_function(), documented_warnings()
    foreign = (ROOT / "authz_service" / "core" / "patterns.py").read_text()
    existing = "\n".join([*made.values(), foreign])
    assert [each for each in sorted(documented) if each not in existing] == []
    hinted = {"warnings._foreign_patterns"}  # whose texts are in core.patterns
    undocumented = [name for name, text in made.items() if not any(each in text for each in documented)]
    assert [name for name in undocumented if name not in hinted] == []
