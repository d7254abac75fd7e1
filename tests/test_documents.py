"""The documents match the program."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

from authz_service.cli import main
from authz_service.telemetry.issuer_metrics import SecurityEventType
from support.documents import DOCS, page, pages, yaml_blocks

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "UPGRADING.md"),
    *("helm/README.md", "helm/authz-service/README.md", "examples/README.md", ".github/pull_request_template.md"),
]
GUIDES = [f"docs/{name}.md" for name in pages()]
SOURCES = "https://github.com/OWNER/REPOSITORY/"  # which release.yml replaces


@pytest.mark.parametrize("document", [*DOCUMENTS, *GUIDES])
def test_every_file_and_anchor_in_a_document_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    for name in re.findall(r"`((?:authz_service|proto|tests|bench|helm|docker|docs)/[\w/.-]+)`", text):
        assert (ROOT / name).exists(), name
    for link, anchor in re.findall(r"\]\((?!https?:)([\w./-]*)(?:#([\w-]+))?\)", text):
        target = ((ROOT / document).parent / link if link else ROOT / document).resolve()
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), f"{link}#{anchor}"
        assert target.is_relative_to(DOCS) or document not in GUIDES, (
            f"{link} is not part of the site: link to {SOURCES}"
        )
    for link, anchor in re.findall(rf"{SOURCES}(?:blob|tree)/main/([\w./-]*)(?:#([\w-]+))?", text):
        assert (ROOT / link).exists(), link
        assert not anchor or anchor in anchors((ROOT / link).read_text()), f"{link}#{anchor}"


def anchors(text: str) -> set[str]:
    """The anchors of its headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


THREATS = page("understand/threat-model")
THREATS_HEAD = "| threat | measure | held by |"
ACTORS = [part.partition("\n")[0] for part in THREATS.split("\n## ") if f"\n{THREATS_HEAD}\n" in part]


def threats(actor: str) -> list[tuple[str, str, str]]:
    """The rows of an actor's table: threat, measure and tests."""
    section = THREATS.partition(f"\n## {actor}\n")[2].partition("\n## ")[0]
    heading, rule, *rows = [line for line in section.splitlines() if line.startswith("|")]
    assert (heading, rule) == (THREATS_HEAD, "|---|---|---|")
    return [(threat, measure, held) for _, threat, measure, held, _ in (re.split(r" ?\| ?", row) for row in rows)]


def test_every_attacker_of_the_threat_model_has_a_table() -> None:
    assert len(ACTORS) == THREATS.count(THREATS_HEAD) >= 7


@pytest.mark.parametrize("actor", ACTORS)
def test_every_threat_has_a_measure_and_existing_tests(actor: str) -> None:
    rows = threats(actor)
    assert rows
    for threat, measure, held in rows:
        assert threat
        assert measure
        named = re.findall(r"`([^`]+)`", held)
        assert ", ".join(f"`{name}`" for name in named) == held, held
        assert named, threat
        missing = [name for name in named if name.partition("::")[2] not in defined_in(name.partition("::")[0])]
        assert missing == []


STOLEN_TOKENS = page("understand/stolen-tokens")


def test_every_check_of_a_proof_has_existing_tests() -> None:
    section = STOLEN_TOKENS.partition("\n## How a proof is verified\n")[2].partition("\nAlso refused:\n")[0]
    _, _, *rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) == 13
    for row in rows:
        named = re.findall(r"`(tests/[^`]+)`", row.rpartition(" | ")[2])
        assert named, row
        missing = [name for name in named if name.partition("::")[2] not in defined_in(name.partition("::")[0])]
        assert missing == []


SECURITY_EVENTS = page("reference/security-events")


def test_every_event_that_revokes_is_in_the_page_on_security_events() -> None:
    section = SECURITY_EVENTS.partition("\n## What an event revokes\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if re.match(r"\| (CAEP|RISC) `", line)]
    documented = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])}
    assert documented == set(get_args(SecurityEventType)) - {"verification", "stream-updated", "other", "refused"}


def test_every_check_of_a_security_event_has_existing_tests() -> None:
    section = SECURITY_EVENTS.partition("\n## How a SET is verified\n")[2]
    _, _, *rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) == 8
    for row in rows:
        named = re.findall(r"`(tests/[^`]+)`", row.rpartition(" | ")[2])
        assert named, row
        missing = [name for name in named if name.partition("::")[2] not in defined_in(name.partition("::")[0])]
        assert missing == []


MCP_CONFIGURATION = yaml_blocks("start/mcp")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [(MCP_CONFIGURATION, 0), (yaml_blocks("how-to/mcp-providers")[0], 1)],
    ids=["guide", "entra"],
)
def test_the_configurations_for_mcp_servers_are_valid_and_without_warnings_but_for_the_audience_of_entra_id(
    text: str, expected: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    assert main(["check-config", str(config)]) == 0
    *warnings, valid = capsys.readouterr().out.splitlines()
    assert valid == f"{config}: valid"
    assert [re.sub(".* accepts", "accepts", each)[:18] for each in warnings] == ["accepts tokens for"] * expected


def test_the_rules_for_each_tool_are_those_of_the_example() -> None:
    (rules,) = yaml_blocks("how-to/mcp-tools")
    assert rules in (ROOT / "examples" / "mcp" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("method", "url", "hosts", "quoted"),
    [
        ("POST", "https://orders.shop.svc/mcp", "", "none has this host and path, so challenges name no metadata"),
        ("POST", "https://orders.shop.svc/mcp", "mcp.example.com", "the host is not mcp.example.com"),
        ("POST", "https://mcp.example.com/orders/mcp", "mcp.example.com", "the path is not /mcp"),
        (
            *("GET", "https://mcp.example.com/.well-known/oauth-protected-resource", "mcp.example.com"),
            "none has its metadata at this host and path",
        ),
        ("OPTIONS", "https://mcp.example.com/mcp", "mcp.example.com", "missing_token: no Authorization header"),
        (
            *("GET", "https://mcp.example.com/.well-known/oauth-protected-resource/mcp", "mcp.example.com"),
            "of a protected resource: answered here, without a token",
        ),
    ],
)
def test_explain_prints_what_the_troubleshooting_of_mcp_quotes(
    method: str, url: str, hosts: str, quoted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(MCP_CONFIGURATION if hosts else MCP_CONFIGURATION.replace("hosts: [mcp.example.com], ", ""))
    main(["explain", "--config", str(config), "--method", method, "--url", url])
    assert quoted in capsys.readouterr().out
    assert f"`{quoted}`" in page("how-to/mcp-logins")


def test_every_requirement_of_mcp_has_existing_tests_or_is_the_operators_part() -> None:
    _, _, *rows = [line for line in page("reference/mcp-conformance").splitlines() if line.startswith("|")]
    assert len(rows) >= 18
    for row in rows:
        where, _, held = row.removesuffix(" |").rpartition(" | ")
        named = re.findall(r"`(tests/[^`]+)`", held)
        assert ", ".join(f"`{name}`" for name in named) == held or (held == "—" and "| your part" in where), row
        missing = [name for name in named if name.partition("::")[2] not in defined_in(name.partition("::")[0])]
        assert missing == []


def defined_in(file: str) -> set[str]:
    """The test ids without the file: ``test_x`` or ``TestY::test_x``."""
    tree = ast.parse((ROOT / file).read_bytes())
    places = [("", tree.body), *((f"{node.name}::", node.body) for node in tree.body if isinstance(node, ast.ClassDef))]
    return {
        place + node.name
        for place, body in places
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }
