"""Configurations whose issuers have their keys in a file, so that nothing is fetched."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

    from support.signing import Signer


def written(settings: dict[str, Any], folder: Path, signer: Signer) -> dict[str, Any]:
    """Write ``config.yaml``, with this signer's key for every issuer, and return what it has."""
    (folder / "jwks.json").write_text(json.dumps({"keys": [signer.jwk()]}))
    issuers = [each | {"keys": {"jwks_file": "jwks.json"}} for each in settings["issuers"]]
    whole = settings | {"issuers": issuers}
    (folder / "config.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    return whole
