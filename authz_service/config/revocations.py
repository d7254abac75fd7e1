"""The operator's list of revocations: a file beside the configuration, read by the same rules.

Every problem is reported at once, each with its line. A file with any problem is refused as a whole.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from authz_service.config.document import Problem
from authz_service.config.key_hints import nearest
from authz_service.config.kinds import Kind, Many, Text
from authz_service.config.load import load_as
from authz_service.config.sections import Section, SectionKind, optional, required
from authz_service.config.values import EMPTY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from authz_service.config.model import Issuer

_TIME = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)"
_HOW = "write a time with its zone, such as 2026-01-31T12:00:00Z, or seconds since the epoch"
# Of 2001 and 2286. A number outside is a year or has milliseconds, and would revoke nothing or everything.
_EARLIEST, _LATEST = 1e9, 1e10


def _some_text(value: str) -> str:
    if not value:
        raise ValueError(EMPTY)
    return value


class _Time(Kind[float]):
    """Seconds since the epoch: an RFC 3339 time, or a number as in a token."""

    def read(self, value: Any, folder: Path | None = None) -> float:  # noqa: ARG002 - the interface
        """The seconds."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = value
        elif isinstance(value, str) and re.fullmatch(_TIME, value, re.ASCII):
            try:
                seconds = datetime.fromisoformat(value.upper()).timestamp()
            except (ValueError, OverflowError):
                raise ValueError(f"is not a time that exists: {_HOW}") from None
        else:
            raise ValueError(f"is not a time: {_HOW}")
        if not _EARLIEST <= seconds < _LATEST:
            raise ValueError(f"is not a time between 2001 and 2286: {_HOW}")
        return float(seconds)


_VALUE = Text(_some_text)


class RevocationEntry(Section):
    """Revokes the tokens that have all of its parts."""

    issuer = optional(_VALUE, description="Name or identifier of the issuer; of a tenant, its identifier.")
    subject = optional(_VALUE, description="The token's sub.")
    client = optional(_VALUE, description="The token's client.")
    session = optional(_VALUE, description="The token's sid.")
    jti = optional(_VALUE, description="The token's jti.")
    kid = optional(_VALUE, description="The kid of the key that verifies the token.")
    issued_before = optional(
        _Time(),
        description="Only tokens issued (iat) before this time. Default: whenever they were issued.",
    )

    def check(self) -> None:
        """An entry without any part would revoke every token."""
        if not self.written:
            raise ValueError("is empty, which would revoke every token: write at least one part")


class RevocationsFile(Section):
    """A file of revocations."""

    revocations = required(Many(SectionKind(RevocationEntry)), description="The revocations; [] for none.")


def read_revocations(file: Path, issuers: Sequence[Issuer]) -> tuple[RevocationEntry, ...]:
    """The entries of a file, with the names of their issuers in place of identifiers.

    Raises:
        ConfigError: with every problem, each as ``FILE:LINE: path.to.key: what is wrong and what would be right``.
    """
    entries = load_as(RevocationsFile, file, lambda content: _unknown_issuers(content, issuers)).revocations
    labels = {issuer.issuer: issuer.label for issuer in issuers}
    return tuple(
        entry if entry.issuer is None else entry.with_values(issuer=labels.get(entry.issuer, entry.issuer))
        for entry in entries
    )


def _unknown_issuers(content: RevocationsFile, issuers: Sequence[Issuer]) -> Iterator[Problem]:
    known = {name for issuer in issuers for name in (issuer.label, issuer.issuer)}
    templates = [issuer.template for issuer in issuers if issuer.template is not None]
    for place, entry in enumerate(content.revocations):
        iss = entry.issuer
        if iss is None or iss in known or any(template.tenant_of(iss) is not None for template in templates):
            continue
        yield Problem(("revocations", place, "issuer"), f"no issuer is named {iss!r}: {nearest(iss, sorted(known))}")
