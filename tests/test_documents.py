"""The documents match the program."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from authz_service.cli import main
from authz_service.telemetry.issuer_metrics import SecurityEventType
from support.documents import DOCS, code, page, pages, section, tables, without_code, yaml_blocks

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "UPGRADING.md"),
    *("helm/README.md", "helm/authz-service/README.md", "examples/README.md", ".github/pull_request_template.md"),
]
GUIDES = [f"docs/{name}.md" for name in pages()]
SOURCES = "https://github.com/OWNER/REPOSITORY/"  # which release.yml replaces


def test_the_navigation_has_every_page_once() -> None:
    listed = re.findall(r'"([\w/-]+)\.md"', (ROOT / "zensical.toml").read_text())
    assert sorted(listed) == pages(), "list each page in the navigation of zensical.toml, once"


@pytest.mark.parametrize("document", [*DOCUMENTS, *GUIDES])
def test_every_file_and_anchor_in_a_document_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    for name in re.findall(r"`((?:authz_service|proto|tests|bench|helm|docker|docs)/[\w/.-]+)`", text):
        assert (ROOT / name).exists(), f"there is no {name}"
    for link, anchor in re.findall(r"\]\((?!https?:)([\w./-]*)(?:#([\w-]+))?\)", text):
        target = ((ROOT / document).parent / link if link else ROOT / document).resolve()
        assert target.exists(), f"there is no {link}"
        assert not anchor or anchor in anchors(target.read_text()), f"{link} has no heading #{anchor}"
        assert target.is_relative_to(DOCS) or document not in GUIDES, (
            f"{link} is not part of the site: link to {SOURCES}"
        )
    for link, anchor in re.findall(rf"{SOURCES}(?:blob|tree)/main/([\w./-]*)(?:#([\w-]+))?", text):
        assert (ROOT / link).exists(), f"there is no {link}"
        assert not anchor or anchor in anchors((ROOT / link).read_text()), f"{link} has no heading #{anchor}"


def anchors(text: str) -> set[str]:
    """The anchors of its headings."""
    headings = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# The pages with tables that name the tests of each row, and how many tables.
PROVED = {
    "reference/mcp-conformance": 1,
    "reference/security-events": 1,
    "understand/stolen-tokens": 1,
    "understand/threat-model": 7,
}
PROVED_ROWS = [
    pytest.param(row, id=f"{name}: {row[0]}")
    for name in pages()
    for table in tables(page(name))
    if table.head[-1] == "held by"
    for row in table.rows
]


def test_the_tables_that_name_tests_are_found() -> None:
    found = Counter(name for name in pages() for table in tables(page(name)) if table.head[-1] == "held by")
    assert found == PROVED


@pytest.mark.parametrize("row", PROVED_ROWS)
def test_a_row_that_names_tests_has_no_empty_cell_and_existing_tests(row: list[str]) -> None:
    assert all(row)
    *_, where, held = row
    named = code(held)
    assert ", ".join(f"`{name}`" for name in named) == held or (held == "—" and where.startswith("your part")), held
    missing = [name for name in named if name.partition("::")[2] not in defined_in(name.partition("::")[0])]
    assert missing == [], "these tests do not exist: name others that hold it"


SECURITY_EVENTS = page("reference/security-events")


def test_every_event_that_revokes_is_in_the_page_on_security_events() -> None:
    rows = [row for each in tables(section(SECURITY_EVENTS, "## What an event revokes")) for row in each.rows]
    documented = {name for row in rows if row[0].startswith(("CAEP `", "RISC `")) for name in code(row[0])}
    assert documented == set(get_args(SecurityEventType)) - {"verification", "stream-updated", "other", "rejected"}


MCP_CONFIGURATION = yaml_blocks("start/mcp")[0]


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


@cache
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
