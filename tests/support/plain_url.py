"""How RFC 3986 normalizes a URL, read with one rule for each character."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_UNRESERVED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"


def _plain_escapes(text: str) -> str | None:
    """With upper-case escapes, and none for unreserved characters; None with a broken one."""
    normalized = ""
    while text:
        if text[0] != "%":
            normalized, text = normalized + text[0], text[1:]
            continue
        if not re.fullmatch("%[0-9a-fA-F][0-9a-fA-F]", text[:3], re.ASCII):
            return None
        character = chr(int(text[1:3], 16))
        normalized += character if character in _UNRESERVED else text[:3].upper()
        text = text[3:]
    return normalized


def plain_uri(iri: str) -> str:
    """With spaces, and characters beyond ASCII that are not controls, encoded in the path."""
    encoded, slashes = "", 0
    for place, each in enumerate(iri):
        if each in "?#":
            return encoded + iri[place:]
        slashes += each == "/"
        in_path = slashes > 2
        printable = each == " " or (each > "\x9f" and not "\ud800" <= each <= "\udfff")
        encoded += "".join(f"%{octet:02X}" for octet in each.encode()) if in_path and printable else each
    return encoded


def plain_url(url: str) -> tuple[str, str, str] | None:
    """Scheme, authority and path, normalized; None if it is not an absolute URL."""
    if any(not "!" <= each <= "~" or each == "\\" for each in url) or url.count("#") > 1:
        return None
    scheme, separator, _ = url.partition("://")
    if not separator or scheme.lower() not in {"http", "https"}:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    authority, path = _plain_escapes(parts.netloc), _plain_escapes(parts.path)
    if authority is None or path is None:
        return None
    host, port = authority.lower(), ""
    if found := re.fullmatch(r"(.*):([0-9]*)", authority.lower()):
        host, port = found.groups()
    of_literal = host.startswith("[") and host.endswith("]") and len(host) > 2
    allowed = "0123456789abcdef:." if of_literal else _UNRESERVED
    name = host[1:-1] if of_literal else host
    if not name or any(each not in allowed for each in name) or "%" in parts.netloc.partition(":")[2]:
        return None
    default = {"http": "80", "https": "443"}[scheme.lower()]
    return scheme.lower(), host if port in {"", default} else f"{host}:{port}", path or "/"


def requested_url(host: str, target: str) -> tuple[str, str, str] | None:
    """That of a request with this host, over https unless the host is loopback."""
    if set(host) & set("/?#"):  # they end an authority
        return None
    with_https = plain_url(f"https://{host}{target}")
    loopback = with_https is not None and re.fullmatch(
        r"(.+\.)?localhost(:\d+)?|127\.\d{1,3}\.\d{1,3}\.\d{1,3}(:\d+)?|\[::1\](:\d+)?", with_https[1]
    )
    return plain_url(f"http://{host}{target}") if loopback else with_https
