"""Issuers of one form that share their keys."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.issuer_template import IssuerTemplate, parse_issuer_template

ENTRA = "https://login.example.com/{tenantid}/v2.0"


def template(text: str = ENTRA, *tenants: str) -> IssuerTemplate:
    parsed = parse_issuer_template(text)
    assert parsed is not None
    return parsed._replace(tenants=frozenset(tenants) or None)


@pytest.mark.parametrize("issuer", ["https://idp.example.com/", "kubernetes/serviceaccount", "https://a/t/v2.0"])
def test_an_issuer_without_braces_is_no_template(issuer: str) -> None:
    assert parse_issuer_template(issuer) is None


@pytest.mark.parametrize("tenant", ["7b0d4a1e-0000-4000-8000-000000000001", "a", "acme.example", "A_b~c-1", "x" * 128])
def test_a_tenant_is_one_segment(tenant: str) -> None:
    assert template().tenant_of(f"https://login.example.com/{tenant}/v2.0") == tenant
    assert template("https://a/{t}").tenant_of(f"https://a/{tenant}") == tenant
    assert template("https://a/{t}/").tenant_of(f"https://a/{tenant}/") == tenant


@pytest.mark.parametrize(
    "tenant",
    [
        *("", "/", "a/b", "a/", "/a", ".", "..", "...", ".a", "-a", "_a", "~", "a b", " a", "a\n", "a\x00"),
        *("%61", "a%2fb", "a?", "a#", "a;b", "a:b", "a@b", "a+b", "a*", "{tenantid}", "{", "a\\b", "é", "a\u200b"),
        "x" * 129,
    ],
)
def test_what_is_not_plainly_one_segment_is_no_tenant(tenant: str) -> None:
    assert template().tenant_of(f"https://login.example.com/{tenant}/v2.0") is None
    assert template("https://a/{t}").tenant_of(f"https://a/{tenant}") is None


@pytest.mark.parametrize(
    "iss",
    [
        *("", "a", ENTRA, "https://login.example.com//v2.0", "https://login.example.com/v2.0"),
        *("https://login.example.com/t/v2.0/", "https://login.example.com/t/v1.0", "http://login.example.com/t/v2.0"),
        *("https://login.example.com.evil/t/v2.0", "https://evil/https://login.example.com/t/v2.0"),
        *("HTTPS://login.example.com/t/v2.0", "https://login.example.com/t/v2.0 ", "https://login.example.com/t"),
    ],
)
def test_another_form_is_not_accepted(iss: str) -> None:
    assert template().tenant_of(iss) is None


def test_prefix_and_suffix_do_not_share_characters() -> None:
    assert template("https://a/{t}/a/").tenant_of("https://a/") is None
    assert template("https://a/b/{t}/b/").tenant_of("https://a/b/") is None


def test_only_listed_tenants_are_accepted() -> None:
    listed = template(ENTRA, "one", "two")
    assert [listed.tenant_of(listed.filled(tenant)) for tenant in ("one", "two", "three")] == ["one", "two", None]


@given(st.text(string.ascii_letters + string.digits + "._~-/%{}?#@:", max_size=12))
def test_a_tenant_fills_the_template_again(tenant: str) -> None:
    found = template().tenant_of(template().filled(tenant))
    assert found in {None, tenant}
    assert found is None or "/" not in found


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (template(), template(), True),
        (template(), template("https://login.example.com/{t}/v2.0"), True),
        (template(), template("https://login.example.com/{t}/v1.0"), False),
        (template(), template("https://login.example.com/{t}"), False),
        (template(), template("https://other.example.com/{t}/v2.0"), False),
        (template("https://a/{t}/b"), template("https://a/x/{t}"), True),
        (template("https://a/{t}/b"), template("https://a/x/{t}/b"), False),
        (template("https://a/{t}/%62"), template("https://a/x/{t}"), False),
        (template("https://a/{t}/b", "y"), template("https://a/x/{t}"), False),
        (template("https://a/{t}/b", "x"), template("https://a/x/{t}", "c"), False),
        (template("https://a/{t}/b", "x"), template("https://a/x/{t}", "b"), True),
        (template(ENTRA, "a", "b"), template(ENTRA, "c"), False),
        (template(ENTRA, "a", "b"), template(ENTRA, "b"), True),
        (template(ENTRA, "a", "b"), template(), True),
    ],
)
def test_templates_overlap_if_an_issuer_has_both_forms(
    one: IssuerTemplate, other: IssuerTemplate, *, overlap: bool
) -> None:
    assert (one.overlaps(other), other.overlaps(one)) == (overlap, overlap)


_TEMPLATES = st.builds(
    lambda before, after, tenants: template("/".join(["https://h", *before, "{t}", *after]), *tenants),
    st.lists(st.sampled_from("ab"), max_size=2),
    st.lists(st.sampled_from("ab"), max_size=2),
    st.sets(st.sampled_from("abc"), max_size=2),
)


@given(_TEMPLATES, _TEMPLATES)
def test_templates_overlap_exactly_if_a_common_issuer_is_found(one: IssuerTemplate, other: IssuerTemplate) -> None:
    segments = issuers_of_length(len(one._segments()) - 3)
    common = any(one.tenant_of(iss) is not None and other.tenant_of(iss) is not None for iss in segments)
    assert one.overlaps(other) == common


def issuers_of_length(length: int) -> list[str]:
    """Every issuer with so many segments of a small alphabet."""
    found = ["https://h"]
    for _ in range(length):
        found = [f"{issuer}/{segment}" for issuer in found for segment in "abc"]
    return found
