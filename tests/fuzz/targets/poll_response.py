"""The response to a poll for security events is one JSON object with one reading, or nothing of it counts.

* Anything else is rejected with ``FetchFailed``, whose text is the same whatever the response contains.
* Of an accepted response, the first SETs are as another reading finds them, at most as many as may be requested, and
  what is not a string is not a SET.
* Each of them can be acknowledged.
"""

from __future__ import annotations

import json
from typing import Any

from authz_service.core.errors import FetchFailed
from authz_service.tokens.revocation.poll_client import MAX_SETS, parse

OUTCOMES = {"sets", "no sets", "more", "rejected"}
MAX_BYTES = 8192
_REASONS = {
    "r has more than 4096 commas and brackets",
    "r has no object 'sets': check security_events.poll_endpoint",
    "r is not a JSON object",
    *(
        f"r is not strict JSON: {reason}"
        for reason in (
            "not UTF-8",
            "not JSON",
            "nested too deeply",
            "a duplicate member",
            "a number that is too large",
            "a number with too many digits",
            "NaN or Infinity",
            "a lone surrogate",
        )
    ),
}


def run(data: bytes) -> str:
    try:
        response = parse(data, "r")
    except FetchFailed as failure:
        assert str(failure) in _REASONS
        return "rejected"
    members: dict[str, Any] = json.loads(data.decode("utf-8-sig"))
    sets = members["sets"]
    assert len(response.sets) == min(len(sets), MAX_SETS)
    for (jti, text), (other_jti, value) in zip(response.sets.items(), sets.items(), strict=False):
        assert jti == other_jti
        assert text == (value if isinstance(value, str) else "")
    assert response.more_available == (members.get("moreAvailable") is True or len(sets) > MAX_SETS)
    acks = list(response.sets)
    assert json.loads(json.dumps(acks, ensure_ascii=False).encode()) == acks
    if response.more_available:
        return "more"
    return "sets" if response.sets else "no sets"
