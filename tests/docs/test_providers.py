"""The pages of identity providers show the configurations and cases of the examples, and tokens that they decide."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
import yaml

from authz_service.cli import main
from authz_service.config.load import load
from authz_service.config.model import Keys
from authz_service.core.reasons import Reason
from authz_service.initial_config.text import configuration
from authz_service.policy_tools.cases import Case
from authz_service.policy_tools.run_cases import CaseRunner
from support import offline
from support.console import printed
from support.documents import DOCS, ROOT, blocks, page, section
from support.fake_introspection import FakeClient, IntrospectingAuthorizer
from support.published import EVERYTHING
from support.signing import Signer
from support.trust import ISSUER, NOW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXAMPLES: Final = ROOT / "examples"
# The examples of each page, in the order of its configurations.
PAGES: Final = {
    "auth0": ["auth0"],
    "authentik": ["authentik"],
    "ci-jobs": ["github-actions", "gitlab-ci"],
    "cloudflare-access": ["cloudflare-access"],
    "cognito": ["cognito"],
    "dex": ["dex"],
    "entra-id": ["entra-id"],
    "google": ["google", "google-iap"],
    "keycloak": ["keycloak"],
    "okta": ["okta"],
    "spiffe": ["spiffe"],
    "static-keys": ["static-key"],
    "zitadel": ["zitadel"],
}
INDEX: Final = page("how-to/providers/index")


def provider_page(name: str) -> str:
    return page(f"how-to/providers/{name}")


class Shown(NamedTuple):
    """A configuration of a page, with the cases below it."""

    example: str
    configuration: str
    cases: list[dict[str, Any]]


def shown_in(name: str) -> list[Shown]:
    yamls = blocks(provider_page(name), "yaml")
    configurations = [block.text for block in yamls if block.title == "config.yaml"]
    cases = [yaml.safe_load(block.text)["cases"] for block in yamls if block.title == "cases.yaml"]
    return [Shown(*each) for each in zip(PAGES[name], configurations, cases, strict=True)]


SHOWN: Final = [pytest.param(shown, id=shown.example) for name in PAGES for shown in shown_in(name)]


def test_every_provider_has_a_page_that_the_index_lists_twice() -> None:
    names = {file.stem for file in (DOCS / "how-to" / "providers").iterdir()} - {"index"}
    assert names == set(PAGES)
    table = section(INDEX, "## The providers")
    assert {name for name in PAGES if f"]({name}.md" not in table} == set()
    first, second = (each.partition("\n\n")[0].splitlines() for each in re.split(r"\n\|(?:-+\|)+\n", table)[1:])
    assert len(first) == len(PAGES) + 2  # two of Google, and Kubernetes
    listed = {name for row in second for name in re.split(", | and ", row.split(" | ")[0].strip("| "))}
    assert {"Keycloak", "Dex", "SPIFFE", "CI jobs"} <= listed


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_have_the_same_parts(name: str) -> None:
    headings = re.findall(r"^## (.*)$", provider_page(name), re.MULTILINE)
    assert [heading.partition(" ")[0] for heading in headings if heading[0].isdigit()][:4] == ["1.", "2.", "3.", "4."]
    assert "What goes wrong" in headings
    assert headings[-1] == "Beyond bearer tokens"


@pytest.mark.parametrize("shown", SHOWN)
def test_a_page_shows_the_configuration_of_its_example(shown: Shown) -> None:
    example = (EXAMPLES / shown.example / "config.yaml").read_text()
    head, _, rest = example.partition("\nissuers:\n")
    assert shown.configuration == f"issuers:\n{rest}"
    (name,) = [name for name, examples in PAGES.items() if shown.example in examples]
    assert f"docs/how-to/providers/{name}.md" in head


@pytest.mark.parametrize("shown", SHOWN)
def test_the_cases_of_a_page_are_some_of_its_example(shown: Shown) -> None:
    cases = yaml.safe_load((EXAMPLES / shown.example / "cases.yaml").read_text())["cases"]
    assert [case["name"] for case in shown.cases if case not in cases] == []
    decisions = {case["expect"]["decision"] for case in shown.cases}
    assert decisions == {"allow", "deny"}


def tokens() -> Iterator[Any]:
    """The tokens in pages: page, example, title and claims. Its issuer tells the example."""
    for name, examples in PAGES.items():
        for block in blocks(provider_page(name), "json"):
            claims = json.loads(block.text)
            issuers = {each: load(EXAMPLES / each / "config.yaml", look_at_files=False).issuers[0] for each in examples}
            (example,) = [each for each, issuer in issuers.items() if issuer.issuer == claims["iss"]]
            yield pytest.param(name, example, block.title, claims, id=f"{example}: {block.title}")


@pytest.mark.parametrize(("name", "example", "title", "claims"), list(tokens()))
def test_the_tokens_of_a_page_are_decided_as_it_says(
    name: str, example: str, title: str, claims: dict[str, Any]
) -> None:
    settings = load(EXAMPLES / example / "config.yaml", look_at_files=False)
    (shown,) = [each for each in shown_in(name) if each.example == example]
    request = next(case["request"] for case in shown.cases if case["expect"]["decision"] == "allow")
    expected: dict[str, Any] = {"decision": "allow"}
    if title == "ID token":
        before = provider_page(name).partition('```json title="ID token"')[0].split("\n\n")[-2]
        (reason,) = re.findall(r"denied\b[^`]*? with `(\w+)`", before)
        expected = {"decision": "deny", "status": 401, "reason": reason}
    case = {"name": title, "request": request, "expect": expected}
    header = {"typ": "JWT"} if title == "ID token" else {}
    case["token"] = {"issuer": settings.issuers[0].label, "header": header, **claims}
    assert CaseRunner(settings).run(Case.read(case)).differences == ()


def test_only_providers_with_id_tokens_show_none() -> None:
    without = {name for name in PAGES if not blocks(provider_page(name), "json", "ID token")}
    assert without == {"ci-jobs", "cloudflare-access", "spiffe"}
    assert all(blocks(provider_page(name), "json", "access token") for name in PAGES)


@pytest.mark.parametrize("name", [*PAGES, "../tenants", "../introspection", "../proxies", "../token-header"])
def test_the_reasons_of_what_goes_wrong_exist(name: str) -> None:
    rows = section(provider_page(name), "## What goes wrong").splitlines()
    assert rows[1:3] in (["| reason | cause | do |", "|---|---|---|"], ["| you see | cause | do |", "|---|---|---|"])
    causes = [row.split(" | ")[0] for row in rows[3:] if row.startswith("|")]
    named = {reason for cause in causes for reason in re.findall(r"`([a-z]+_[a-z_]+)`", cause)}
    others = {"invalid_dpop_proof", "invalid_scope"}  # errors of providers
    assert named - others <= {reason.value for reason in Reason}
    assert named or name == "../proxies"


# The causes of "What goes wrong": the example, changes of its issuer, and of the page's access token and its header.
MISTAKES: Final[list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], str]]] = [
    ("keycloak", {}, {"aud": "account"}, {}, "wrong_audience"),
    ("keycloak", {"access_token_profile": "rfc9068"}, {"client_id": None}, {}, "missing_claim"),
    ("auth0", {}, {"iss": "https://example.eu.auth0.com"}, {}, "unknown_issuer"),
    ("auth0", {}, {"aud": "https://orders.example.com"}, {}, "wrong_audience"),
    ("auth0", {}, {"permissions": None}, {}, "insufficient_scope"),
    ("auth0", {}, {}, {"alg": "HS256"}, "unsupported_algorithm"),
    ("okta", {}, {"iss": "https://example.okta.com"}, {}, "unknown_issuer"),
    ("okta", {}, {"scp": ["openid"]}, {}, "insufficient_scope"),
    ("okta", {}, {"iat": "-2h"}, {}, "too_old"),
    ("entra-id", {}, {"aud": "api://3b2a7c64-7d8e-4a53-8f43-9a0c3f5f1d20"}, {}, "wrong_audience"),
    ("entra-id", {}, {"azp": "3b2a7c64-7d8e-4a53-8f43-9a0c3f5f1d20"}, {"typ": "JWT"}, "id_token"),
    ("google", {}, {"email": None}, {}, "missing_claim"),
    ("google", {}, {"aud": "https://other.example.com"}, {}, "wrong_audience"),
    ("cognito", {"audience_claims": ["aud"]}, {"aud": None}, {}, "wrong_audience"),
    ("cognito", {}, {"client_id": "7abcdefbilling"}, {}, "wrong_audience"),
    ("cognito", {}, {"scope": "read"}, {}, "insufficient_scope"),
    ("zitadel", {}, {"aud": ["345377791925026818"]}, {}, "wrong_audience"),
    ("zitadel", {}, {"urn:zitadel:iam:org:project:344374183645413380:roles": None}, {}, "claim_mismatch"),
    ("authentik", {}, {"iss": "https://authentik.example.com/"}, {}, "unknown_issuer"),
    ("authentik", {"id_token_markers": ["nonce", "at_hash"]}, {}, {}, "id_token"),
    ("authentik", {}, {}, {"alg": "HS256"}, "unsupported_algorithm"),
    ("authentik", {}, {"groups": None}, {}, "claim_mismatch"),
    ("dex", {}, {"azp": None}, {}, "missing_claim"),
    ("dex", {"id_token_markers": ["nonce", "at_hash"]}, {}, {}, "id_token"),
    ("dex", {}, {"groups": None}, {}, "claim_mismatch"),
    ("cloudflare-access", {}, {"aud": ["4714c135"]}, {}, "wrong_audience"),
    ("cloudflare-access", {}, {"email": None}, {}, "claim_mismatch"),
    ("github-actions", {}, {"aud": "https://github.com/octo-org"}, {}, "wrong_audience"),
    ("github-actions", {}, {"environment": None}, {}, "claim_mismatch"),
    ("github-actions", {}, {"repository_owner_id": 4914}, {}, "claim_mismatch"),
    ("spiffe", {}, {"iss": None}, {}, "unknown_issuer"),
    ("spiffe", {}, {"aud": ["spiffe://prod.example.org/payments"]}, {}, "wrong_audience"),
    ("static-key", {}, {}, {"alg": "RS256"}, "unsupported_algorithm"),
    ("static-key", {}, {}, {"typ": "at+jwt"}, "wrong_token_type"),
]


@pytest.mark.parametrize(
    ("example", "settings", "claims", "header", "reason"),
    [pytest.param(*each, id=f"{each[0]}: {each[4]} {number}") for number, each in enumerate(MISTAKES)],
)
def test_a_mistake_has_the_reason_in_what_goes_wrong(
    example: str, settings: dict[str, Any], claims: dict[str, Any], header: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    whole = yaml.safe_load((EXAMPLES / example / "config.yaml").read_text())
    whole["issuers"][0] |= settings
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(whole))
    changed = load(tmp_path / "config.yaml", look_at_files=False)
    (name,) = [name for name, examples in PAGES.items() if example in examples]
    shown = next(
        block for block in blocks(provider_page(name), "json", "access token") if f'"{iss_of(whole)}"' in block.text
    )
    request = next(
        case["request"]
        for each in shown_in(name)
        if each.example == example
        for case in each.cases
        if case["expect"]["decision"] == "allow"
    )
    token = {"issuer": changed.issuers[0].label, "header": header, **json.loads(shown.text), **claims}
    case = {"name": reason, "request": request, "token": token, "expect": {"decision": "deny", "reason": reason}}
    assert CaseRunner(changed).run(Case.read(case)).differences == ()
    assert f"`{reason}`" in section(provider_page(name), "## What goes wrong")


def iss_of(configuration: dict[str, Any]) -> str:
    return str(configuration["issuers"][0]["issuer"])


# What other programs do with the files and commands of the pages.


def test_the_audience_of_dex_is_a_client_that_trusts_those_of_the_rule() -> None:
    (dex,) = [yaml.safe_load(block.text) for block in blocks(provider_page("dex"), "yaml", "dex.yaml")]
    settings = load(EXAMPLES / "dex" / "config.yaml", look_at_files=False)
    (issuer,) = settings.issuers
    assert issuer.issuer == dex["issuer"]
    clients = {client["id"]: client for client in dex["staticClients"]}
    (audience,) = issuer.audiences
    assert clients[audience]["trustedPeers"] == list(settings.rules[0].require.clients or ())
    assert "redirectURIs" not in clients[audience]
    assert f"audience:server:client_id:{audience}" in provider_page("dex")


def test_jobs_request_the_audience_of_the_configuration() -> None:
    text = provider_page("ci-jobs")
    (audience,) = load(EXAMPLES / "gitlab-ci" / "config.yaml", look_at_files=False).issuers[0].audiences
    (gitlab,) = [yaml.safe_load(block.text) for block in blocks(text, "yaml", ".gitlab-ci.yml")]
    assert gitlab["deploy"]["id_tokens"] == {"TOKEN": {"aud": audience}}
    assert f"&audience={audience}" in blocks(text, "sh")[0].text
    (github,) = [yaml.safe_load(block.text) for block in blocks(text, "yaml", "deploy.yml")]
    assert github["permissions"]["id-token"] == "write"


def test_the_commands_for_keys_in_a_file_make_a_token_that_is_accepted(tmp_path: Path) -> None:
    text = provider_page("static-keys")
    make_keys, sign, explain = (block.text for block in blocks(text, "sh"))
    (tmp_path / "config.yaml").write_text(blocks(text, "yaml", "config.yaml")[0].text)
    assert "allow, ok" in printed(make_keys + sign + explain, tmp_path)


# The index.


def test_init_writes_what_the_index_shows() -> None:
    published = EVERYTHING._replace(binds_to_certificates=False, polls_events=False)
    first, completed = blocks(INDEX, "yaml", "config.yaml")
    assert first.text == configuration(published, Keys(), "https://api.example.com/")
    without_comments = {"issuers", "rules"}
    assert set(yaml.safe_load(first.text)) == set(yaml.safe_load(completed.text)) == without_comments


def test_the_command_of_the_index_decodes_a_token(tmp_path: Path) -> None:
    (decode,) = [block.text for block in blocks(INDEX, "sh") if "b64decode" in block.text]
    for length in range(4):  # of padding that base64url leaves out
        claims = {"sub": "u" * length}
        (tmp_path / "token").write_text(Signer("ES256", "a").sign(claims))
        assert json.loads(printed(decode, tmp_path)) == claims


@pytest.mark.parametrize(
    ("quoted", "claims"),
    [
        ("✗ issuer unknown_issuer", {"iss": "https://idp.example.com"}),
        ("✗ audience wrong_audience", {"aud": "https://shop.example.com/"}),
        ("✗ scopes insufficient_scope", {"scope": "openid"}),
        ("✗ kind of token id_token", {"aud": "web", "azp": "web"}),
        ("✗ form malformed_token", None),
    ],
)
def test_explain_prints_what_the_index_quotes(
    quoted: str, claims: dict[str, Any] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signer = Signer("ES256", "a")
    settings = yaml.safe_load(blocks(INDEX, "yaml", "config.yaml")[-1].text)
    offline.written(settings, tmp_path, signer)
    config, token = tmp_path / "config.yaml", tmp_path / "token"
    whole = json.loads(blocks(INDEX, "json", "claims of token")[0].text) | {"iat": 1, "exp": 4_000_000_000}
    token.write_text("opaque" if claims is None else signer.sign(whole | claims, {"typ": "JWT"}))
    url = "https://api.example.com/orders/7"
    assert main(["explain", "--config", str(config), "--url", url, "--token-file", str(token)]) == 1
    assert re.search(rf"^ *(?:\w+ +)?{quoted.replace(' ', ' +')}:", capsys.readouterr().out, re.MULTILINE)
    assert f"`{quoted}`" in section(INDEX, "## 5. Complete the configuration")


# Opaque tokens, and the way to the provider.


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("", "ok"),
        ("aud", "wrong_audience"),
        ("exp", "missing_claim"),
        ("iss", "ok"),
        ("scope", "insufficient_scope"),
    ],
)
def test_a_response_lacks_what_the_page_on_opaque_tokens_says(missing: str, reason: str) -> None:
    text = page("how-to/introspection")
    (response,) = [json.loads(block.text) for block in blocks(text, "json")]
    (settings,) = [yaml.safe_load(block.text) for block in blocks(text, "yaml", "config.yaml")]
    response |= {"iss": ISSUER, "exp": NOW + 300}  # of the test
    response.pop(missing, None)
    authorizer = IntrospectingAuthorizer(
        {"main": FakeClient(opaque=response)},
        rules=settings["rules"],
        audiences=settings["issuers"][0]["audiences"],
    )
    assert authorizer.reason_of("opaque", "/orders/7") == reason
    row = f"| `{missing}` | `{reason}`"
    assert reason == "ok" or row in section(text, "## 3. Check that the response is sufficient")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("proxies", "is signed by an authority that is not trusted"),
        ("proxies", "plain http to another host is not allowed"),
        ("proxies", "fetching keys failed"),
        ("proxies", "requests to the provider go through a proxy"),
        ("introspection", "the introspection server rejects this client"),
        ("tenants", "is a template"),
        ("providers/spiffe", "unusable key"),
    ],
)
def test_messages_that_a_page_quotes_are_in_the_program(name: str, text: str) -> None:
    assert f"`{text}`" in page(f"how-to/{name}")
    assert any(text in file.read_text() for file in (ROOT / "authz_service").rglob("*.py"))
