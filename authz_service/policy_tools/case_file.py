"""Reads files of policy test cases, by the code that reads the configuration: every problem at once with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.config.document import Problem
from authz_service.config.key_hints import nearest
from authz_service.config.load import load_as
from authz_service.core.decision import NO_RULE_NAME
from authz_service.core.reasons import Reason
from authz_service.policy_tools.cases import Cases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from authz_service.config.model import Settings
    from authz_service.policy_tools.cases import Case


def read(file: Path, settings: Settings) -> tuple[Case, ...]:
    """The cases of a file, for a configuration.

    Raises:
        ConfigError: with every problem, each as ``FILE:LINE: path.to.key: what is wrong and what would be right``.
    """
    return load_as(Cases, file, lambda cases: _problems(cases, settings)).cases


def _problems(cases: Cases, settings: Settings) -> Iterator[Problem]:
    """Problems between the cases, or between a case and the configuration."""
    first: dict[str, int] = {}
    issuers = [issuer.label for issuer in settings.issuers]
    rules = [NO_RULE_NAME, *(rule.name for rule in settings.rules)]
    for place, case in enumerate(cases.cases):
        where = ("cases", place)
        if first.setdefault(case.name, place) != place:
            text = f"cases[{first[case.name]}] has the same name: give each case its own name"
            yield Problem((*where, "name"), text)
        if case.token is not None and case.token.raw is None and case.token.issuer not in issuers:
            text = f"no issuer is named {case.token.issuer}: {nearest(case.token.issuer, issuers)}"
            yield Problem((*where, "token", "issuer"), text)
        if case.proof != "none" and (case.token is None or case.token.raw is not None):
            what = "there is no token" if case.token is None else "the token is sent unchanged"
            text = f"{what}, so it cannot be bound to a sender: write token: {{issuer: {issuers[0]}}}, or remove this"
            yield Problem((*where, "proof"), text)
        if case.expect.rule is not None and case.expect.rule not in rules:
            text = f"no rule is named {case.expect.rule}: {nearest(case.expect.rule, rules)}"
            yield Problem((*where, "expect", "rule"), text)
        for name in case.expect.metadata or {}:
            if name not in settings.upstream.metadata:
                text = "is not in upstream.metadata: add it there, or remove it here"
                yield Problem((*where, "expect", "metadata", name), text)
        if case.expect.reason is not None and case.expect.reason not in set(Reason):
            text = f"{case.expect.reason!r} is not a reason: {nearest(case.expect.reason, Reason)}"
            yield Problem((*where, "expect", "reason"), text)
