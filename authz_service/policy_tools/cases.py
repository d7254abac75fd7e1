"""Policy test cases as they stand in a file.

Law: as strict as the configuration, and read by the same code: no unknown keys, no coercion, every problem at once with
its line. Only the claims of a token are free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictStr, model_validator

from authz_service.config.document import Problem
from authz_service.config.load import load_as
from authz_service.config.messages import nearest
from authz_service.config.model import Section
from authz_service.config.values import Name, Printable, Some
from authz_service.core.decision import NO_RULE_NAME
from authz_service.core.reasons import Reason
from authz_service.policy_tools.request import attributes_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from authz_service.config.model import Settings


def _url(value: str) -> str:
    attributes_of("", value, ())
    return value


class Request(Section):
    """A request as Envoy would ask about it. Nothing of it is mended."""

    method: StrictStr = Field("GET", description="As sent, in any case.")
    url: Annotated[StrictStr, AfterValidator(_url)] = Field(description="https://host/path, taken literally.")
    headers: dict[StrictStr, StrictStr] = Field({}, description="As sent.")
    policy: StrictStr = Field("", description="What the route's context_extensions say for authz_policy.")


class Token(BaseModel):
    """A token that is made for one case. Every other key is a claim; null takes a default one away."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    issuer: Name = Field("", validate_default=False, description="Name of the configured issuer that signs it.")
    header: dict[StrictStr, Any] = Field({}, description="Changes the JOSE header; null takes a member away.")
    signed_by: Literal["issuer", "stranger"] = Field(
        "issuer", description="stranger: by a key that the issuer never published, under the published one's kid."
    )
    raw: StrictStr | None = Field(None, description="Sent as it is, instead of a token that is made.")

    @model_validator(mode="after")
    def _issuer_or_raw(self) -> Token:
        if self.raw is None and not self.issuer:
            raise ValueError("needs an issuer, by the name that it has in the configuration")
        return self

    @property
    def claims(self) -> dict[str, Any]:
        """What the case says of claims, null included."""
        return dict(self.model_extra or {})


def _token(value: object) -> object:
    """A plain text is a token as it is."""
    return {"raw": value} if isinstance(value, str) else value


class Expect(Section):
    """What the answer must be; what is left out may be anything."""

    decision: Literal["allow", "deny"] | None = Field(None, description="What Envoy is told.")
    rule: StrictStr | None = Field(None, description="The rule that decides; - for none.")
    status: int | None = Field(None, description="HTTP status of a denial.")
    reason: StrictStr | None = Field(None, description="Why.")
    mode: Literal["enforce", "shadow"] | None = Field(None, description="Of the rule.")
    challenge: StrictStr | None = Field(None, description="All of WWW-Authenticate; null: there is none.")
    upstream: dict[StrictStr, StrictStr | None] | None = Field(
        None, description="Identity headers that the upstream gets; null: it does not get this one."
    )

    @model_validator(mode="after")
    def _something(self) -> Expect:
        if not self.model_fields_set:
            raise ValueError("expects nothing: write at least a decision")
        return self


class Case(Section):
    """One request, and what must become of it."""

    name: Printable = Field(description="Unique in the file.")
    request: Request = Field(description="What is asked.")
    token: Annotated[Token, BeforeValidator(_token)] | None = Field(None, description="Left out: none is sent.")
    expect: Expect = Field(description="What must be answered.")


class Cases(Section):
    """A file of cases."""

    cases: Some[Case] = Field(description="In the order in which they are tried.")


def read(file: Path, settings: Settings) -> tuple[Case, ...]:
    """The cases of a file, for a configuration.

    Raises:
        ConfigError: with every problem, each as ``FILE:LINE: path.to.key: what is wrong and what would be right``.
    """
    return load_as(Cases, file, lambda cases: _problems(cases, settings)).cases


def _problems(cases: Cases, settings: Settings) -> Iterator[Problem]:
    """What must agree with the configuration, and between the cases."""
    first: dict[str, int] = {}
    issuers = [issuer.label for issuer in settings.issuers]
    rules = [NO_RULE_NAME, *(rule.name for rule in settings.rules)]
    for place, case in enumerate(cases.cases):
        where = ("cases", place)
        if first.setdefault(case.name, place) != place:
            text = f"cases[{first[case.name]}] has this name too: give each case its own"
            yield Problem((*where, "name"), text)
        if case.token is not None and case.token.raw is None and case.token.issuer not in issuers:
            text = f"no issuer is called {case.token.issuer}: {nearest(case.token.issuer, issuers)}"
            yield Problem((*where, "token", "issuer"), text)
        if case.expect.rule is not None and case.expect.rule not in rules:
            text = f"no rule is called {case.expect.rule}: {nearest(case.expect.rule, rules)}"
            yield Problem((*where, "expect", "rule"), text)
        if case.expect.reason is not None and case.expect.reason not in set(Reason):
            text = f"{case.expect.reason!r} is no reason: {nearest(case.expect.reason, Reason)}"
            yield Problem((*where, "expect", "reason"), text)
