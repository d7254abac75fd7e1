"""A file of revocations is a list of problems with their lines, or a list of which every entry counts.

* A file that cannot be read ends in ``ConfigError``, each problem of which names the file and a line of it.
* No accepted entry revokes every token, and each revokes a token that has its parts, but none without one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from authz_service.config.revocations import read_revocations
from authz_service.core.claims import Claims
from authz_service.core.errors import ConfigError
from authz_service.tokens.revocation.file import revocations_in
from fuzz import files
from fuzz.problems import require_located
from fuzz.sidecar import settings

if TYPE_CHECKING:
    from authz_service.config.revocations import RevocationEntry

OUTCOMES = {"some", "none", "rejected"}
MAX_BYTES = 4096
_PARTS = ("issuer", "subject", "client", "session", "jti", "kid")


def run(data: bytes) -> str:
    file = files.written("revocations.yaml", data)
    issuers = settings().issuers
    try:
        entries = read_revocations(file, issuers)
    except ConfigError as error:
        require_located(error, file, data)
        return "rejected"
    revocations = revocations_in(file, issuers)
    assert len(revocations) <= len(entries)
    assert revocations.find(_claims({}, issued_at=2**40)) is None
    for entry in entries[:20]:
        _require_effect(entry, entries, revocations)
    return "some" if entries else "none"


def _require_effect(entry: RevocationEntry, entries: tuple[RevocationEntry, ...], revocations: Any) -> None:
    parts = {name: value for name in _PARTS if (value := getattr(entry, name)) is not None}
    before = entry.issued_before
    assert revocations.find(_claims(parts, issued_at=None if before is None else before - 1)) is not None
    for left_out in parts:
        others = {name: value for name, value in parts.items() if name != left_out}
        expected = any(_revokes(each, others, 2**40) for each in entries)
        assert (revocations.find(_claims(others, issued_at=2**40)) is not None) == expected


def _revokes(entry: RevocationEntry, parts: dict[str, str], issued_at: float) -> bool:
    """A plain reading of an entry."""
    named = {name: value for name in _PARTS if (value := getattr(entry, name)) is not None}
    return named.items() <= parts.items() and (entry.issued_before is None or issued_at < entry.issued_before)


def _claims(parts: dict[str, str], *, issued_at: float | None) -> Claims:
    raw: dict[str, Any] = {name: parts[part] for name, part in (("sid", "session"), ("jti", "jti")) if part in parts}
    return Claims(
        issuer=parts.get("issuer", ""),
        subject=parts.get("subject", ""),
        client_id=parts.get("client", ""),
        audiences=frozenset(),
        scopes=frozenset(),
        scope="",
        raw=raw | ({} if issued_at is None else {"iat": issued_at}),
        kid=parts.get("kid"),
    )
