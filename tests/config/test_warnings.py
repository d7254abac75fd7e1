"""Settings that are valid but dangerous cause a warning with a line, and are not refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.cli import main
from authz_service.config.document import rendered
from authz_service.config.model import Issuer, Settings
from authz_service.config.warnings import load_with_warnings, warnings
from authz_service.core.attributes import Attributes
from authz_service.rules.policy import Policy

if TYPE_CHECKING:
    from pathlib import Path

MAIN = {"issuer": "https://a.example/", "name": "main", "audiences": ["api"]}


def warned(*rules: dict[str, Any], issuers: list[dict[str, Any]] | None = None, **sections: Any) -> list[str]:
    named = [{"name": f"r{place}"} | rule for place, rule in enumerate(rules)]
    parts = {"issuers": issuers or [MAIN], "rules": named or [{"name": "r"}]} | sections
    found = warnings(Settings.read(parts))
    return [f"{rendered(problem.where)}: {problem.text}" for problem in found]


def match(*paths: str, **others: Any) -> dict[str, Any]:
    return {"match": {"paths": list(paths)} | others}


ONE_PATH = "rule r0 decides all that it matches: remove it"
HIDDEN = "all that it matches: move it up, or remove it"


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([match("/a"), match("/a")], [f"rules[1]: is never reached, since rule r0 decides {HIDDEN}"]),
        ([match("/a"), match("/b"), match("/{x}")], []),
        ([match("/{x}"), match("/a", "/b")], [f"rules[1]: is never reached, since rule r0 decides {HIDDEN}"]),
        (
            [match("/{x}"), match("/a", "/b/c")],
            [f"rules[1].match.paths[0]: is never reached in this rule, since {ONE_PATH}"],
        ),
        (
            [match("/a"), match("/a/"), match("/a/{x}/**"), match("/a/**")],
            [f"rules[3]: is never reached, since rules r0, r1 and r2 together decide {HIDDEN}"],
        ),
        ([match("/a", methods=["GET"]), match("/a")], []),
        ([match("/a", methods=["GET"]), match("/a", methods=["GET", "POST"])], []),
        (
            [match("/a", methods=["GET"]), match("/a", methods=["POST"]), match("/a", methods=["GET", "POST"])],
            [f"rules[2]: is never reached, since rules r0 and r1 together decide {HIDDEN}"],
        ),
        (
            [match("/a", hosts=["*.org"]), match("/a", hosts=["x.org", "*.y.org"])],
            [f"rules[1]: is never reached, since rule r0 decides {HIDDEN}"],
        ),
        ([match("/a", hosts=["x.org"]), match("/a", hosts=["x.org", "y.org"])], []),
        ([match("/a", hosts=["x.org"]), match("/a")], []),
        ([match("/a", headers={"x": "1"}), match("/a")], []),
        (
            [match("/a", headers={"x": "1"}), match("/a", headers={"X": "1", "y": "2"})],
            [f"rules[1]: is never reached, since rule r0 decides {HIDDEN}"],
        ),
        ([match("/a", headers={"x": "1"}), match("/a", headers={"x": "2"})], []),
        ([match("/{x}"), match("/**"), match("/a;b")], []),
        ([match("/a;b"), match("/a;b")], [f"rules[1]: is never reached, since rule r0 decides {HIDDEN}"]),
        (
            [match("/a", case_insensitive=True), match("/A")],
            [f"rules[1]: is never reached, since rule r0 decides {HIDDEN}"],
        ),
        ([match("/A"), match("/a", case_insensitive=True)], []),
        (
            [match("/items/{id}", methods=["GET", "POST"]), match("/items/{id}:purge", methods=["POST"])],
            [f"rules[1]: is never reached, since rule r0 decides {HIDDEN}"],
        ),
        ([match("/items/{id}:purge", methods=["POST"]), match("/items/{id}")], []),
        (
            [match("/items/{id}e"), match("/items/{id}:purge", "/items/{id}:undelete", "/items/{id}")],
            [f"rules[1].match.paths[{index}]: is never reached in this rule, since {ONE_PATH}" for index in (0, 1)],
        ),
        (
            [match("/{id}:a", case_insensitive=True), match("/{id}:A")],
            [f"rules[1]: is never reached, since rule r0 decides {HIDDEN}"],
        ),
        ([match("/{id}:A"), match("/{id}:a", case_insensitive=True)], []),
        ([match("/**"), {"policy": "p"}], [f"rules[1]: is never reached, since rule r0 decides {HIDDEN}"]),
        ([{}, match("/a")], [f"rules[1]: is never reached, since rule r0 decides {HIDDEN}"]),
        ([match("/**", methods=["GET"]), {"policy": "p"}, match("/a")], []),
        ([{"policy": "p"}, {}], []),
    ],
)
def test_an_unreachable_rule_is_reported_with_the_rules_that_hide_it(
    rules: list[dict[str, Any]], expected: list[str]
) -> None:
    assert warned(*rules) == expected


_PATHS = ["/", "/a", "/a/", "/a/b", "/b", "/b/c/d", "/A", "/A/b", "/a;b", "/A;b"]
_MATCHES = st.fixed_dictionaries(
    {
        "paths": st.lists(
            st.sampled_from(["/", "/a", "/a/", "/{x}", "/a/**", "/{x}/b", "/**", "/a;b"]), min_size=1, max_size=2
        )
    },
    optional={
        "case_insensitive": st.booleans(),
        "hosts": st.lists(st.sampled_from(["x.org", "y.org", "*.org"]), min_size=1, max_size=2),
        "methods": st.lists(st.sampled_from(["GET", "PUT"]), min_size=1, max_size=2),
        "headers": st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"]), min_size=1, max_size=1),
    },
)


@settings(max_examples=200)
@given(st.lists(_MATCHES, min_size=1, max_size=6))
def test_a_rule_reported_as_unreachable_decides_no_request(matches: list[dict[str, Any]]) -> None:
    parts = {"issuers": [MAIN], "rules": [{"name": f"r{place}", "match": each} for place, each in enumerate(matches)]}
    configured = Settings.read(parts)
    hidden = {each.where[1] for each in warnings(configured) if "never reached, since" in each.text}
    policy = Policy(configured.rules, [Issuer.read(MAIN)])
    for path in _PATHS:
        for host in ("x.org", "y.org", "z.org", "com"):
            for method in ("GET", "PUT", "DELETE"):
                for headers in ({}, {"x": "1"}, {"x": " 2"}, {"x": "1", "y": "1"}, {"y": "2"}, {"x": "1,1"}):
                    chosen = policy.choose(Attributes(method, host, path, headers), path[1:].split("/"))
                    assert chosen is None or int(chosen.name[1:]) not in hidden


SHARED = [MAIN | {"audiences": ["api", "other"]}, {"issuer": "https://b.example/", "name": "b", "audiences": ["x"]}]
ANY_OF_MAIN = (
    "rules[0]: accepts tokens for any audience of main, including tokens made for another API: "
    "name this API's audience in require.audiences"
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, [ANY_OF_MAIN]),
        ({"access": "optional"}, [ANY_OF_MAIN]),
        ({"require": {"issuers": ["main"]}}, [ANY_OF_MAIN]),
        ({"require": {"issuers": ["b"]}}, []),
        ({"require": {"audiences": ["api"]}}, []),
        ({"require": {"any_of": [{"issuers": ["main"]}, {"issuers": ["b"]}]}}, [ANY_OF_MAIN]),
        ({"require": {"any_of": [{"issuers": ["b"]}]}}, []),
        ({"require": {"audiences": ["api"], "any_of": [{"clients": ["a"]}]}}, []),
        ({"require": {"any_of": [{"audiences": ["api"]}, {"issuers": ["b"]}]}}, []),
        (
            {"require": {"any_of": [{"audiences": ["api"]}, {"clients": ["a"]}]}},
            [ANY_OF_MAIN.replace("[0]", "[0].require.any_of[1]").replace("require.audiences", "audiences")],
        ),
        (match("/a") | {"access": "public"}, []),
    ],
)
def test_accepting_any_audience_of_a_shared_issuer_causes_a_warning(rule: dict[str, Any], expected: list[str]) -> None:
    assert warned(rule, issuers=SHARED) == expected


OPEN = "lets through every path that no earlier rule decides: list the paths that are meant to be public"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, [f"rules[0]: {OPEN}"]),
        (match("/a", "/**"), [f"rules[0].match.paths[1]: {OPEN}"]),
        (match("/**", hosts=["a.org"]), [f"rules[0].match.paths[0]: {OPEN}"]),
        (match("/a/**"), []),
        ({"policy": "p"}, []),
    ],
)
def test_public_access_to_every_path_causes_a_warning(rule: dict[str, Any], expected: list[str]) -> None:
    assert warned(rule | {"access": "public"}) == expected


@pytest.mark.parametrize(
    ("server", "count"),
    [
        ({}, 0),
        ({"shutdown_grace": "1s"}, 0),
        ({"shutdown_grace": "999ms"}, 1),
        ({"shutdown_grace": "0s"}, 1),
        ({"check_deadline": "15s"}, 1),
    ],
)
def test_a_shutdown_that_does_not_wait_for_a_slow_check_causes_a_warning(server: dict[str, Any], count: int) -> None:
    found = warned({}, server=server)
    assert len(found) == count
    assert all(each.startswith("server.shutdown_grace: is shorter than server.check_deadline") for each in found)


def test_shadow_mode_causes_a_warning() -> None:
    assert [each.partition(":")[0] for each in warned({"mode": "shadow"})] == ["rules[0].mode"]


@pytest.mark.parametrize(("tolerance", "count"), [("24h", 0), ("25h", 1), ("86401s", 1), ("0s", 0)])
def test_an_outage_tolerance_beyond_a_day_causes_a_warning(tolerance: str, count: int) -> None:
    found = warned({}, issuers=[MAIN | {"keys": {"outage_tolerance": tolerance}}])
    assert len(found) == count
    assert all(each.startswith("issuers[0].keys.outage_tolerance: is longer than a day") for each in found)


@pytest.mark.parametrize(
    ("issuer", "keys", "count"),
    [
        ("http://idp.example/", {"allow_http": True}, 1),
        ("https://idp.example/", {"allow_http": True, "jwks_uri": "http://idp.example/jwks"}, 1),
        ("http://idp.example/", {"allow_http": True, "jwks_uri": "https://idp.example/jwks"}, 0),
        ("http://127.0.0.1/", {"allow_http": True}, 0),
        ("https://idp.example/", {"allow_http": True}, 0),
        ("http://idp.example/", {"allow_http": True, "jwks_file": "jwks.json"}, 0),
    ],
)
def test_plain_http_keys_from_another_host_cause_a_warning(issuer: str, keys: dict[str, Any], count: int) -> None:
    found = warned({}, issuers=[MAIN | {"issuer": issuer, "keys": keys}])
    assert len(found) == count
    assert all(each.startswith("issuers[0].keys.allow_http: allows fetching keys over plain http") for each in found)


IN_CLUSTER = "https://kubernetes.default.svc.cluster.local"
EKS = "https://oidc.eks.example/id/1"
OF_CHART = {"bearer_token_file": "/var/run/secrets/api-server/token"}
OF_KUBERNETES = {"bearer_token_file": "/run/secrets/kubernetes.io/serviceaccount/token"}


@pytest.mark.parametrize(
    ("issuer", "keys", "host"),
    [
        (EKS, OF_CHART, "oidc.eks.example"),
        (EKS, OF_KUBERNETES, "oidc.eks.example"),
        (IN_CLUSTER, OF_CHART | {"jwks_uri": "https://keys.example/jwks"}, "keys.example"),
        ("https://kubernetes-default.example", OF_CHART, "kubernetes-default.example"),
        (EKS, OF_CHART | {"jwks_uri": "https://kubernetes.default.svc/openid/v1/jwks"}, None),
        (IN_CLUSTER, OF_CHART, None),
        ("https://10.96.0.1", OF_CHART, None),
        ("https://[fd00::1]:6443", OF_KUBERNETES, None),
        (EKS, {"bearer_token_file": "/etc/authz-secrets/eks/token"}, None),
        (EKS, {}, None),
    ],
)
def test_sending_the_token_for_the_api_server_to_another_host_causes_a_warning(
    issuer: str, keys: dict[str, Any], host: str | None
) -> None:
    found = warned({}, issuers=[MAIN | {"issuer": issuer, "keys": keys}])
    assert len(found) == (host is not None)
    for each in found:
        assert each.startswith("issuers[0].keys.bearer_token_file: sends this pod's token for the API server")
        assert f" to {host}, which" in each


@pytest.mark.parametrize(
    ("issuer", "endpoint", "keys", "count"),
    [
        ("https://idp.example/", "http://idp.example/introspect", {"allow_http": True}, 1),
        ("http://idp.example/", None, {"allow_http": True, "jwks_file": "jwks.json"}, 1),
        ("http://idp.example/", "http://idp.example/introspect", {"allow_http": True, "discovery": False}, 1),
        ("https://idp.example/", "http://127.0.0.1/introspect", {"allow_http": True}, 0),
        ("https://idp.example/", "https://idp.example/introspect", {"allow_http": True}, 0),
        ("https://idp.example/", None, {"allow_http": True}, 0),
    ],
)
def test_plain_http_introspection_at_another_host_causes_a_warning(
    issuer: str, endpoint: str | None, keys: dict[str, Any], count: int
) -> None:
    introspection = {"endpoint": endpoint, "client_id": "my-api", "client_secret_file": "secret"}
    found = warned({}, issuers=[MAIN | {"issuer": issuer, "keys": keys, "introspection": introspection}])
    assert len(found) == count
    assert all(each.startswith("issuers[0].keys.allow_http: sends tokens and client credentials") for each in found)


EVENTS = {
    "poll_endpoint": "https://a.example/poll",
    "audience": "api",
    "client_id": "me",
    "client_secret_file": "secret",
    "snapshot_file": "events.json",
}
_TOO_SHORT = "issuers[0].security_events.keep: is shorter than"


@pytest.mark.parametrize(
    ("issuer", "events", "keys", "count"),
    [
        ("https://idp.example/", {"poll_endpoint": "http://idp.example/p"}, {"allow_http": True}, 1),
        ("https://idp.example/", {"token_endpoint": "http://idp.example/t"}, {"allow_http": True}, 1),
        ("http://idp.example/", {}, {"allow_http": True, "jwks_file": "jwks.json"}, 1),
        (
            "http://idp.example/",
            {"client_id": "", "client_secret_file": None, "bearer_token_file": "token"},
            {"allow_http": True, "jwks_file": "jwks.json"},
            0,
        ),
        ("http://idp.example/", {"token_endpoint": "https://idp.example/t"}, {"jwks_file": "jwks.json"}, 0),
        ("https://idp.example/", {"poll_endpoint": "http://127.0.0.1/p"}, {"allow_http": True}, 0),
        ("https://idp.example/", {}, {"allow_http": True}, 0),
    ],
)
def test_plain_http_security_events_of_another_host_cause_a_warning(
    issuer: str, events: dict[str, Any], keys: dict[str, Any], count: int
) -> None:
    given = {name: value for name, value in (EVENTS | events).items() if value}
    found = warned({}, issuers=[MAIN | {"issuer": issuer, "keys": keys, "security_events": given}])
    assert len(found) == count
    assert all(each.startswith("issuers[0].keys.allow_http: sends credentials and security") for each in found)


@pytest.mark.parametrize(
    ("issuer", "events", "expected"),
    [
        ({}, {}, []),
        ({}, {"keep": "1h"}, []),
        ({}, {"keep": "59m"}, [f"{_TOO_SHORT} an hour"]),
        ({"max_token_age": "10m"}, {"keep": "10m"}, []),
        ({"max_token_age": "10m"}, {"keep": "599s"}, [f"{_TOO_SHORT} max_token_age (600s)"]),
        ({"max_token_age": "24h"}, {}, []),
        ({"max_token_age": "25h"}, {}, [f"{_TOO_SHORT} max_token_age (90000s)"]),
        ({}, {"interval": "5m"}, []),
        ({}, {"interval": "301s"}, ["issuers[0].security_events.interval: is longer than 5 minutes"]),
    ],
)
def test_security_events_that_revoke_too_late_or_too_briefly_cause_a_warning(
    issuer: dict[str, Any], events: dict[str, Any], expected: list[str]
) -> None:
    found = warned({}, issuers=[MAIN | issuer | {"security_events": EVENTS | events}])
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


def test_security_events_that_a_restart_forgets_cause_a_warning() -> None:
    events = {key: value for key, value in EVENTS.items() if key != "snapshot_file"}
    (found,) = warned({}, issuers=[MAIN | {"security_events": events}])
    assert found.startswith("issuers[0].security_events: forgets all events at a restart")


def test_a_thousand_rules_are_compared_with_each_other() -> None:
    rules = [match(f"/v1/things-{number}", f"/v1/{{t}}/files-{number}/**") for number in range(1000)]
    assert warned(*rules, match("/v1/things-500")) == [
        f"rules[1000]: is never reached, since rule r500 decides {HIDDEN}"
    ]


def test_check_config_prints_warnings_with_lines_before_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"issuers:\n  - {json.dumps(MAIN)}\nrules:\n  - name: a\n  - name: b\n    mode: shadow\n")
    assert main(["check-config", str(file)]) == 0
    hidden, shadow, valid = capsys.readouterr().out.splitlines()
    assert hidden == f"{file}:5: warning: rules[1]: is never reached, since rule a decides {HIDDEN}"
    assert shadow.startswith(f"{file}:6: warning: rules[1].mode: denies nothing")
    assert valid == f"{file}: valid"
    assert load_with_warnings(file)[1] == (hidden, shadow)


@pytest.mark.parametrize("key", ["scope_claims", "client_claims", "audience_claims"])
def test_a_claim_named_after_a_url_needs_its_dots_escaped(key: str) -> None:
    (warning,) = warned(issuers=[MAIN | {key: ["https://example.com/roles"]}])
    assert warning.startswith(f"issuers[0].{key}[0]: leads to the member com/roles of the claim https://example: ")
    assert warning.endswith(r"write https://example\.com/roles for the claim of that name")
    assert warned(issuers=[MAIN | {key: [r"https://example\.com/roles", r"https://example\.com/app.roles"]}]) == []


def test_a_condition_on_a_claim_named_after_a_url_needs_its_dots_escaped() -> None:
    (warning,) = warned({"require": {"claims": {"https://example.com/roles": "x"}}})
    assert r"write https://example\.com/roles" in warning


ENTRA = {
    "issuer": "https://login.example/{tenantid}/v2.0",
    "name": "entra",
    "audiences": ["api"],
    "keys": {"jwks_uri": "https://login.example/keys"},
}
ANY_TENANT = (
    "accepts tokens of every tenant of entra and requires nothing of them but the audience: list the issuer's "
    "tenants, or require scopes, clients or claims"
)


@pytest.mark.parametrize(
    ("require", "expected"),
    [
        ({}, True),
        ({"audiences": ["api"]}, True),
        ({"issuers": ["entra"]}, True),
        ({"issuers": ["main"]}, False),
        ({"scopes": ["a"]}, False),
        ({"clients": ["a"]}, False),
        ({"claims": {"tid": "t"}}, False),
        ({"claims": {"act": {"absent": True}}}, True),
        ({"scopes": {"none": ["x"]}}, True),
        ({"any_of": [{"scopes": ["a"]}, {"issuers": ["entra"]}]}, True),
        ({"any_of": [{"scopes": ["a"]}, {"issuers": ["main"]}]}, False),
        ({"any_of": [{"issuers": ["entra"]}], "scopes": ["a"]}, False),
        ({"proof": "any"}, True),  # anyone can get a token that is bound to their key
        ({"proof": "dpop", "scopes": ["a"]}, False),
    ],
)
def test_a_rule_that_accepts_any_tenant_must_require_something_of_its_tokens(
    *, require: dict[str, Any], expected: bool
) -> None:
    found = warned({"require": require} if require else {}, issuers=[MAIN, ENTRA])
    assert found == ([f"rules[0]: {ANY_TENANT}"] if expected else [])


def test_listed_tenants_and_public_rules_cause_no_warning() -> None:
    assert warned({}, issuers=[ENTRA | {"tenants": ["t1"]}]) == []
    assert warned({"access": "public", "match": {"paths": ["/a"]}}, issuers=[ENTRA]) == []


def test_a_claim_for_the_upstream_named_after_a_url_needs_its_dots_escaped(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    settings = {"headers": {"x-role": "https://a.example/role"}, "metadata": {"role": "https://a.example/role"}}
    file.write_text(json.dumps({"issuers": [MAIN], "rules": [{"name": "a"}], "upstream": settings}))
    header, metadata = load_with_warnings(file)[1]
    assert "upstream.headers.x-role: leads to the member example/role of the claim https://a: " in header
    assert "upstream.metadata.role: leads to the member example/role of the claim https://a: " in metadata


@pytest.mark.parametrize(("value", "count"), [("verify", 0), ("ignore", 1)])
def test_an_ignored_confirmation_causes_a_warning(value: str, count: int) -> None:
    expected = "issuers[1].confirmation: accepts tokens that are bound to their sender from anyone who has stolen one"
    other = {"issuer": "https://b.example/", "name": "b", "audiences": ["b"]}
    assert warned(issuers=[MAIN, other | {"confirmation": value}]) == [f"{expected}: write verify"] * count


@pytest.mark.parametrize(
    ("dpop", "expected"),
    [
        ({}, []),
        ({"max_age": "5m"}, []),
        (
            {"max_age": "301s"},
            [
                (
                    "dpop.max_age: is longer than 5 minutes, and another replica accepts a stolen proof once more "
                    "within it: write at most 5m"
                )
            ],
        ),
        ({"origins": ["https://api.example", "http://localhost:8080", "http://127.0.0.1", "http://[::1]:1"]}, []),
        (
            {"origins": ["https://api.example", "http://api.example"]},
            [
                (
                    "dpop.origins[1]: lets clients send tokens and proofs over plain http, where anyone on the path "
                    "can read them and change the request: use https"
                )
            ],
        ),
    ],
)
def test_proofs_that_protect_little_cause_a_warning(dpop: dict[str, Any], expected: list[str]) -> None:
    assert warned(dpop=dpop) == expected


@pytest.mark.parametrize(
    ("workers", "dpop", "warns"),
    [
        (1, {"nonce": "required"}, False),
        (2, {"nonce": "off"}, False),
        (2, {"nonce": "required", "nonce_key_file": "nonce.key"}, False),
        (2, {"nonce": "required"}, True),
    ],
)
def test_workers_that_refuse_each_others_nonces_cause_a_warning(
    workers: int, dpop: dict[str, Any], *, warns: bool
) -> None:
    text = "each of the 2 workers makes its own key and does not accept the nonces of the others: set nonce_key_file"
    assert warned(server={"workers": workers}, dpop=dpop) == ([f"dpop.nonce: {text}"] if warns else [])


@pytest.mark.parametrize(("certificate", "count"), [("peer", 0), ("xfcc", 1)])
def test_a_forwarded_certificate_causes_a_warning_about_the_proxy(certificate: str, count: int) -> None:
    found = warned(mtls={"certificate": certificate})
    assert len(found) == count
    assert all(each.startswith("mtls.certificate: trusts x-forwarded-client-cert, ") for each in found)


MISSING = "so every proof for it is invalid: add it"


@pytest.mark.parametrize(
    ("resources", "origins", "expected"),
    [
        (["https://a.example/mcp"], [], []),
        ([], ["https://a.example"], []),
        (["https://a.example/mcp", "https://a.example"], ["https://a.example"], []),
        (["https://A.example:443/mcp"], ["https://a.example:443"], []),
        (["https://a.example/mcp"], ["https://a.EXAMPLE:443"], []),
        (["http://localhost:8080/mcp", "https://[::1]:8443"], ["http://localhost:8080", "https://[::1]:8443"], []),
        (
            ["https://a.example/1", "https://b.example:444/2", "https://b.example:444/3", "https://[::2]/4"],
            ["https://a.example"],
            [
                f"dpop.origins: lack https://b.example:444, the origin of resources[1], {MISSING}",
                f"dpop.origins: lack https://[::2], the origin of resources[3], {MISSING}",
            ],
        ),
        (
            ["https://a.example/mcp"],
            ["https://a.example:8443"],
            [f"dpop.origins: lack https://a.example, the origin of resources[0], {MISSING}"],
        ),
    ],
)
def test_origins_without_that_of_a_resource_cause_a_warning(
    resources: list[str], origins: list[str], expected: list[str]
) -> None:
    named = [{"resource": resource} for resource in resources]
    found = warned({"require": {"audiences": resources or ["api"]}}, dpop={"origins": origins}, resources=named)
    assert [each for each in found if each.startswith("dpop")] == expected


IS_METADATA = "is the address of metadata, and no token has it as iss: write the issuer in that document, such as"


@pytest.mark.parametrize(
    ("issuer", "right"),
    [
        ("https://a.example/.well-known/openid-configuration", "https://a.example"),
        ("https://a.example/realms/x/.well-known/openid-configuration", "https://a.example/realms/x"),
        ("https://a.example/.well-known/oauth-authorization-server", "https://a.example"),
        ("https://a.example/.well-known/oauth-authorization-server/x/y", "https://a.example/x/y"),
        ("https://a.example/.well-known/other", None),
        ("https://a.example/openid-configuration", None),
    ],
)
def test_an_address_of_metadata_as_issuer_causes_a_warning_with_the_issuer(issuer: str, right: str | None) -> None:
    expected = [] if right is None else [f"issuers[0].issuer: {IS_METADATA} {right!r}"]
    assert warned(issuers=[MAIN | {"issuer": issuer}]) == expected


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/(a|b)", "looks like a regular expression, whose characters are literal here: write {name} for one"),
        ("/v1/[0-9]+", "looks like a regular expression"),
        ("/v1/[^x]", "looks like a regular expression"),
        ("/v1/.+/x", "looks like a regular expression"),
        ("/v1/(ab)+", "looks like a regular expression"),
        ("/v1/x$", "looks like a regular expression"),
        ("/v1/:id", "has :id, which is literal here: write {id} for exactly one segment"),
        ("/v1/<id>/x", "has <id>, which is literal here: write {id} for exactly one segment"),
        ("/v1/<int:id>", "has <int:id>, which is literal here: write {id} for exactly one segment"),
    ],
)
def test_a_path_in_another_language_causes_a_warning_with_the_remedy(path: str, hint: str) -> None:
    (warning,) = warned(match(path))
    assert warning.startswith(f"rules[0].match.paths[0]: {path!r} {hint}")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/v1/{id}:purge",
            "/v1/items/**",
            "/$metadata",
            "/Users(1)",
            "/Items('x')",
            "/a+b",
            "/v1.2/a.b",
            "/a:b",
            "/~x",
        ),
        *("/a[0]", "/@scope/name", "/a|b", "/2026-11-28", "/_a-b", "/x,y;z=1", "/caf\u00e9", "/:", "/:1", "/a<b>"),
    ],
)
def test_an_unusual_literal_path_causes_no_warning(path: str) -> None:
    assert warned(match(path)) == []
