"""The sections and keys of a file of policy test cases, as strict as the configuration.

Only the claims of a token are arbitrary.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from authz_service.config.kinds import Anything, Members, Nullable, OneOf, Text, Whole, some
from authz_service.config.model import RuleMode
from authz_service.config.schema import schema_of
from authz_service.config.sections import (
    Section,
    SectionKey,
    SectionKind,
    ShortSection,
    key,
    nullable,
    optional,
    required,
)
from authz_service.config.values import NAME, PRINTABLE, STRING
from authz_service.core.reasons import Reason
from authz_service.policy_tools.request import attributes_of

Signer: TypeAlias = Literal["issuer", "stranger"]
CaseProof: TypeAlias = Literal["dpop", "mtls", "none", "stolen"]
Outcome: TypeAlias = Literal["allow", "deny", "answer"]


def _absolute_url(value: str) -> str:
    attributes_of("", value, ())
    return value


class CaseRequest(Section):
    """A request as Envoy would send it for a decision. It is taken literally."""

    method = key(STRING, default="GET", description="As sent; not converted to upper case.")
    url = required(Text(_absolute_url), description="https://host/path, taken literally.")
    headers = key(Members(STRING, STRING), default={}, description="As sent.")
    policy = key(STRING, default="", description="The authz_policy of the route's context_extensions.")


class CaseToken(Section, has_other_keys=True, keywords={"anyOf": [{"required": ["issuer"]}, {"required": ["raw"]}]}):
    """A token that is signed for one case. Every other key is a claim; null removes a default claim."""

    issuer = optional(NAME, if_absent="", description="Name of the configured issuer that signs the token.")
    header = key(
        Members(STRING, Anything()),
        default={},
        description="Members of the JOSE header to change; null removes one.",
    )
    signed_by: SectionKey[Signer] = key(
        OneOf(Signer),
        default="issuer",
        description="stranger: signed with a key that the issuer does not publish, under the kid of one it does.",
    )
    raw = nullable(STRING, description="A token to send unchanged, instead of signing one.")

    def check(self) -> None:
        """A token that is not raw is signed by an issuer."""
        if self.raw is None and not self.issuer:
            raise ValueError("needs an issuer: write the name of a configured issuer")

    @property
    def claims(self) -> dict[str, Any]:
        """The claims of the case, with null for those to remove."""
        return dict(self.others)


def _claims_or_text(value: Any) -> None:
    if value is not None and not isinstance(value, (str, dict)):
        raise ValueError("must be a mapping of claims, or a string to send unchanged")


class Expect(Section, keywords={"minProperties": 1}):
    """The expected decision. A key that is left out is not compared."""

    decision: SectionKey[Outcome | None] = nullable(OneOf(Outcome), description="The decision that Envoy gets.")
    rule = nullable(STRING, description="The rule that decides; - for none.")
    status = nullable(Whole(), description="HTTP status of a denial or an answer.")
    reason = nullable(Text(str, keywords={"enum": [*map(str, Reason)]}), description="The reason of the decision.")
    mode: SectionKey[RuleMode | None] = nullable(OneOf(RuleMode), description="The mode of the rule.")
    challenge = nullable(
        STRING,
        description="The whole WWW-Authenticate header, or several joined by a comma and a space; null: none is sent.",
    )
    upstream = nullable(
        Members(STRING, Nullable(STRING)),
        description="Identity headers that the upstream receives; null: it does not receive this one.",
    )
    metadata = nullable(
        Members(STRING, Anything()),
        description="Members of upstream.metadata, as JSON values; null: the member is not there.",
    )

    def check(self) -> None:
        """Without any key, every decision would be expected."""
        if not self.written:
            raise ValueError("expects nothing: write at least a decision")


class Case(Section):
    """One request and the expected decision."""

    name = required(PRINTABLE, description="Unique in the file.")
    request = required(SectionKind(CaseRequest), description="The request to decide.")
    token = nullable(
        ShortSection(CaseToken, "raw", _claims_or_text),
        description="The token to sign, or a string to send unchanged. Default: no token is sent.",
    )
    proof: SectionKey[CaseProof] = key(
        OneOf(CaseProof),
        default="none",
        description="What the sender proves. dpop, mtls: the token is bound to a key or a certificate of the run, and "
        "sent with a DPoP proof or with the certificate. stolen: it is bound, and sent by another client, with its own "
        "certificate if the rule requires mtls, else with a proof by its own key. none: no proof; a cnf that the case "
        "gives its token stays unproven.",
    )
    expect = required(SectionKind(Expect), description="The expected decision.")


class Cases(Section):
    """A file of cases."""

    cases = required(some(SectionKind(Case)), description="The cases, in the order in which they run.")


def schema() -> dict[str, Any]:
    """The JSON Schema of a file of cases."""
    return schema_of(Cases, "cases", "Policy test cases of authz-service")
