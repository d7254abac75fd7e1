"""The tree of errors, and how messages quote foreign values.

::

    AuthzError
    |-- Rejected      a request or its token is refused (authorizer, core, policy_tools, rules, tokens, transport)
    |   `-- ProofRejected   its sender did not prove what the token is bound to (tokens)
    |-- FetchFailed   a provider, or a collector of traces, gave nothing usable (keys, providers, runtime, tokens)
    |-- BadMessage    an HTTP/1.1 message is malformed or too large (admin, core, providers)
    |-- ConfigError   the configuration, or a file of test cases, is refused (config)
    `-- StartFailed   a process cannot start: an address, a file (admin, demo, initial_config, runtime, transport)

In parentheses: the packages that raise it. Code that decides a request refuses it by ``Rejected`` alone; any other
exception there is a defect and becomes an ``internal_error`` denial. Exceptions by which a module signals something to
its direct caller are not part of the tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz_service.core.claims import Identity, UnverifiedIdentity
    from authz_service.core.reasons import Reason


class AuthzError(Exception):
    """Root of all errors that this package raises on purpose."""


class Rejected(AuthzError):  # noqa: N818 - it reads as what happened to the request
    """A request or its token is refused: the caller gets ``reason``, the log gets ``cause``.

    ``cause`` may name a header field or a claim and quote a name from it (an issuer, a key id), shortened; never a
    token, a signature or a query string. ``retry_after`` is in seconds, and set if a retry may succeed. ``identity`` is
    that of the token, as far as it is known; the validator sets it.
    """

    def __init__(self, reason: Reason, cause: str, *, retry_after: int | None = None) -> None:
        super().__init__(cause)
        self.reason = reason
        self.cause = cause
        self.retry_after = retry_after
        self.identity: Identity | UnverifiedIdentity | None = None


class ProofRejected(Rejected):
    """The sender of a token did not prove what the token is bound to.

    ``scheme`` is that of the challenge: the one with which the token can be used.
    """

    def __init__(self, reason: Reason, cause: str, *, scheme: str) -> None:
        super().__init__(reason, cause)
        self.scheme = scheme


class FetchFailed(AuthzError):  # noqa: N818 - as Rejected
    """An identity provider, a file in its place, or a collector of traces, gave nothing usable.

    The message says why; it contains no token, secret or query string. ``retry_after`` is in seconds, if the provider
    sent one.
    """

    def __init__(self, cause: str, *, retry_after: float = 0.0) -> None:
        super().__init__(cause)
        self.retry_after = retry_after


class BadMessage(AuthzError):  # noqa: N818 - as Rejected
    """An HTTP/1.1 message is malformed, or exceeds its bounds.

    The message of the error continues a sentence such as "the request ", and quotes nothing.
    """

    def __init__(self, cause: str, *, too_large: bool = False) -> None:
        super().__init__(cause)
        self.too_large = too_large


class ConfigError(AuthzError):
    """The configuration, or a file of test cases, is refused; ``problems`` has one line for each thing wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class StartFailed(AuthzError):  # noqa: N818 - as Rejected
    """A process cannot start; the message says what to change."""


_MAX_SHOWN = 60  # characters of a configured value: enough to find it in the file
_MAX_QUOTED = 120  # characters of a foreign name that a cause may quote: enough for any issuer in use
_MAX_LISTED = 3  # foreign names that a cause may quote of a list


def shown(value: object, limit: int = _MAX_SHOWN) -> str:
    """A configured value as a problem quotes it: on one line, and shortened."""
    text = repr(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def quoted(name: object) -> str:
    """A foreign name as a cause quotes it: shortened, with everything but printable ASCII escaped."""
    text = ascii(name)
    return text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "..."


def quoted_list(names: Sequence[object]) -> str:
    """Foreign names as a cause quotes them: the first three, and how many more there are."""
    more = [f"and {len(names) - _MAX_LISTED} more"] if len(names) > _MAX_LISTED else []
    return f"[{', '.join([*map(quoted, names[:_MAX_LISTED]), *more])}]"


def printable(text: str) -> str:
    """A foreign string for a terminal: characters that control it, end the line, or are invisible are escaped."""
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
