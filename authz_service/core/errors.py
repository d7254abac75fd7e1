"""The one tree of errors.

::

    AuthzError
    |-- Rejected         what came in is refused; carries the Reason that the caller hears and the cause for the log
    |-- FetchFailed      what was asked of an issuer could not be had: network, status, size, content
    |                    (authz_service.providers, authz_service.keys, authz_service.tokens)
    |-- BadMessage       what came over HTTP/1.1 cannot be read, or is larger than allowed (authz_service.http1)
    |-- ConfigError      the configuration is refused; carries every problem found (authz_service.config)
    `-- StartFailed      the service cannot start: an address in use, an unreadable certificate (authz_service.runtime)

A ``Rejected`` is the only way in which the code that judges a request says no; everything else that is raised while
deciding is a fault of ours and becomes an ``internal_error`` denial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz_service.core.reasons import Reason


class AuthzError(Exception):
    """Root of all errors that this package raises on purpose."""


class Rejected(AuthzError):  # noqa: N818 - it reads as what happened to the request
    """What came in is refused.

    ``cause`` goes to the log and to nobody else. It may name a header field or a claim and quote a name out of it
    (an issuer, a key id), shortened; never a token, a signature or a query string. ``retry_after`` is in seconds, where
    waiting may help.
    """

    def __init__(self, reason: Reason, cause: str, *, retry_after: int | None = None) -> None:
        super().__init__(cause)
        self.reason = reason
        self.cause = cause
        self.retry_after = retry_after


class FetchFailed(AuthzError):  # noqa: N818 - as Rejected
    """What was asked of an issuer could not be had. The text says why; it holds no token, secret or query string.

    ``retry_after`` is in seconds, where the provider asked to be left alone for so long.
    """

    def __init__(self, cause: str, *, retry_after: float = 0.0) -> None:
        super().__init__(cause)
        self.retry_after = retry_after


class BadMessage(AuthzError):  # noqa: N818 - as Rejected
    """A message over HTTP/1.1 that cannot be read, or not within its bounds.

    The text goes on where "the answer of ... " or "the request " began, and quotes nothing of the message.
    """

    def __init__(self, cause: str, *, too_large: bool = False) -> None:
        super().__init__(cause)
        self.too_large = too_large


class ConfigError(AuthzError):
    """The configuration is refused: ``problems`` holds one line for each thing that is wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class StartFailed(AuthzError):  # noqa: N818 - as Rejected
    """The service cannot start; the text says what to change."""


_MAX_SHOWN = 60  # characters of a value of the configuration: enough to find it again
_QUOTE_LIMIT = 120  # characters of a foreign name that a cause may quote: enough for any issuer in use


def shown(value: object, limit: int = _MAX_SHOWN) -> str:
    """A value of the configuration as a problem quotes it: on one line, and not the whole of a long one."""
    text = repr(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def quoted(name: object) -> str:
    """A foreign name for a cause: shortened, and with everything unprintable escaped."""
    text = ascii(name)
    return text if len(text) <= _QUOTE_LIMIT else text[:_QUOTE_LIMIT] + "..."


def printable(text: str) -> str:
    """A foreign string as people may be shown it.

    What could command a terminal, end the line, turn its direction or hide in it is escaped.
    """
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
