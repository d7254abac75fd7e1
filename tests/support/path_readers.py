"""How other programs read a path: each reader maps the raw path to decoded segments."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable


def _merge_slashes(path: str) -> str:
    return re.sub("/{2,}", "/", path)


def _rfc3986_remove_dot_segments(path: str) -> str:
    """The algorithm of RFC 3986 section 5.2.4."""
    output = ""
    while path:
        if path.startswith("../"):
            path = path[3:]
        elif path.startswith(("./", "/./")):
            path = path[2:]
        elif path == "/.":
            path = "/"
        elif path.startswith("/../") or path == "/..":
            path = "/" + path[4:]
            output = output.rpartition("/")[0]
        elif path in {".", ".."}:
            path = ""
        else:
            segment, slash, rest = path[1:].partition("/")
            output, path = output + path[0] + segment, slash + rest
    return output


def _decoded(path: str) -> tuple[str, ...]:
    return tuple(unquote(segment, errors="strict") for segment in path.removeprefix("/").split("/"))


def _envoy(path: str) -> tuple[str, ...]:
    """normalize_path, merge_slashes and path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD."""
    unescaped = re.sub("%2[fF]", "/", re.sub("%5[cC]", "\\\\", re.sub("%2[eE]", ".", path)))
    return _decoded(_merge_slashes(_rfc3986_remove_dot_segments(unescaped.replace("\\", "/"))))


def _browser(path: str) -> tuple[str, ...]:
    """The path state of the URL standard: %2e is a dot, and a backslash is a slash."""
    read: list[str] = []
    for segment in path.replace("\\", "/").removeprefix("/").split("/"):
        match re.sub("%2[eE]", ".", segment):
            case "..":
                del read[-1:]
            case ".":
                pass
            case _:
                read.append(unquote(segment, errors="strict"))
    return tuple(read)


READERS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "Envoy": _envoy,
    "RFC 3986": lambda path: _decoded(_rfc3986_remove_dot_segments(path)),
    "an upstream that decodes, then splits": lambda path: tuple(unquote(path).removeprefix("/").split("/")),
    "a server that decodes twice": lambda path: tuple(unquote(unquote(path)).removeprefix("/").split("/")),
    "a server that decodes repeatedly": lambda path: tuple(
        re.sub("%(?:25)+(?=[0-9a-fA-F]{2})", "%", unquote(path)).removeprefix("/").split("/")
    ),
    "a file server": lambda path: tuple(
        (posixpath.normpath(unquote(path)) + "/" * (path != "/" and path.endswith("/"))).removeprefix("/").split("/")
    ),
    "Windows": lambda path: tuple(unquote(path).replace("\\", "/").removeprefix("/").split("/")),
    "a C program": lambda path: tuple(unquote(path).partition("\0")[0].removeprefix("/").split("/")),
    "a browser": _browser,
}


def require_two_readings(path: str, segments: tuple[str, ...]) -> None:
    """Fail unless every reader reads the path as these segments, with encoded slashes in them or as separators."""
    plain = re.sub("%2[fF]", "/", path)
    require_one_reading(plain, tuple("/".join(segments).split("/")))
    assert _decoded(path) == segments
    # Who decodes after splitting and removes ;parameters or dot segments finds none in a segment with a slash.
    assert all(";" not in segment for segment in segments if "/" in segment)
    assert _rfc3986_remove_dot_segments(path) == path


def require_one_reading(path: str, segments: tuple[str, ...]) -> None:
    """Fail unless every reader reads the path as these segments."""
    assert {name: read(path) for name, read in READERS.items()} == dict.fromkeys(READERS, segments)
    # A server that removes ;parameters reads the same, except for those of the last segment, and finds no dot segments.
    cut = re.sub(";[^/]*", "", path)
    assert _rfc3986_remove_dot_segments(cut) == cut
    assert _decoded(cut)[:-1] == segments[:-1]
