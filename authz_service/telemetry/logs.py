"""The log: one line per record, whatever the record contains.

Invariants:

* No token and no query string is logged, and no exception's message, which may contain either: an exception is logged
  with its type and place.
* Every string is truncated, redacted and escaped (``log_text``). No client and no provider can make a line long.
* Logging never raises: with a closed stream the line is lost, not the request.
"""

from __future__ import annotations

import logging
import math
import re
import traceback
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from authz_service.telemetry.log_text import FORMATS, LineFormat, cleaned, timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_OWN = "authz"  # the parent of all our loggers
_MAX_ITEMS = 100  # of a list
_MAX_FRAMES_STRING = 4096  # characters of an exception's frames, which no client can influence
_MAX_CHAIN = 5  # exceptions of one chain
_MAX_FRAMES = 20  # innermost frames of one exception: a recursion has a thousand

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


class LineOutput(NamedTuple):
    """Where lines are written, and how."""

    stream: Writable
    format: LineFormat
    always: Mapping[str, object]  # members of each line

    def write(self, line: str) -> None:
        """Write a line, which includes its end; it is lost if the stream is closed or broken."""
        try:
            self.stream.write(line)
            self.stream.flush()
        except (OSError, ValueError):
            pass  # there is no other place to report it


_decisions: LineOutput | None = None


def decision_output() -> LineOutput | None:
    """Where decisions are logged; None if the level excludes them, or nothing is configured."""
    return _decisions


def configure(
    level: str, format_: str, stream: Writable, worker: int | None = None, decisions: Writable | None = None
) -> None:
    """Write our records of this level and above, and the libraries' warnings and errors, to ``stream``.

    ``format_`` is ``json`` or ``text``. If ``worker`` is given, each line has that number. If ``decisions`` is given,
    the decision log goes there, whatever the level is. Another call replaces the effect of the previous one.
    """
    global _decisions  # noqa: PLW0603 - as logging's own configuration, it is that of the process
    output = LineOutput(stream, FORMATS[format_], {} if worker is None else {"worker": worker})
    handler = _Handler(stream)
    handler.setFormatter(_LineFormatter(output.format, output.always))
    _send(_OWN, handler, level.upper())
    _send(None, handler, logging.WARNING)  # the root logger
    logging.getLogger(_OWN).propagate = False
    if decisions is not None:
        _decisions = output._replace(stream=decisions)
    else:
        _decisions = output if logging.getLogger(_OWN).isEnabledFor(logging.INFO) else None


def _send(name: str | None, handler: _Handler, min_level: str | int) -> None:
    """Send the records of a logger to this handler alone."""
    logger = logging.getLogger(name)
    previous = [other for other in logger.handlers if isinstance(other, _Handler)]
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


class _Handler(logging.StreamHandler["Writable"]):
    """Writes to a stream while that is possible."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Lose the line: there is no other place to report it."""


class _LineFormatter(logging.Formatter):
    """Formats a record as one line of ASCII."""

    def __init__(self, format_: LineFormat, always: Mapping[str, object]) -> None:
        super().__init__()
        self._format = format_
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        ours = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record),
            **self._always,
        }
        # Twice: they come first, and no field of the same name replaces them.
        members = ours | getattr(record, "fields", {}) | ours
        values = {cleaned(name): _value(member) for name, member in members.items()}
        return self._format.line(values | _exception(record))


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
            return cleaned(_name(member))
        case _:
            return cleaned(str(member))


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
    return {"exception": [cleaned(_place(link), _MAX_FRAMES_STRING) for link in islice(_chain(error), _MAX_CHAIN)]}


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
