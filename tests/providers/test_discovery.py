"""Metadata are looked for where the standards put them; what they may say is proved with the key sources."""

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
def test_metadata_are_where_the_two_standards_say(issuer: str, openid: str, oauth: str) -> None:
    assert metadata_urls(issuer) == (f"https://a.example{openid}", f"https://a.example{oauth}")


def test_the_port_of_the_issuer_is_the_port_of_its_metadata() -> None:
    assert metadata_urls("https://a.example:8443/b")[1] == f"https://a.example:8443{OAUTH}/b"
