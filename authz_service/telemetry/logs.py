"""The log: one line per record, whatever the record contains.

Invariants:

* No token and no query string is logged, and no exception's message, which may contain either: an exception is logged
  with its type and place.
* Every string is truncated, redacted and escaped here, in ``_clean``. No client and no provider can make a line long.
* Logging never raises: with a closed stream the line is lost, not the request.
"""

from __future__ import annotations

import json
import logging
import math
import re
import traceback
from collections import Counter
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Literal, Protocol

from authz_service.core.claims import UnverifiedIdentity
from authz_service.core.decision import decision_label
from authz_service.core.paths import without_secrets, without_userinfo
from authz_service.core.reasons import DENIALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from authz_service.core.attributes import Attributes
    from authz_service.core.correlation import Correlation
    from authz_service.core.decision import Decision

_OWN = "authz"  # the parent of all our loggers
_DECISIONS = f"{_OWN}.decision"
_MAX_CLIENT_STRING = 256  # characters of a string from a client: enough to recognize it, too few to fill a disk
_MAX_UNVERIFIED = 128  # of a string from a token whose signature was not verified
_MAX_STRING = 1024  # characters of any string: longer than any cause or configuration problem
_MAX_ITEMS = 100  # of a list
_MAX_FRAMES_STRING = 4096  # characters of an exception's frames, which no client can influence
_MAX_CHAIN = 5  # exceptions of one chain
_MAX_FRAMES = 20  # innermost frames of one exception: a recursion has a thousand

# A JWT, complete or truncated: base64url of {" starts with eyJ. Or whatever follows the scheme and a space, which may
# be escaped as in a URL or in a Python literal; after DPoP, which causes mention, only what is longer than a word.
_SPACES = r"(?:\s|\+|%20|\\[a-z])+"
_SECRET = re.compile(rf"eyJ[\w.%~+=-]*|(?i:bearer){_SPACES}\S+|(?i:dpop){_SPACES}\S{{16,}}")
_BARE = re.compile(r"[!#-<>-\[\]-~]+")  # printable ASCII without space, quote, = and backslash
# Where a library's message may begin to quote an exception's message.
_QUOTATION = re.compile(r"[:(<\n]")


class Writable(Protocol):
    """The part of a text stream that logging needs."""

    def write(self, text: str, /) -> object:
        """Write a string."""

    def flush(self) -> object:
        """Write buffered strings."""


def fields(**members: object) -> dict[str, object]:
    """The fields of a record: ``logger.info("new keys", extra=fields(issuer="main", keys=3))``."""
    return {"fields": members}


def configure(
    level: str, format_: str, stream: Writable, worker: int | None = None, decisions: Writable | None = None
) -> None:
    """Write our records of this level and above, and the libraries' warnings and errors, to ``stream``.

    ``format_`` is ``json`` or ``text``. If ``worker`` is given, each line has that number. If ``decisions`` is given,
    the decision log goes there, whatever the level is. Another call replaces the effect of the previous one.
    """
    formatter = _LineFormatter(_FORMATS[format_], {} if worker is None else {"worker": worker})
    handler = _handler(stream, formatter)
    _send(_OWN, handler, level.upper())
    _send(None, handler, logging.WARNING)  # the root logger
    _send(
        _DECISIONS,
        None if decisions is None else _handler(decisions, formatter),
        logging.NOTSET if decisions is None else logging.INFO,
    )
    logging.getLogger(_OWN).propagate = False
    logging.getLogger(_DECISIONS).propagate = decisions is None


def _handler(stream: Writable, formatter: logging.Formatter) -> _Handler:
    handler = _Handler(stream)
    handler.setFormatter(formatter)
    return handler


def _send(name: str | None, handler: _Handler | None, min_level: str | int) -> None:
    """Send the records of a logger to this handler alone; to those of its parents if it is None."""
    logger = logging.getLogger(name)
    previous = [other for other in logger.handlers if isinstance(other, _Handler)]
    if handler is not None:
        logger.addHandler(handler)
    for other in previous:
        logger.removeHandler(other)
    logger.setLevel(min_level)


class RateLimit:
    """Limits what is logged to one event of each kind per interval. Kinds are from a closed list."""

    def __init__(self, timer: Callable[[], float], interval: float) -> None:
        """``timer`` gives seconds of a monotonic clock, and ``interval`` is in seconds."""
        self._timer = timer
        self._interval = interval
        self._logged_at: dict[object, float] = {}

    def is_due(self, kind: object) -> bool:
        """Whether an event of this kind is to be logged now; if so, the next one is due after the interval."""
        now = self._timer()
        if now - self._logged_at.get(kind, -math.inf) < self._interval:
            return False
        self._logged_at[kind] = now
        return True


class RateLimitedLog:
    """Warnings that clients can cause: at most one of each kind per interval, with the number of suppressed ones."""

    def __init__(self, logger: logging.Logger, timer: Callable[[], float], interval: float) -> None:
        """``timer`` gives seconds of a monotonic clock, and ``interval`` is in seconds."""
        self._logger = logger
        self._limit = RateLimit(timer, interval)
        self._suppressed: Counter[str] = Counter()  # by kind, since the last one was logged

    def warning(self, kind: str, event: str, /, **members: object) -> None:
        """Log the warning unless another one of its kind was logged recently. ``kind`` is from a closed list."""
        if not self._limit.is_due(kind):
            self._suppressed[kind] += 1
            return
        suppressed = self._suppressed.pop(kind, 0)
        more = {"suppressed": suppressed} if suppressed else {}
        self._logger.warning(event, extra=fields(**members, **more))


class DecisionLog:
    """One line per decision."""

    _LABELS: Mapping[str, tuple[str, ...]] = {"none": (), "denied": ("deny",), "all": ("allow", "deny", "answer")}

    def __init__(self, which: Literal["none", "denied", "all"]) -> None:
        self._labels = self._LABELS[which]
        self._logger = logging.getLogger(_DECISIONS)

    def write(
        self, attributes: Attributes, decision: Decision, decision_id: str, correlation: Correlation, seconds: float
    ) -> None:
        """Log a decision and its duration, if decisions of its kind are to be logged."""
        if decision_label(decision) in self._labels and self._logger.isEnabledFor(logging.INFO):
            members = _decision_fields(attributes, decision, correlation)
            self._logger.info(
                "decision", extra=fields(decision_id=decision_id, **members, duration_us=round(seconds * 1e6))
            )


def _decision_fields(attributes: Attributes, decision: Decision, correlation: Correlation) -> dict[str, object]:
    label = decision_label(decision)
    members: dict[str, object] = {
        "decision": label,
        "reason": decision.reason,
        "rule": decision.rule,
        "mode": decision.mode,
    }
    if label == "deny":
        members |= {"status": int(DENIALS[decision.reason].status), "cause": decision.cause}
    from_client = {
        "method": attributes.method,
        "host": without_userinfo(attributes.host),
        "path": without_secrets(attributes.path),
    }
    if correlation.request_id:
        from_client["request_id"] = correlation.request_id
    if correlation.trace_id:
        from_client |= {"trace_id": correlation.trace_id, "span_id": correlation.span_id}
    unverified = {}
    match decision.claims or decision.identity:
        case None:
            pass
        case UnverifiedIdentity(issuer, kid):
            unverified = {"unverified_issuer": issuer, "unverified_kid": kid}
        case verified:
            from_client |= {"issuer": verified.issuer, "subject": verified.subject, "client_id": verified.client_id}
    return (
        members
        | {name: _truncated(string, _MAX_CLIENT_STRING) for name, string in from_client.items()}
        | {name: _truncated(each, _MAX_UNVERIFIED) for name, each in unverified.items() if isinstance(each, str)}
    )


def _truncated(string: str, max_length: int) -> str:
    return string if len(string) <= max_length else string[:max_length] + "..."


class _Handler(logging.StreamHandler["Writable"]):
    """Writes to a stream while that is possible."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Lose the line: there is no other place to report it."""


class _LineFormatter(logging.Formatter):
    """Formats a record as one line of ASCII."""

    def __init__(self, render: Callable[[Mapping[str, object]], str], always: Mapping[str, object]) -> None:
        super().__init__()
        self._render = render
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        ours = {
            "time": datetime.fromtimestamp(record.created, UTC).strftime(f"%Y-%m-%dT%H:%M:%S.{int(record.msecs):03}Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record),
            **self._always,
        }
        # Twice: they come first, and no field of the same name replaces them.
        members = ours | getattr(record, "fields", {}) | ours
        values = {_clean(name): _value(member) for name, member in members.items()}
        return self._render(values | _exception(record))


def _json(members: Mapping[str, object]) -> str:
    return json.dumps(members)


def _logfmt(members: Mapping[str, object]) -> str:
    return " ".join(f"{_word(name)}={_word(member)}" for name, member in members.items())


_FORMATS: dict[str, Callable[[Mapping[str, object]], str]] = {"json": _json, "text": _logfmt}


def _word(member: object) -> str:
    match member:
        case str():
            string = member
        case list():
            string = ", ".join(map(str, member))
        case _:
            string = json.dumps(member)
    return string if _BARE.fullmatch(string) else json.dumps(string)


def _value(member: object) -> object:
    if not isinstance(member, (list, tuple)):
        return _scalar(member)
    more = [f"and {len(member) - _MAX_ITEMS} more"] if len(member) > _MAX_ITEMS else []
    return [*map(_scalar, member[:_MAX_ITEMS]), *more]


def _scalar(member: object) -> object:
    match member:
        case None | bool() | int():
            return member
        case float() if math.isfinite(member):  # JSON has no other numbers
            return member
        case BaseException():
            return _clean(_name(member))
        case _:
            return _clean(str(member))


def _clean(string: str, max_length: int = _MAX_STRING) -> str:
    """The string truncated, without anything that looks like a token, and without lone surrogates.

    Many JSON parsers reject lone surrogates. Redaction comes before escaping: in the finished line the first letter of
    a token could belong to an escape sequence, and redacting it would leave invalid JSON.
    """
    return _SECRET.sub("[redacted]", _truncated(string, max_length)).encode("utf-8", "backslashreplace").decode()


def _event(record: logging.LogRecord) -> str:
    try:
        event = record.getMessage()
    except Exception:  # noqa: BLE001 - the arguments do not fit the message
        return str(record.msg)
    ours = record.name.partition(".")[0] == _OWN
    return event if ours or not record.exc_info else _QUOTATION.split(event, maxsplit=1)[0]


def _exception(record: logging.LogRecord) -> dict[str, object]:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return {}
    return {"exception": [_clean(_place(link), _MAX_FRAMES_STRING) for link in islice(_chain(error), _MAX_CHAIN)]}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes; a group is represented by its first exception."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        else:
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _place(error: BaseException) -> str:
    frames = [
        f"{frame.f_globals.get('__name__')}:{line} in {frame.f_code.co_qualname}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    return f"{_name(error)} at {', '.join(frames[-_MAX_FRAMES:]) or 'no frame'}"


def _name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
