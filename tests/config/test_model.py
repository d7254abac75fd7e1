"""Values of single keys: which are accepted, what they become, and which are refused with which message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from authz_service.config import places, values
from authz_service.config.kinds import Finding, findings_of
from authz_service.config.model import (
    CredentialSettings,
    Issuer,
    Keys,
    Match,
    Require,
    Scopes,
    TracingSettings,
    UpstreamSettings,
)
from authz_service.config.places import host_port
from authz_service.config.sections import Section
from authz_service.config.server import Server
from authz_service.config.values import https_or_loopback
from authz_service.core.decision import CORRELATION_MEMBERS, METADATA_MEMBERS

ISSUER = {"issuer": "https://idp.example.com/", "audiences": ["api"]}


def accepts(kind: Any, value: object) -> Any:
    return kind.read(value)


def findings(kind: Any, value: object) -> list[Finding]:
    try:
        kind.read(value)
    except ValueError as error:
        return findings_of(error, kind, value)
    return []


def refuses(kind: Any, value: object) -> str:
    (finding,) = findings(kind, value)
    assert finding.fault == "refused"
    return finding.text


GOOD = [
    (values.NAME, ["main", "9", "read:appointments", "a/b.c-d_e", "x" * 128, "idp.example.com"]),
    (values.PRINTABLE, ["https://api.example.com/", "an api", "é", "api://x?y#z"]),
    (values.SCOPE, ["read:appointments", "https://x/y", "a!#$%&'()*+,-./[]^_`|~", "read:{tenant}", "{a}:{b}"]),
    (values.ACR_VALUE, ["urn:mfa", "0", "{x"]),
    (values.HTTP_HEADER, ["x-api-version", "cookie", "x_y"]),
    (values.COMPARED_HEADER, ["x-scope-orgid", "x_y"]),
    (values.AFFIX, ["@corp.example", " ", "system:serviceaccount:shop:"]),
    (values.REQUIRED_CLAIM_PATH, ["act", "act.sub", "act.x.act", r"act\.act", "a.act.act", "actor.act"]),
    (values.CLAIM_PATH, ["a", "a.b", r"https://x\.example/roles", "cognito:groups"]),
    (values.CAPTURE_NAME, ["tenant", "_1"]),
    (values.METHOD, ["GET", "M-SEARCH", "PROPFIND"]),
    (values.ALGORITHM, ["RS256", "PS512", "ES384", "EdDSA"]),
    (values.HOST_PATTERN, ["api.example.com", "*.example.org", "[::1]", "localhost"]),
    (values.PATH_PATTERN, ["/", "/v1/{id}", "/v1/**", "/**", "/café"]),
    (values.URL, ["https://a", "https://a/b?c=d", "http://[::1]:8080/", "https://a:1/"]),
    (values.ISSUER_ID, ["https://idp.example.com", "https://idp.example.com/tenant/v2.0"]),
    (values.ISSUER_ID, ["https://a/{t}", "https://a/{tenant_id}/v2.0", "http://a:8080/x/{t}/"]),
    (values.ISSUER_ID, ["kubernetes/serviceaccount", "urn:example:idp", "accounts.google.com", "sa@project.example"]),
    (values.AUDIENCE, ["https://api.example.com/", "an api", "é", "api://x?y#z"]),
    (values.PROXY, ["environment", "none", "http://proxy:3128", "https://[::1]", "http://10.0.0.1"]),
    (places.TCP_ADDRESS, ["127.0.0.1:9191", "[::1]:9191", "localhost:0", "0.0.0.0:65535"]),
    (places.GRPC_ADDRESS, ["127.0.0.1:9191", "unix:/run/authz.sock", "unix:authz.sock"]),
]


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, good in GOOD for value in good])
def test_a_good_value_is_accepted_as_written(kind: Any, value: str) -> None:
    assert str(accepts(kind, value)) == value


WRONG = [
    (values.COMPARED_HEADER, ["", "a b", ":path", "x:y"], "is not a header name: write one such as x-tenant"),
    (values.COMPARED_HEADER, ["Authorization", "proxy-authorization", "cookie", "DPoP"], "it carries a credential"),
    (values.COMPARED_HEADER, ["Host"], "write match.hosts instead"),
    (values.AFFIX, [""], "is empty, so any string would do"),
    (values.REQUIRED_CLAIM_PATH, ["act.act", "act.act.sub", "act.act.act.sub"], "only the outermost one may decide"),
    (values.NAME, ["", "-", "a b", "é", "x" * 129, "_a", "a\n"], "is not a name: write up to 128 letters"),
    (values.PRINTABLE, ["", " a", "a ", "a\nb", "\x7f", "\u200b"], "must be a printable, non-empty string"),
    (values.SCOPE, ["", "a b", 'a"b', "a\\b", "é", "a\n"], "is not a scope: write printable ASCII"),
    (values.SCOPE, ["a{b", "}", "{9}", "{}", "{a}}"], "write {name} for a capture of the path"),
    (
        values.PROXY,
        [*("", "Environment", "proxy:3128", "socks5://proxy"), *("http://", "http://a/b", "http://a:x", "http://a b")],
        "is not a proxy: write environment, none, or a URL such as http://proxy:3128",
    ),
    (values.PROXY, ["http://user:s3cret@proxy"], "must be a URL without user and password: put"),
    (values.ACR_VALUE, ["", "a b", 'a"b'], "is not an acr value: write printable ASCII"),
    (values.HTTP_HEADER, ["", "a b", ":path", "x:y"], "is not a header name: write one such as x-api-version"),
    (values.HEADER_VALUE, ["1,2", "1, 2", ","], "has a comma, and a header value with one never matches"),
    (values.HEADER_VALUE, ["", " 1", "1 ", "\t1", "1\n"], "must be a printable, non-empty string"),
    (values.HTTP_HEADER, ["Authorization", "proxy-authorization"], "which a rule cannot match: remove it"),
    (values.HTTP_HEADER, ["Host"], "write match.hosts"),
    (values.CLAIM_PATH, ["", "a..b", ".a", "a."], "is not a path to a claim: write names separated by single dots"),
    (values.CAPTURE_NAME, ["", "{tenant}", "9"], "is not the name of a capture: write tenant for"),
    (values.METHOD, ["", "GET ", "GET,HEAD", "*"], "is not a method: write one such as GET"),
    (values.METHOD, ["get", "Get"], "methods are case-sensitive, write 'GET'"),
    (values.ALGORITHM, ["HS256", "HS512", "hs256", "none", "None"], "only asymmetric signatures are"),
    (values.HOST_PATTERN, ["", "*", "https://a", "a:80", "a/b", "*.*.a", "a.*.b"], "is not a host"),
    (values.PATH_PATTERN, ["", "v1"], "must start with /"),
    (values.PATH_PATTERN, ["/v1/*", "/**/v1"], "only in a final /**"),
    (
        values.URL,
        ["", "idp.example.com", "ftp://a", "HTTPS://a", "https://", "https:///a", "https://a b", "https://a\nb",
         "https://é", "https://[::1", "https://a:x/", "https://a:0/", "https://a:99999/", "//a"],
        "is not a URL: write https://host/path",
    ),
    (values.URL, ["https://me@a/", "https://me:secret@a/", "https://@a"], "must be a URL without user and password"),
    (values.URL, ["https://a#", "https://a/b#c"], "has a fragment: remove it"),
    (values.ISSUER_ID, ["https://a?", "https://a/?b=c"], "must be a URL without a query"),
    (
        values.ISSUER_ID,
        ["", "https://", "HTTPS://a", "https:/a", "http:a", "a b", "é", "//a", "/a", "a\n", "[::1]", "https://a b/{t}",
         "x" * 257],
        "is not a URL: write https://host/path",
    ),
    (values.ISSUER_ID, ["https://me@a/", "https://me:x@a/{t}"], "must be a URL without user and password"),
    (
        values.ISSUER_ID,
        ["https://{t}", "https://{t}/a", "https://{t}.a/b", "https://a/x{t}", "https://a/{t}?b=c", "https://a/{t}x", "https://a/{t}/{u}",
         "https://a/{t", "https://a/t}", "https://a/{}", "https://a/{9}", "https://a/{t.u}", "https://a/{{t}}",
         "https://a/*", "*", "{t}", "a/{t}", "https://a/{t}/*", "https://*.a/", "urn:{t}"],
        "has a brace or a *, which can only be one whole segment of the path: write one {name}",
    ),
    (values.AUDIENCE, ["*", "https://*.example/", "{aud}", "a{", "}"], "which an audience cannot have"),
    (values.AUDIENCE, ["", " a"], "must be a printable, non-empty string"),
    (
        values.TOKEN_TYPE,
        ["", " ", "a b", "*", "JWT ", "text/jwt", "application/", "application/application/jwt", "a" * 128, "\u0130"],
        "is not a type of a token: write the typ of its header, such as JWT, or application/at+jwt",
    ),
    (values.TOKEN_TYPE, ["dpop+jwt", "application/DPoP+JWT"], "is the type of a DPoP proof, never of an access token"),
    (values.TOKEN_TYPE, ["logout+jwt"], "is the type of a logout token, never of an access token: remove it"),
    (values.TOKEN_TYPE, ["secevent+jwt", "token-introspection+jwt", "id_token", "rt+jwt"], "never of an access token"),
    (
        places.TCP_ADDRESS,
        ["", "9191", ":9191", "127.0.0.1", "a:65536", "a:x", "a:-1", "::1:80", "[::1]", "[:::]:1", "[a]:1", "a b:1",
         "unix:/x", "a:1\n"],
        "is not an address: write host:port, such as 127.0.0.1:9192",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "value", "reason"), [(kind, value, reason) for kind, wrong, reason in WRONG for value in wrong]
)
def test_a_wrong_value_is_refused_with_the_remedy(kind: Any, value: str, reason: str) -> None:
    assert reason in refuses(kind, value)


@pytest.mark.parametrize(
    ("listed", "accepted"),
    [
        (["at+jwt", "JWT"], {"at+jwt", "application/at+jwt", "jwt"}),
        (["Application/JWT"], {"jwt", "application/jwt"}),
        (["JOSE"], {"jose", "application/jose"}),
        (["application/okta-internal-at+jwt"], {"okta-internal-at+jwt", "application/okta-internal-at+jwt"}),
    ],
)
def test_a_token_type_is_accepted_in_any_case_and_with_or_without_its_prefix(
    listed: list[str], accepted: set[str]
) -> None:
    issuer = accepts(Issuer, {**ISSUER, "token_types": listed})
    assert issuer.accepted_types == accepted
    assert issuer.key_uses == {"sig"}


def test_the_type_of_jwt_svids_also_accepts_the_keys_for_them() -> None:
    issuer = accepts(Issuer, {**ISSUER, "token_types": ["JWT", "JWT-SVID"]})
    assert issuer.key_uses == {"sig", "jwt-svid"}


@pytest.mark.parametrize("name", ["RS1", "ES256K", "rs256", ""])
def test_only_known_algorithms_are_accepted(name: str) -> None:
    assert [each.fault for each in findings(values.ALGORITHM, name)] == ["not a choice"]


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (CredentialSettings, "scheme"),
        (Match, "hosts"),
        (Match, "methods"),
        (Match, "paths"),
        (Require, "issuers"),
        (Require, "audiences"),
        (Require, "clients"),
        (Server, "tls"),
        (Keys, "jwks_uri"),
        (Keys, "jwks_file"),
    ],
)
def test_an_optional_key_may_not_be_empty_since_that_could_mean_everything(section: type[Section], key: str) -> None:
    assert [(each.where, each.fault) for each in findings(section, {key: None})] == [((key,), "empty")]


@pytest.mark.parametrize(
    ("section", "value"),
    [
        (Match, {"hosts": []}),
        (Match, {"methods": []}),
        (Match, {"paths": []}),
        (Require, {"issuers": []}),
        (Require, {"audiences": []}),
        (Require, {"clients": []}),
        (Issuer, {**ISSUER, "algorithms": []}),
        (Issuer, {**ISSUER, "audience_claims": []}),
    ],
)
def test_an_empty_list_is_refused_where_nothing_could_match_it(section: type[Section], value: object) -> None:
    assert [each.fault for each in findings(section, value)] == ["no members"]


def test_settings_cannot_be_changed() -> None:
    server = Server()
    with pytest.raises(AttributeError, match="transport cannot be changed: settings are frozen"):
        server.transport = "grpcio"  # type: ignore[assignment]


def test_a_plain_list_of_scopes_means_all_of_them() -> None:
    assert accepts(Require, {"scopes": ["a", "b"]}).scopes == Scopes(all=("a", "b"))
    assert accepts(Require, {"scopes": {"any": ["a"], "none": ["b"]}}).scopes == Scopes(any=("a",), none=("b",))


@pytest.mark.parametrize("scopes", [[], {}, {"all": []}, {"any": []}, {"all": ["a"], "none": []}])
def test_empty_scopes_are_refused_since_any_token_would_do(scopes: object) -> None:
    assert "any token would do" in refuses(Require, {"scopes": scopes})


@pytest.mark.parametrize(
    "condition",
    [
        *({}, {"prefix": "a", "suffix": "b"}, {"contains_any": ["a"], "contains_all": ["a"]}),
        *({"contains_any": []}, {"contains_all": []}, {"contains_any": "a"}, {"contains_all": [["a"]]}),
        *({"prefix": 1}, {"suffix": None}, {"prefix": ["a"]}, {"contains_path": "{id}"}, {"equals_header": None}),
    ],
)
def test_a_claim_condition_has_exactly_one_operator_with_a_value_of_its_type(condition: object) -> None:
    with pytest.raises(ValueError, match=r"^claims.x"):
        Require.read({"claims": {"x": condition}})


def test_a_leeway_that_would_disable_expiry_is_refused() -> None:
    assert "must be at most 1h" in refuses(Issuer, ISSUER | {"leeway": "61m"})
    assert accepts(Issuer, ISSUER | {"leeway": "60m"}).leeway == 3600


def test_the_label_of_an_issuer_is_its_name_or_its_host() -> None:
    assert accepts(Issuer, ISSUER).label == "idp.example.com"
    assert accepts(Issuer, {**ISSUER, "issuer": "http://[::1]:8080/x"}).label == "::1"
    assert accepts(Issuer, {**ISSUER, "name": "main"}).label == "main"


def test_exp_cannot_be_removed_from_the_required_claims() -> None:
    assert accepts(Issuer, {**ISSUER, "required_claims": ["sub", "exp"]}).required_claims == ("sub", "exp")
    assert refuses(Issuer, {**ISSUER, "required_claims": ["sub"]}) == "exp cannot be removed: add it"


def test_a_named_key_set_replaces_discovery() -> None:
    assert Keys().discovery
    assert not accepts(Keys, {"jwks_uri": "https://a/jwks"}).discovery
    assert not accepts(Keys, {"jwks_file": "jwks.json"}).discovery
    assert not accepts(Keys, {"pem_file": "idp.pem"}).discovery
    assert accepts(Keys, {"jwks_uri": "https://a/jwks", "discovery": True}).discovery


def test_upstream_headers_are_lower_case() -> None:
    headers = accepts(UpstreamSettings, {"headers": {"X-User": "sub"}}).headers
    assert {name: str(header.claim) for name, header in headers.items()} == {"x-user": "sub"}


@pytest.mark.parametrize(
    ("written", "header", "scheme"),
    [
        ({}, "authorization", "Bearer"),
        ({"scheme": "JWT"}, "authorization", "JWT"),
        ({"header": "Authorization"}, "authorization", "Bearer"),
        ({"header": "X-Jwt"}, "x-jwt", None),
        ({"header": "x-jwt", "scheme": "Bearer"}, "x-jwt", "Bearer"),
        ({"scheme": "bearer"}, "authorization", "Bearer"),  # so that DPoP is accepted beside it as well
        ({"scheme": "DPOP"}, "authorization", "DPoP"),
    ],
)
def test_only_authorization_has_a_scheme_by_default(written: object, header: str, scheme: str | None) -> None:
    credential = accepts(CredentialSettings, written)
    assert (credential.header, credential.scheme) == (header, scheme)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({"header": "cookie"}, "cannot hold a token"),
        ({"header": "Host"}, "cannot hold a token"),
        ({"header": ":path"}, "is not a header name"),
        ({"scheme": ""}, "is not an authentication scheme"),
        ({"scheme": "Bearer "}, "is not an authentication scheme"),
    ],
)
def test_a_credential_that_cannot_hold_a_token_is_refused(written: object, problem: str) -> None:
    assert problem in refuses(CredentialSettings, written)


@pytest.mark.parametrize("name", sorted(METADATA_MEMBERS | CORRELATION_MEMBERS))
def test_a_fixed_member_of_the_metadata_cannot_be_replaced(name: str) -> None:
    assert "is in the metadata of decisions already" in refuses(UpstreamSettings, {"metadata": {name: "sub"}})


@pytest.mark.parametrize("name", ["", "a b", "a:b", "é", "a" * 129])
def test_a_member_of_the_metadata_has_a_plain_name(name: str) -> None:
    assert "is not a name of metadata" in refuses(UpstreamSettings, {"metadata": {name: "sub"}})
    assert accepts(UpstreamSettings, {"metadata": {"Tenant_id.x-1": "a.b"}}).metadata["Tenant_id.x-1"].names == (
        "a",
        "b",
    )


def test_an_upstream_header_may_have_an_encoding() -> None:
    headers = {"a": r"b\.c.d", "e": {"claim": "f", "encoding": "csv"}, "g": {"claim": "*", "encoding": "json"}}
    read = accepts(UpstreamSettings, {"headers": headers}).headers
    assert [(each.claim.names, each.encoding) for each in read.values()] == [
        (("b.c", "d"), None), (("f",), "csv"), (("*",), "json")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("*", "* is the whole claim set: add encoding: json"),
        ({"claim": "*", "encoding": "csv"}, "* is the whole claim set: add encoding: json"),
        ({"claim": "a..b"}, "is not a path to a claim"),
        ("a..b", "is not a path to a claim"),
        (7, "must be the path of a claim, or {claim: path, encoding: json}"),
        (["a"], "must be the path of a claim, or {claim: path, encoding: json}"),
    ],
)
def test_an_upstream_header_that_cannot_be_filled_is_refused(header: object, problem: str) -> None:
    assert problem in refuses(UpstreamSettings, {"headers": {"x": header}})


@pytest.mark.parametrize("name", ["Host", "authorization", "Content-Length", "transfer-encoding", "TE", "Keep-Alive"])
def test_an_upstream_header_may_not_be_one_of_http_itself(name: str) -> None:
    assert f"'{name}' has a meaning in HTTP itself" in refuses(UpstreamSettings, {"headers": {name: "sub"}})


@pytest.mark.parametrize("name", ["", "a b", ":path", "x\r\ny", "é", "a:"])
def test_an_upstream_header_must_be_a_header_name(name: str) -> None:
    assert "is not a header name" in refuses(UpstreamSettings, {"headers": {name: "sub"}})


def test_without_a_folder_as_context_a_path_stays_as_written() -> None:
    assert accepts(Keys, {"jwks_file": "gone/jwks.json"}).jwks_file == Path("gone/jwks.json")


@pytest.mark.parametrize(
    ("address", "pair"),
    [("127.0.0.1:9191", ("127.0.0.1", 9191)), ("[::1]:0", ("::1", 0)), ("localhost:65535", ("localhost", 65535))],
)
def test_an_address_is_split_into_a_host_without_brackets_and_a_port(address: str, pair: tuple[str, int]) -> None:
    assert host_port(address) == pair


@pytest.mark.parametrize(
    ("url", "protected"),
    [
        ("https://a", True),
        ("http://localhost:1/", True),
        ("http://LOCALHOST", True),
        ("http://127.0.0.1", True),
        ("http://[::1]/x", True),
        ("http://a", False),
        ("http://localhost.a", False),
        ("http://127.0.0.1.a", False),
        ("http://127.0.0.2", False),
    ],
)
def test_only_https_or_loopback_is_protected(url: str, protected: bool) -> None:  # noqa: FBT001
    assert https_or_loopback(url) is protected


@pytest.mark.parametrize(
    "section", [each for each in Section.__subclasses__() if each.__module__.startswith("authz_service")]
)
def test_every_section_and_every_key_has_a_description(section: type[Section]) -> None:
    assert section.__doc__
    for name, key in section.declared.items():
        assert key.description.endswith("."), name


@pytest.mark.parametrize("name", ["X-Tenant", "user-agent", "cf-access-client-id", "x_y", "accept-language"])
def test_a_provider_header_may_have_any_name_without_a_meaning_for_the_client(name: str) -> None:
    assert accepts(values.PROVIDER_HEADERS, {name: "a, b (c)"}) == {name.lower(): "a, b (c)"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Authorization", "write keys.bearer_token_file"),
        ("proxy-authorization", "into the proxy's URL in the environment"),
        ("Cookie", "uses no cookies"),
        ("Host", "it is the host of the URL"),
        *((name, "the client sets it itself") for name in ("Content-Length", "connection", "TE", "If-None-Match")),
        *((name, "the client sets it itself") for name in ("Accept", "accept-encoding", "transfer-encoding", "expect")),
        *((name, "looks like a secret") for name in ("X-Api-Key", "cf-access-client-secret", "x-auth-token", "apikey")),
        *((name, "is not a header name") for name in ("", "a b", "a:b", "a\n", "é")),
    ],
)
def test_a_provider_header_is_neither_a_secret_nor_set_by_the_client(name: str, why: str) -> None:
    assert why in refuses(values.PROVIDER_HEADERS, {name: "a"})


@pytest.mark.parametrize("value", ["", " a", "a ", "a\r\nb: c", "a\x00", "é", "\t"])
def test_a_provider_header_has_a_printable_value(value: str) -> None:
    assert "must be printable ASCII" in refuses(values.PROVIDER_HEADERS, {"x-a": value})


def test_a_provider_header_is_named_once() -> None:
    found = findings(values.PROVIDER_HEADERS, {"x-a": "1", "X-A": "2"})
    assert [(each.where, each.fault) for each in found] == [(("X-A",), "same name")]


@pytest.mark.parametrize(
    "endpoint",
    ["collector:4318", "", "grpc://collector:4317", "http://", "http://u:p@collector", "http://c/?a", "http://c/#a"],
)
def test_a_collector_is_named_by_a_base_url(endpoint: str) -> None:
    assert "is not a base URL: write one such as http://collector:4318" in refuses(
        TracingSettings, {"otlp_endpoint": endpoint}
    )


def test_a_collector_may_be_reached_by_plain_http() -> None:
    assert TracingSettings.read({"otlp_endpoint": "http://collector.monitoring:4318"}).service_name
