"""Whatever is sent to protected resources and rules for MCP messages: the decision is explicit, and explained."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from authz_service._pb.external_auth_pb2 import CheckResponse
from authz_service.authorizer import Pending
from authz_service.config.model import Settings
from authz_service.core.attributes import Attributes
from authz_service.core.bounded import Bounds
from authz_service.core.decision import Allow, Answer, Deny, decision_label
from authz_service.policy_tools.explain import Explanation, explained
from authz_service.runtime.assembly import ProofState, authorizer_of
from authz_service.tokens.jwt.cache import JwtCache
from authz_service.tokens.revocation.revocations import RevocationList
from authz_service.transport.ext_authz.codec import encode_response
from support.trust import ISSUER, NOW, OTHER, LocalValidator, good

WELL_KNOWN = "/.well-known/oauth-protected-resource"
ISSUERS = [
    {"issuer": ISSUER, "name": "main", "audiences": ["api"]},
    {"issuer": OTHER, "name": "other", "audiences": ["api"]},
]
TRUST = LocalValidator()
BOUND = [{"jkt": "k" * 43}, {"x5t#S256": "c" * 43}, {"kid": "k"}]
TOKENS = [
    good(),
    good(scope="c"),
    good(tenant="t"),
    good(aud="x"),
    *(good(cnf=each) for each in BOUND),
    "a.b",
    "a b",
    "",
]

_RESOURCES = st.lists(
    st.sampled_from(
        [
            "https://api.example",
            "https://API.example/mcp",
            "https://api.example:8443/mcp/orders/",
            "https://b.example/x",
        ]
    ),
    max_size=3,
    unique=True,
)
_MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "hosts": st.sampled_from([["api.example"], ["*.example"], ["b.example", "api.example"]]),
        "methods": st.sampled_from([["GET"], ["POST"], ["OPTIONS", "GET"]]),
        "paths": st.lists(
            st.sampled_from(
                ["/mcp", "/mcp/**", "/mcp/**", "/mcp/{name}", "/{x}/orders", "/**", f"{WELL_KNOWN}/**", "/mcp/a;b"]
            ),
            min_size=1,
            max_size=2,
        ),
        "headers": st.sampled_from([{"x-a": "1"}]),
        "mcp": st.sampled_from(
            [
                {"methods": ["tools/call"]},
                {"methods": ["*"]},
                {"names": ["get_*", "é"]},
                {"methods": ["tools/*"], "names": ["*"]},
            ]
        ),
        "case_insensitive": st.booleans(),
    },
)
_REQUIRES = st.sampled_from(
    [
        {},
        {"scopes": ["a"]},
        {"scopes": ["c"]},
        {"proof": "dpop"},
        {"max_auth_age": "15m"},
        {"claims": {"tenant": "t"}},
        {"any_of": [{"scopes": ["c"]}, {"claims": {"tenant": "t"}, "proof": "mtls"}]},
    ]
)


@st.composite
def _rule(draw: st.DrawFn) -> dict[str, Any]:
    policy = draw(st.sampled_from([None, None, None, None, "p", "q"]))
    match: dict[str, Any] = draw(_MATCHES)
    encoded = {"encoded_slash": True} if "/mcp/{name}" in match.get("paths", ()) and draw(st.booleans()) else {}
    rule: dict[str, Any] = {"policy": policy} if policy else {"match": match | encoded}
    rule["mode"] = draw(st.sampled_from(["enforce", "enforce", "shadow"]))
    access = draw(st.sampled_from(["token", "token", "optional", "public"]))
    rule["access"] = access
    if access != "public":
        rule["require"] = draw(_REQUIRES)
        rule["credential"] = draw(st.sampled_from([{}, {}, {"header": "x-token"}]))
    return {name: value for name, value in rule.items() if value != {}}


def _mostly(usual: str, others: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([usual] * 2 * len(others) + others)


_REQUESTS = st.builds(
    Attributes,
    st.sampled_from(["GET", "GET", "HEAD", "OPTIONS", "POST", "POST", "DELETE", "get"]),
    _mostly("api.example", ["API.example.:443", "b.example:", "u@api.example", "", "evil.example"]),
    st.builds(
        "".join,
        st.tuples(
            _mostly("", [WELL_KNOWN, WELL_KNOWN, f"{WELL_KNOWN[:-1]}%65", "/%2Ewell-known/oauth-protected-resource"]),
            st.sampled_from(["/mcp", "/mcp", "/mcp/orders", "/MCP", "/mcp/orders/x", "/x", "/mcp/a;b", ""]),
            _mostly("", ["%2Fx", "/", "/y", "?q"]),
        ),
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "authorization": st.builds("{} {}".format, st.sampled_from(["Bearer", "DPoP"]), st.sampled_from(TOKENS)),
            "x-token": st.sampled_from(TOKENS),
            "dpop": st.sampled_from(["a.b.c", "a,b"]),
            "origin": st.sampled_from(["https://app.example"]),
            "access-control-request-method": st.sampled_from(["POST"]),
            "connection": st.sampled_from(["close", "x-a"]),
            "content-type": st.sampled_from(["application/grpc", "application/json"]),
            "x-a": st.sampled_from(["1", "1,1", "2"]),
            "mcp-protocol-version": st.sampled_from(
                [
                    "2026-07-28",
                    "2026-07-28",
                    "2026-07-28",
                    " 2027-01-01",
                    "2025-11-25",
                    "2026-07-28,2026-07-28",
                    "",
                    "9999-99-99",
                ]
            ),
            "mcp-method": st.sampled_from(["tools/call", "tools/call", "tools/list", "ping", "", "a,b"]),
            "mcp-name": st.sampled_from(["get_a", "é", "=?base64?w6k=?=", "=?base64??=", "=?BASE64?YQ==?=", "a,a", ""]),
            "mcp_name": st.sampled_from(["get_a"]),
        },
    ),
    _mostly("", ["p", "q", "unknown"]),
)


@settings(max_examples=200)
@given(
    st.lists(_rule(), min_size=1, max_size=5),
    _RESOURCES,
    st.fixed_dictionaries(
        {}, optional={"dpop": st.sampled_from([{}, {"nonce": "required"}]), "cors_preflight": st.just("allow")}
    ),
    st.lists(_REQUESTS, min_size=8, max_size=12),
)
def test_each_decision_is_explained_and_names_the_metadata_where_it_must(
    rules: list[dict[str, Any]],
    resources: list[str],
    more: dict[str, Any],
    requests: list[Attributes],
) -> None:
    named = [rule["policy"] for rule in rules if "policy" in rule]
    assume(len(named) == len(set(named)))
    written = Settings.read(
        {
            "issuers": ISSUERS,
            "rules": [rule | {"name": f"r{place}"} for place, rule in enumerate(rules)],
            "resources": [{"resource": each} for each in resources],
        }
        | more
    )
    state = ProofState.of(written, TRUST.metrics, None, float(NOW))
    authorizer = authorizer_of(
        written, TRUST.issuers, JwtCache(Bounds(9, 9000), 300.0), TRUST.metrics, state, RevocationList()
    )
    for request in requests:
        decision = authorizer.begin(request, NOW)
        if isinstance(decision, Pending):
            decision = authorizer.finish(decision, NOW)
        explanation = explained(written, authorizer, request, decision, NOW)
        _steps_agree(explanation)
        response = CheckResponse.FromString(encode_response(decision, "x" * 16, request))
        status = response.denied_response.status.code
        kind = "ok_response" if isinstance(decision, Allow) else "denied_response"
        assert response.WhichOneof("http_response") == kind
        if isinstance(decision, Answer):
            assert (status, response.status.code) == (200, 7)
            assert json.loads(response.denied_response.body)["resource"] in resources
            continue
        if isinstance(decision, Deny):
            for value in decision.challenges:
                wanted = status == 401 or decision.reason == "insufficient_scope"
                assert ("resource_metadata" in value) == (wanted and _belongs(request, resources)), (value, status)


def _steps_agree(explanation: Explanation) -> None:
    decision = explanation.decision
    passed = [step.name for step in explanation.steps if step.part == "rule" and step.passed]
    assert passed in ([], [decision.rule])
    denied = decision_label(decision) == "deny"
    if not denied and decision.reason not in {"resource_metadata", "preflight", "public"}:
        assert passed == [decision.rule]
    if decision.rule != "-" and decision.reason != "public":
        assert passed == [decision.rule]


def _belongs(request: Attributes, resources: list[str]) -> bool:
    host = request.host.lower().partition(":")[0].rstrip(".")
    path = request.path.partition("?")[0].replace("%2F", "/")
    for resource in resources:
        name, _, rest = resource.removeprefix("https://").lower().partition("/")
        rest = rest.rstrip("/")
        if host == name.partition(":")[0] and (not rest or path == f"/{rest}" or path.startswith(f"/{rest}/")):
            return True
    return False
