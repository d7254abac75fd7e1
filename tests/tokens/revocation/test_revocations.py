"""A revocation revokes exactly the tokens that have all of its parts."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.authorizer import Pending
from authz_service.core.attributes import Attributes
from authz_service.core.claims import Claims
from authz_service.tokens.revocation.revocations import Revocation, Revocations, TokenParts
from support.trust import ISSUER, NOW, OTHER_RS, LocalAuthorizer, claims, good

SESSION = {"sid": "s1", "jti": "j1"}


def reason(token: str, *revocations: Revocation, to: LocalAuthorizer | None = None) -> str:
    to = to or LocalAuthorizer([{"name": "r"}], {})
    to.revocations.replace_file(Revocations(revocations), b"")
    decision = to.authorizer.begin(Attributes("GET", "api.example", "/", {"authorization": f"Bearer {token}"}), NOW)
    assert not isinstance(decision, Pending)
    return decision.reason.value


@pytest.mark.parametrize(
    ("parts", "revoked"),
    [
        ({"jti": "j1"}, True),
        ({"session": "s1"}, True),
        ({"subject": "u1"}, True),
        ({"client": "app"}, True),
        ({"issuer": "main"}, True),
        ({"issuer": ISSUER}, True),
        ({"kid": "rs"}, True),
        ({"issuer": "main", "subject": "u1", "client": "app", "session": "s1", "jti": "j1", "kid": "rs"}, True),
        ({"jti": "j2"}, False),
        ({"subject": "j1"}, False),
        ({"issuer": "other", "subject": "u1"}, False),
        ({"subject": "u1", "session": "s2"}, False),
        ({"kid": "es"}, False),
    ],
)
def test_a_token_is_revoked_if_it_has_all_parts(parts: dict[str, str], *, revoked: bool) -> None:
    revocation = Revocation(TokenParts(**parts))
    assert reason(good(**SESSION), revocation) == ("revoked" if revoked else "ok")


@pytest.mark.parametrize(
    ("issued_at", "revoked"), [(NOW - 61, True), (NOW - 60, False), (NOW - 59, False), (None, True)]
)
def test_with_a_time_only_tokens_issued_before_it_are_revoked(issued_at: int | None, *, revoked: bool) -> None:
    by_subject = Revocation(TokenParts(subject="u1"), NOW - 60)
    everything = Revocation(TokenParts(), NOW - 60)
    for revocation in (by_subject, everything):
        assert reason(good(iat=issued_at), revocation) == ("revoked" if revoked else "ok")


def test_a_cached_token_is_revoked_and_counts_again_once_the_revocation_is_gone() -> None:
    to = LocalAuthorizer([{"name": "r"}], {})
    token = good(**SESSION)
    assert reason(token, to=to) == "ok"
    assert reason(token, Revocation(TokenParts(jti="j1")), to=to) == "revoked"
    assert reason(token, to=to) == "ok"


def test_a_token_without_kid_is_revoked_by_the_kid_of_the_key_that_verifies_it() -> None:
    token = OTHER_RS.sign(claims(iss="https://other.example/"), {"kid": None})
    assert reason(token) == "ok"
    assert reason(token, Revocation(TokenParts(kid="theirs"))) == "revoked"


def test_of_two_revocations_of_the_same_parts_the_later_time_counts() -> None:
    early, late = (Revocation(TokenParts(subject="u1"), NOW - ago) for ago in (100, 10))
    for order in ((early, late), (late, early)):
        assert reason(good(iat=NOW - 50), *order) == "revoked"
        assert len(Revocations(order)) == 1


_VALUE = st.sampled_from(["", "a", "b"])
_PARTS = st.builds(TokenParts, _VALUE, _VALUE, _VALUE, _VALUE, _VALUE, _VALUE)
_TIME = st.sampled_from([math.inf, 1.0, 2.0, 3.0])


def _matches(revocation: Revocation, token: TokenParts, iat: float | None) -> bool:
    named = [(wanted, own) for wanted, own in zip(revocation.parts, token, strict=True) if wanted]
    return all(wanted == own for wanted, own in named) and (iat is None or iat < revocation.issued_before)


@given(st.lists(st.builds(Revocation, _PARTS, _TIME), max_size=8), _PARTS, _VALUE, st.sampled_from([None, 1.0, 2.0]))
def test_the_index_finds_what_a_walk_over_all_finds(
    revocations: list[Revocation], token: TokenParts, iss: str, iat: float | None
) -> None:
    raw: dict[str, Any] = {"sid": token.session, "jti": token.jti, "iss": iss} | ({} if iat is None else {"iat": iat})
    own = Claims(
        issuer=token.issuer,
        subject=token.subject,
        client_id=token.client,
        audiences=frozenset(),
        scopes=frozenset(),
        scope="",
        raw=raw,
        kid=token.kid or None,
    )
    index = Revocations(revocations)
    found = index.find(own)
    matching = [
        each for each in revocations for name in (token.issuer, iss) if _matches(each, token._replace(issuer=name), iat)
    ]
    assert (found is not None) == bool(matching)
    assert found is None or found in matching
    latest = {each.parts: each.issued_before for each in sorted(revocations, key=lambda each: each.issued_before)}
    assert {each.parts: each.issued_before for each in index} == latest
    assert len(index) == len(latest)
    for parts, issued_before in latest.items():
        assert index.get(parts) in revocations
        assert index.get(parts)[1] == issued_before  # type: ignore[index]
        index.discard(parts)
        assert index.get(parts) is None
    assert list(index) == []
