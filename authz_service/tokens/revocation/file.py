"""The operator's revocations, read from their file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from authz_service.config.revocations import read_revocations
from authz_service.tokens.revocation.revocations import Revocation, Revocations, TokenParts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from authz_service.config.model import Issuer


def revocations_in(file: Path, issuers: Sequence[Issuer]) -> Revocations:
    """The revocations of a file.

    Raises:
        ConfigError: with every problem.
    """
    return Revocations(
        Revocation(
            TokenParts(*(getattr(entry, name) or "" for name in TokenParts._fields)),
            math.inf if entry.issued_before is None else entry.issued_before,
            f"revocations[{place}] of {file.name}",
        )
        for place, entry in enumerate(read_revocations(file, issuers))
    )
