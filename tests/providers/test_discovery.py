"""Metadata is fetched from the URLs in the standards. Its content is tested with the key sources."""

from __future__ import annotations

import pytest

from authz_service.providers.discovery import metadata_urls

OPENID = "/.well-known/openid-configuration"
OAUTH = "/.well-known/oauth-authorization-server"


@pytest.mark.parametrize(
    ("issuer", "openid", "oauth"),
    [
        ("https://a.example", OPENID, OAUTH),
        ("https://a.example/", OPENID, OAUTH),
        ("https://a.example/b", "/b" + OPENID, OAUTH + "/b"),
        ("https://a.example/b/", "/b" + OPENID, OAUTH + "/b"),
        ("https://a.example/b/c", "/b/c" + OPENID, OAUTH + "/b/c"),
        ("https://a.example/b%20c", "/b%20c" + OPENID, OAUTH + "/b%20c"),
    ],
)
def test_metadata_urls_are_those_of_the_two_standards(issuer: str, openid: str, oauth: str) -> None:
    assert metadata_urls(issuer)[:2] == (f"https://a.example{openid}", f"https://a.example{oauth}")


@pytest.mark.parametrize(("issuer", "third"), [("/b", ["/b"]), ("/b/c/", ["/b/c"]), ("", []), ("/", [])])
def test_an_issuer_with_a_path_has_a_third_metadata_url(issuer: str, third: list[str]) -> None:
    assert metadata_urls(f"https://a.example{issuer}")[2:] == tuple(
        f"https://a.example{OPENID}{path}" for path in third
    )


def test_a_metadata_url_has_the_port_of_the_issuer() -> None:
    assert metadata_urls("https://a.example:8443/b")[1] == f"https://a.example:8443{OAUTH}/b"
