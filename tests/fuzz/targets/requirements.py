"""A rule admits exactly the tokens that the plain meaning of its ``require`` admits.

* The reason of a refusal is one that the rule announces, and its cause is one line.
* A rule that is as strict as another admits no token that the other refuses; each is as strict as itself.
"""

from __future__ import annotations

import re
from typing import Any

from authz_service.config.kinds import Many, Members
from authz_service.config.model import Issuer, Require, RuleSettings
from authz_service.config.strictness import Strictness
from authz_service.config.values import STRING
from authz_service.core.claims import Claims
from authz_service.core.confirmation import confirmation_of
from authz_service.core.errors import Rejected
from authz_service.core.headers import combined
from authz_service.core.scope_hierarchy import ScopeHierarchy
from authz_service.core.strict_json import loads
from authz_service.rules.operators import RequestParts
from authz_service.rules.policy import Rule
from support import plain_rules

OUTCOMES = {"admitted", "refused", "rejected"}
MAX_BYTES = 2048
AUDIENCES = {"people": ["a"], "workloads": ["a", "b"]}
ISSUERS = [
    Issuer.read({"issuer": f"https://{name}.example/", "name": name, "audiences": audiences})
    for name, audiences in AUDIENCES.items()
]
_NAMES = Many(STRING)
_HEADERS = Many(Many(STRING))
_BY_NAME = Members(STRING, STRING)
_IMPLIES = Members(STRING, Many(STRING))
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")


def run(data: bytes) -> str:
    try:
        read = loads(data)
        if not isinstance(read, dict):
            return "rejected"
        settings, other = (_rule(read.get(name, {})) for name in ("require", "other"))
        implies = _IMPLIES.read(read.get("scope_implies", {}))
        captures = _BY_NAME.read(read.get("captures", {}))
        headers = [(name, value) for name, value in _HEADERS.read(read.get("headers", []))]
        token = _token(read)
        confirmation_of(token.claims)
    except (ValueError, TypeError, Rejected):
        return "rejected"
    used = [condition.capture for each in (settings, other) for condition in each.require.claim_conditions()]
    if not {name for name in used if name} <= captures.keys() or not all(
        _HEADER_NAME.fullmatch(name) for name, _ in headers
    ):
        return "rejected"
    hierarchy = ScopeHierarchy(implies)
    parts = RequestParts(captures, combined(headers))
    admitted = _admits(Rule(settings, ISSUERS, hierarchy), token, parts)
    request = plain_rules.Request(captures, headers)
    assert admitted == plain_rules.admits(read.get("require", {}), token, request, AUDIENCES, implies)
    strictness = Strictness(ISSUERS, hierarchy)
    assert strictness.requires_as_much(settings, settings)
    if admitted and strictness.requires_as_much(settings, other):
        assert _admits(Rule(other, ISSUERS, hierarchy), token, parts)
    return "admitted" if admitted else "refused"


def _rule(require: Any) -> RuleSettings:
    read = Require.read(require)
    if any(part.max_auth_age is not None for part in read.parts()):
        raise ValueError("the plain meaning has no clock")
    return RuleSettings(name="r", require=read)


def _token(read: dict[str, Any]) -> plain_rules.Token:
    claims, issuer, client = read.get("claims", {}), read.get("issuer", 0), read.get("client", "")
    if not isinstance(claims, dict) or not isinstance(issuer, int) or not isinstance(client, str):
        raise TypeError
    audiences = _NAMES.read(read.get("audiences", ["a"]))
    scopes = _NAMES.read(read.get("scopes", []))
    return plain_rules.Token(list(AUDIENCES)[issuer % len(AUDIENCES)], client, set(audiences), set(scopes), claims)


def _admits(rule: Rule, token: plain_rules.Token, request: RequestParts) -> bool:
    audiences, scopes = frozenset(token.audiences), frozenset(token.scopes)
    claims = Claims(
        token.issuer,
        "u",
        token.client,
        audiences,
        scopes,
        " ".join(sorted(scopes)),
        token.claims,
        confirmation_of(token.claims),
    )
    try:
        rule.evaluate(claims, request, 0.0)
    except Rejected as rejected:
        assert rejected.reason in set(rule.possible_reasons())
        assert "\n" not in rejected.cause
        return False
    return True
