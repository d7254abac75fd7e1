"""An issuer whose keys are a file, so that releases need no provider. The tests sign its tokens."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from support.chart import merged
from support.signing import Signer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.kubectl import Namespace

_NAME: Final = "issuer-keys"
_FILE: Final = "jwks.json"
_LIFETIME: Final = 3600  # seconds


class Issuer:
    """The keys of all issuers of a namespace's releases, in a Secret that exists until the namespace is deleted."""

    def __init__(self, namespace: Namespace) -> None:
        self._signer = Signer("ES256")
        namespace.secret(_NAME, {_FILE: json.dumps({"keys": [self._signer.jwk()]})})

    def values(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values of a release whose issuers have these keys, and nothing else of them changed."""
        keys = {"jwks_file": f"/etc/authz-secrets/{_NAME}/{_FILE}"}
        issuers = [issuer | {"keys": keys} for issuer in values["config"]["issuers"]]
        secrets = [*values.get("secrets", ()), {"name": _NAME, "secretName": _NAME}]
        return merged(values, {"config": {"issuers": issuers}, "secrets": secrets})

    def token(self, values: Mapping[str, Any], scope: str) -> str:
        """An access token for the first issuer of a release, and its first audience."""
        issuer = values["config"]["issuers"][0]
        now = int(time.time())
        claims = {
            "iss": issuer["issuer"],
            "aud": issuer["audiences"][0],
            "sub": "alice",
            "client_id": "app",
            "jti": str(now),
            "iat": now,
            "exp": now + _LIFETIME,
            "scope": scope,
        }
        return self._signer.sign(claims)
