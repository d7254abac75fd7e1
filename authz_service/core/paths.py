r"""Reads the path of a request in the one way in which every party reads it, or refuses it.

Pure. A path that two parties could read differently is refused and never repaired: Envoy, this service and the upstream
each have their own reading of ``%2e%2e``, ``;x``, ``//`` and ``\\``, and a difference between two readings is a way to
bypass a rule.

Invariants of the segments that ``split`` returns:

* Envoy's normalization and RFC 3986 section 5.2.4 change nothing: there is no ``.`` or ``..`` segment (nor one with
  ``;parameters``, which some servers strip first) and no empty segment but the last.
* Decoding before and after splitting at ``/`` gives the same segments: no encoded separator, dot or control character.
* Decoding twice gives the same as decoding once: no ``%`` and two hex digits in a decoded segment.
* Every byte belongs to a UTF-8 sequence in its shortest form, so each segment has one character string.

``split_with_encoded_slashes`` accepts encoded slashes as well. Such a path has exactly two readings, with each slash in
a segment or with all of them as separators, and both are free of everything else that ``split`` refuses.
"""

from __future__ import annotations

import re
import string
from typing import Final
from urllib.parse import unquote_to_bytes

from authz_service.core import octets
from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason

# Nearly every path has these characters, which need no decoding (RFC 3986 section 3.3, without parameters).
_PLAIN = octets.only(f"{string.ascii_letters}{string.digits}-._~!$&'()*+,=:@/")

# Characters. RFC 9110 section 4.1 recommends that every party support 8000; beyond, some truncate or refuse.
MAX_PATH: Final = 8192

# Raw characters that no path may contain: controls, space, backslash, #, and everything beyond ASCII.
_FORBIDDEN_RAW = re.compile(r"[^!-~]|[\\#]")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Encoded slash, dot, backslash. Encoded controls are found after decoding.
_ENCODED_SLASH = re.compile("%2[Ff]")
_ENCODED_SEPARATOR = re.compile(r"%(?:2[FfEe]|5[Cc])")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_DOTS = frozenset({".", ".."})


_USERINFO = re.compile("//[^/]*@")  # in a target that is a whole URL


def without_secrets(target: str) -> str:
    """A request target for output: without query and fragment, and without user and password of a URL."""
    path = target.partition("?")[0].partition("#")[0]
    return _USERINFO.sub("//", path) if "@" in path else path


def without_userinfo(host: str) -> str:
    """A host for output: without user and password, which are a credential (RFC 3986 section 3.2.1)."""
    return host.rpartition("@")[2]


def _ambiguous(cause: str) -> Rejected:
    return Rejected(Reason.AMBIGUOUS_PATH, cause)


def split(target: str) -> tuple[str, ...]:
    """The decoded segments of a request target's path, without its query.

    ``/v1/a`` gives ``("v1", "a")``, ``/v1/`` gives ``("v1", "")``, ``/`` gives ``("",)``.

    Raises:
        Rejected: ``ambiguous_path``, if two parties could read the path differently.
    """
    path, _, _ = target.partition("?")
    if len(path) > MAX_PATH:
        raise _ambiguous("the path is longer than 8192 characters")
    if _is_plain(path):
        return tuple(path[1:].split("/"))
    return _split_with_care(path)


def _is_plain(path: str) -> bool:
    """Whether there is nothing to decode or to refuse: no dot segment, and no empty segment but the last."""
    return (
        path.startswith("/")
        and "/." not in path
        and "//" not in path
        and path.isascii()
        and (encoded := path.encode()).translate(_PLAIN) == encoded
    )


class SlashedPath(tuple[str, ...]):
    """The decoded segments of a path with encoded slashes, which are slashes in its segments."""

    __slots__ = ()

    @property
    def decoded(self) -> tuple[str, ...]:
        """The segments as a receiver reads them that takes the encoded slashes as separators."""
        return tuple(part for segment in self for part in segment.split("/"))


def split_with_encoded_slashes(target: str) -> tuple[str, ...]:
    """The same as ``split``, but a path with encoded slashes gives a ``SlashedPath``.

    ``/npm/@scope%2fname`` gives ``("npm", "@scope/name")``.

    Raises:
        Rejected: ``ambiguous_path``, if ``split`` would refuse the path with plain slashes in place of the encoded
            ones, or if an encoded slash begins or ends a segment or is in a segment with parameters.
    """
    path, _, _ = target.partition("?")
    if "%2f" not in path and "%2F" not in path:
        return split(path)
    if len(path) > MAX_PATH or path[0] != "/":
        return split(path)  # refuses
    parts = iter(split(_ENCODED_SLASH.sub("/", path)))
    raw = path[1:].split("/")
    segments = SlashedPath("/".join(next(parts) for _ in _ENCODED_SLASH.split(segment)) for segment in raw)
    for segment in segments:
        if "/" in segment and (segment[-1] == "/" or ";" in segment):
            raise _ambiguous("an encoded slash at the end of a segment, or in one with parameters")
    return segments


def _split_with_care(path: str) -> tuple[str, ...]:
    if not path.startswith("/"):
        raise _ambiguous("the path does not start with /")
    if _FORBIDDEN_RAW.search(path):
        raise _ambiguous("a raw control, space, backslash, # or non-ASCII character")
    if _BROKEN_ESCAPE.search(path):
        raise _ambiguous("an invalid percent escape")
    if _ENCODED_SEPARATOR.search(path):
        raise _ambiguous("an encoded slash, dot or backslash")
    raw = path[1:].split("/")
    segments = tuple(_decode(segment) for segment in raw)
    for segment in segments[:-1]:
        if not segment:
            raise _ambiguous("an empty segment")
        if ";" in segment:
            raise _ambiguous("parameters before a later segment")
    if segments[-1].partition(";")[0] in _DOTS or not _DOTS.isdisjoint(segments):
        raise _ambiguous("a dot segment")
    return segments


def _decode(segment: str) -> str:
    try:
        decoded = unquote_to_bytes(segment).decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise _ambiguous("an escape that is not UTF-8") from None
    if _CONTROL.search(decoded):
        raise _ambiguous("an encoded control character")
    if _ESCAPE.search(decoded):
        raise _ambiguous("a double encoding")
    return decoded
