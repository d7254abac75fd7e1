"""Tokens that say nothing by themselves: whom to ask, in which order, and what follows from what they say.

Law: synchronous but for ``ready``, which waits and decides nothing. A token that is remembered costs one look at each
server that the rule accepts, and with one server that is all. The servers are asked one after the other, in file order,
until one says that the token is active.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from authz_service.core.errors import Rejected
from authz_service.core.reasons import Reason
from authz_service.tokens.introspection.response import Answer, Unavailable, conclude

if TYPE_CHECKING:
    from authz_service.core.claims import Claims, ValidatedToken
    from authz_service.tokens.introspection.introspector import Call, Introspector

Answers = Sequence[Answer | Unavailable]

_B64TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750 section 2.1


@dataclass(slots=True)
class NeedIntrospection:
    """The token cannot be judged before these servers were asked about it."""

    token: str = field(repr=False)
    digest: bytes
    servers: Sequence[Introspector]
    verified: Claims | None = None  # those of a JWT whose signature was verified
    joined: Call | None = field(init=False, compare=False, repr=False)  # the first server's, if one is under way
    answers: list[Answer | Unavailable] = field(default_factory=list)

    def __post_init__(self) -> None:
        # It is awaited some turns of the loop later. A call that ended by then must not be followed by another one.
        self.joined = self.servers[0].under_way(self.digest)

    @property
    def what(self) -> str:
        """What is waited for, for the log."""
        return f"introspection at {self.servers[min(len(self.answers), len(self.servers) - 1)].issuer.label}"

    async def ready(self) -> None:
        """Ask them, up to the first that says it is active. Never raises for a call that failed."""
        joined = self.joined
        for server in self.servers:
            answer = server.look(self.digest, server.clock()) or await server.ask(
                self.token, self.digest, self.verified, joined
            )
            joined = None
            self.answers.append(answer)
            if isinstance(answer, Answer) and answer.active:
                return


class Servers:
    """Everybody who can be asked about tokens, in file order."""

    def __init__(self, introspectors: Sequence[Introspector]) -> None:
        self._all = tuple(introspectors)
        self._accepted: dict[frozenset[str], tuple[Introspector, ...]] = {}  # by what rules accept: a closed list
        self._confirming = {each.issuer.label: each for each in introspectors if each.settings.mode == "always"}

    def accepted(self, issuers: frozenset[str] | None) -> tuple[Introspector, ...]:
        """Those of the issuers with these names; None is all."""
        if issuers is None or not self._all:
            return self._all
        servers = self._accepted.get(issuers)
        if servers is None:
            servers = tuple(each for each in self._all if each.issuer.label in issuers)
            self._accepted[issuers] = servers
        return servers

    def confirming(self, issuer: str) -> Introspector | None:
        """Whom to ask about a verified JWT of the issuer with this name."""
        return self._confirming.get(issuer)


def claims_of_opaque(
    token: str, digest: bytes, servers: Sequence[Introspector], now: float, *, may_fetch: bool, answers: Answers = ()
) -> ValidatedToken | NeedIntrospection:
    """An opaque token as one of these servers describes it. ``answers`` are those that were waited for.

    Raises:
        Rejected: where none does, or where the token is none that anybody could have issued.
    """
    if answers:
        return conclude(answers)
    missing: list[Introspector] = []
    known: list[Answer] = []
    for server in servers:
        answer = server.look(digest, now)
        if answer is None:
            missing.append(server)
        elif answer.active:
            return answer.token()
        else:
            known.append(answer)
    if not missing:
        return conclude(known)
    if not _B64TOKEN.fullmatch(token):
        raise Rejected(Reason.MALFORMED_TOKEN, "neither a JWT nor the characters of a token")
    return _need(NeedIntrospection(token, digest, missing), may_fetch=may_fetch)


def claims_of_verified(
    text: str,
    digest: bytes,
    token: ValidatedToken,
    server: Introspector,
    now: float,
    *,
    may_fetch: bool,
    answers: Answers = (),
) -> ValidatedToken | NeedIntrospection:
    """A verified JWT, if its issuer says that it is still active. ``text`` is its compact serialization.

    Raises:
        Rejected: if it says that it is not, or could not be asked.
    """
    if answers:
        conclude(answers)
        return token
    answer = server.look(digest, now)
    if answer is None:
        return _need(NeedIntrospection(text, digest, (server,), token.claims), may_fetch=may_fetch)
    answer.token()
    return token


def _need(need: NeedIntrospection, *, may_fetch: bool) -> NeedIntrospection:
    if not may_fetch:
        raise Rejected(Reason.INTROSPECTION_UNAVAILABLE, "nobody was asked about the token", retry_after=1)
    return need
