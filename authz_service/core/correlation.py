"""The ids by which a request is found in other logs and in traces, as far as its headers have well-formed ones.

Pure. Whatever a client sends under these names, an id here is short and has harmless characters only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_REQUEST_ID = 100  # characters; Envoy's are UUIDs of 36
_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:/+=@~-]{{1,{MAX_REQUEST_ID}}}")
# W3C Trace Context level 1, section 3.2: a later version may append more, and ff is not a version.
_TRACEPARENT = re.compile(
    r"(?:00(?=.{53}\Z)|(?!00|ff)[0-9a-f]{2})-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(?=-|\Z)"
)
_SAMPLED = 0x01


class Correlation(NamedTuple):
    """The ids of one request; "" for each that it does not have."""

    request_id: str = ""  # x-request-id
    trace_id: str = ""  # traceparent: always has a span id beside it
    span_id: str = ""  # of the caller's span
    sampled: bool = False  # the caller records this trace


NO_CORRELATION = Correlation()


def correlation_of(headers: Mapping[str, str], traceparent: str = "") -> Correlation:
    """The ids in the headers of a request.

    A well-formed ``traceparent`` of the call about the request takes precedence: the calling Envoy's span is nearer
    than that of its client, and exists also where the trace begins at that Envoy.
    """
    request_id = headers.get("x-request-id", "")
    if request_id and not _REQUEST_ID.fullmatch(request_id):
        request_id = ""
    parsed = _TRACEPARENT.match(traceparent) if traceparent else None
    if parsed is None:
        sent = headers.get("traceparent")
        parsed = None if sent is None else _TRACEPARENT.match(sent)
    if parsed is None:
        return Correlation(request_id) if request_id else NO_CORRELATION
    trace_id, span_id, flags = parsed.groups()
    return Correlation(request_id, trace_id, span_id, bool(int(flags, 16) & _SAMPLED))
