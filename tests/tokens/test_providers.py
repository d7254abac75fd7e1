"""Tokens as known providers issue them: access tokens are accepted, and their other tokens are not.

``tests/vectors/providers.json`` has a header and claims for each; times are added and the signature is made here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from authz_service.core.decision import Allow
from support.trust import NOW, RS, LocalAuthorizer

PROVIDERS = json.loads((Path(__file__).parents[1] / "vectors" / "providers.json").read_bytes())
TIMES = {"iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 3590}


@pytest.mark.parametrize("vector", PROVIDERS, ids=lambda vector: str(vector["name"]))
def test_the_access_tokens_of_known_providers_are_accepted_and_their_other_tokens_are_not(
    vector: dict[str, Any],
) -> None:
    require = {"scopes": vector["scopes"]} if "scopes" in vector else {}
    service = LocalAuthorizer([{"name": "r", "require": require}], {}, **vector["settings"])
    token = RS.sign_json(json.dumps(vector["header"]).encode(), json.dumps(vector["claims"] | TIMES).encode())
    decision = service.decide("/", token)
    assert decision.reason == vector.get("rejected", "ok")
    assert isinstance(decision, Allow) == ("accepted" in vector)
    for name, value in vector.get("accepted", {}).items():
        assert getattr(decision.claims, name) == value
