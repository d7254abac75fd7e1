"""Whatever Host and path a client sends, metadata and its addresses are those of the configuration."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from authz_service.authorizer import Pending
from authz_service.core.attributes import Attributes
from authz_service.core.decision import Answer, Deny
from support.trust import NOW, LocalAuthorizer

WELL_KNOWN = "/.well-known/oauth-protected-resource"
RESOURCES = ["https://api.example/mcp", "https://api.example", "https://other.example/a/b", "https://[::1]/x"]
RULES: list[dict[str, Any]] = [{"name": "all"}]
AUTHORIZER = LocalAuthorizer(RULES, {}, resources=[{"resource": each} for each in RESOURCES]).authorizer
BODIES = {
    (host, path): AUTHORIZER.begin(Attributes("GET", host, f"{WELL_KNOWN}{path}", {}), NOW)
    for host, path in (("api.example", "/mcp"), ("api.example", ""), ("other.example", "/a/b"), ("[::1]", "/x"))
}
_NAMES = st.sampled_from(["api.example", "API.Example", "other.example", "evil.example", "x.api.example", "[::1]", ""])
_ODD = st.sampled_from(
    ["", ".", ":443", ".:8443", ":", "..", ":x", "@evil.example", ",evil", "/", "?", "#", " ", "\x00"]
)
HOSTS = st.builds(str.__add__, _NAMES, _ODD) | st.text(max_size=20)
PATHS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from([WELL_KNOWN, "/.well-known/%6fauth-protected-resource", "/.well-known", "/.Well-Known/x", ""]),
        st.sampled_from(["", "/", "/mcp", "/MCP", "/mcp/", "/mcp/x", "/a/b", "/a%2Fb", "/x", "/x;y", "//mcp"]),
        st.sampled_from(["", "?", "?a=b", "#x"]),
    ),
)


@given(HOSTS, PATHS, st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "get", ""]))
def test_nothing_is_answered_or_named_that_is_not_configured(host: str, path: str, method: str) -> None:
    decision = AUTHORIZER.begin(Attributes(method, host, path, {}), NOW)
    assert not isinstance(decision, Pending)
    name = re.sub(r"\.?(:[0-9]{0,5})?\Z", "", host.lower())
    decoded = unquote(path.partition("?")[0])
    known = BODIES.get((name, decoded.removeprefix(WELL_KNOWN))) if decoded.startswith(WELL_KNOWN) else None
    if isinstance(decision, Answer):
        assert decision == known
        assert method in {"GET", "HEAD", "OPTIONS"}
    else:
        assert known is None or method not in {"GET", "HEAD", "OPTIONS"} or "%" in path
        assert isinstance(decision, Deny)
        for url in re.findall('resource_metadata="([^"]*)"', " ".join(decision.challenges)):
            assert url.startswith(f"https://{name}{WELL_KNOWN}")
            assert (name, url.partition(WELL_KNOWN)[2]) in BODIES


def test_the_documents_are_those_of_the_resources() -> None:
    bodies = [answer.body for answer in BODIES.values() if isinstance(answer, Answer)]
    assert [f'"resource": "{resource}"' in body for resource, body in zip(RESOURCES, bodies, strict=True)] == [True] * 4
