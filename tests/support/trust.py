"""Two trusted issuers with their keys and tokens; everything is real except the network."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

from authz_service.authorizer import Authorizer, Pending
from authz_service.config.model import DpopSettings, Issuer, MtlsSettings, RuleSettings, Settings
from authz_service.core.attributes import Attributes
from authz_service.core.bounded import Bounds
from authz_service.core.claim_path import parse_claim_path
from authz_service.core.claims import Claims, ValidatedToken
from authz_service.core.errors import Rejected
from authz_service.core.upstream import HeaderSource, UpstreamHeaders
from authz_service.keys.cache import KeyCache
from authz_service.rules.policy import DpopOffer, Policy
from authz_service.rules.resources import Resources
from authz_service.runtime.assembly import ProofState, proof_verifier_of
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.attempt import LAST
from authz_service.tokens.jwt.cache import MAX_RECENT, JwtCache
from authz_service.tokens.revocation.revocations import RevocationList
from authz_service.tokens.validator import TrustedIssuer, Validator
from support.key_source import FakeSource
from support.signing import Signer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz_service.core.decision import Decision

NOW = 1_800_000_000
ISSUER = "https://idp.example/"
OTHER = "https://other.example/"
RS, ES, ED, PS = Signer("RS256", "rs"), Signer("ES256", "es"), Signer("EdDSA", "ed"), Signer("PS256", "ps")
STRANGER = Signer("RS256", "stranger")
OTHER_RS = Signer("RS256", "theirs")
PUBLISHED = (RS.jwk(), ES.jwk(), ED.jwk(), PS.jwk(alg="PS256"), Signer("ES384", "es384").jwk())


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a valid access token; None removes one."""
    own = {"iss": ISSUER, "sub": "u1", "aud": "api", "client_id": "app", "iat": NOW, "exp": NOW + 600, "scope": "a b"}
    return {name: value for name, value in (own | changes).items() if value is not None}


def good(**changes: Any) -> str:
    """A valid token with these changes."""
    return RS.sign(claims(**changes))


class LocalValidator:
    """A validator that trusts two issuers; ``settings`` are for the first."""

    def __init__(
        self, *, max_entries: int = 100, max_bytes: int = 1 << 20, max_recent: int = MAX_RECENT, **settings: Any
    ) -> None:
        self.metrics = Metrics(transport="grpcio")
        self.bounds = Bounds(max_entries, max_bytes)
        self.cache = JwtCache(self.bounds, 300.0, max_recent)
        other_keys = (OTHER_RS.jwk(), Signer("RS256", "rs2").jwk(kid="rs"))
        self.sources = {ISSUER: FakeSource(jwks(*PUBLISHED)), OTHER: FakeSource(jwks(*other_keys))}
        self.issuers = [self._trusted(ISSUER, "main", settings), self._trusted(OTHER, "other", {})]
        self.validator = Validator(self.issuers, self.cache, self.metrics)
        self.refresh()

    def _trusted(self, url: str, name: str, settings: dict[str, Any]) -> TrustedIssuer:
        issuer = Issuer.read({"issuer": url, "name": name, "audiences": ["api"]} | settings)
        self.sources[url].lifetime = 3600.0
        keys = KeyCache(
            self.sources[url],
            issuer.keys,
            issuer=name,
            metrics=self.metrics.issuer(name),
            logger=logging.getLogger("authz.keys"),
            clock=lambda: float(NOW),
        )
        return TrustedIssuer(issuer, keys)

    def refresh(self) -> None:
        """Fetch every issuer's keys."""
        for issuer in self.issuers:
            asyncio.run(issuer.keys.refresh())

    def publish(self, *keys: dict[str, Any]) -> None:
        """Replace the keys that the first issuer publishes, for the next fetch."""
        self.sources[ISSUER].published = jwks(*keys)

    def validated(self, token: str, now: float = NOW) -> ValidatedToken:
        found = self.validator.validate(token, now, None, LAST)
        assert isinstance(found, ValidatedToken)
        return found

    def claims(self, token: str, now: float = NOW) -> Claims:
        return self.validated(token, now).claims

    def reason(self, token: str, now: float = NOW) -> str:
        """``ok``, or the reason why the token is denied; its cause contains no part of the token."""
        try:
            self.claims(token, now)
        except Rejected as rejected:
            for part in token.split("."):
                assert len(part) < 20 or part not in rejected.cause
            return rejected.reason.value
        return "ok"


class LocalAuthorizer(LocalValidator):
    """An authorizer with these rules over the two issuers."""

    def __init__(
        self,
        rules: list[dict[str, Any]],
        headers: dict[str, str],
        *,
        forward_authorization: bool = True,
        allow_preflight: bool = False,
        dpop: DpopSettings | None = None,
        mtls: MtlsSettings | None = None,
        resources: Sequence[dict[str, Any]] = (),
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        algorithms = " ".join((dpop or DpopSettings()).algorithms)
        self.policy = Policy(
            [RuleSettings.read(rule) for rule in rules],
            [each.settings for each in self.issuers],
            dpop=DpopOffer(algorithms, beside_bearer=dpop is not None),
        )
        everything = Settings.read(
            {
                "issuers": [each.settings for each in self.issuers],
                "rules": rules,
                "resources": resources,
                **({} if mtls is None else {"mtls": mtls}),
                **({} if dpop is None else {"dpop": dpop}),
            }
        )
        self.revocations = RevocationList()
        self.proof_state = ProofState.of(everything, self.metrics, None, float(NOW))
        proofs = proof_verifier_of(everything, self.metrics, self.proof_state)
        sources = {name: HeaderSource(parse_claim_path(claim)) for name, claim in headers.items()}
        self.authorizer = Authorizer(
            self.policy,
            self.validator,
            proofs,
            UpstreamHeaders(sources, () if forward_authorization else ("authorization",)),
            Resources(everything),
            self.revocations,
            max_token_bytes=16_384,
            record_omitted=self.metrics.record_omitted_headers,
            allow_preflight=allow_preflight,
        )

    def begin(
        self,
        path: str,
        token: str | None = None,
        *,
        method: str = "GET",
        host: str = "api.example.org:443",
        policy: str = "",
        **headers: str,
    ) -> Decision | Pending:
        """The decision about a request with this token and these headers."""
        headers |= {} if token is None else {"authorization": f"Bearer {token}"}
        return self.authorizer.begin(Attributes(method, host, path, headers, policy), NOW)

    def decide(self, path: str, token: str | None = None, **request: Any) -> Decision:
        """The same for a decision that needs no network."""
        decision = self.begin(path, token, **request)
        assert not isinstance(decision, Pending)
        return decision
