"""The log: one line a record, whatever the record holds.

Law: no token and no query string enters a line, and no exception's text, since that may hold either: an exception is
told by its type and place. Every text that enters a line is shortened, redacted and escaped here, in ``_text``: what a
client or a provider sent makes no line long. Writing never raises: a closed stream costs the line, not the request.
"""

from __future__ import annotations

import json
import logging
import math
import re
import traceback
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Literal, Protocol

from authz_service.core.decision import decision_label
from authz_service.core.paths import without_secrets, without_userinfo
from authz_service.core.reasons import DENIALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from authz_service.core.attributes import Attributes
    from authz_service.core.decision import Decision

_OWN = "authz"  # the logger above all of ours
_MAX_SENT = 256  # characters of a text that a client sent: enough to recognise it, too short to fill a disk with
_MAX_TEXT = 1024  # characters of any text: a cause, or a problem of the configuration, is shorter
_MAX_ITEMS = 100  # of a list
_MAX_PLACE = 4096  # characters of an exception's frames, which are all ours
_MAX_CHAIN = 5  # exceptions of one chain
_MAX_FRAMES = 20  # innermost frames of one exception: a recursion has a thousand

# A JWT, whole or cut off: base64url of {" begins so. Or whatever follows the scheme's name and a space, which may be
# spelled as in a URL or in a Python literal.
_SECRET = re.compile(r"eyJ[\w.%~+=-]*|(?i:bearer)(?:\s|\+|%20|\\[a-z])+\S+")
_BARE = re.compile(r"[!#-<>-\[\]-~]+")  # printable ASCII without space, quote, = and backslash
# Where the text of an exception may begin in a foreign message that tells of one.
_QUOTATION = re.compile(r"[:(<\n]")


class Writable(Protocol):
    """What lines are written to."""

    def write(self, text: str, /) -> object:
        """Take a text."""

    def flush(self) -> object:
        """Let go of what was taken."""


def fields(**members: object) -> dict[str, object]:
    """What to tell beside the event: ``logger.info("new keys", extra=fields(issuer="main", keys=3))``."""
    return {"fields": members}


def configure(level: str, format_: str, stream: Writable, worker: int | None = None) -> None:
    """Write our records from ``level`` on, and those of the libraries from warning on, to ``stream``.

    ``format_`` is ``json`` or ``text``. Each line tells which ``worker`` wrote it, where there are several. Called
    again, it replaces what it did before.
    """
    handler = _Handler(stream)
    handler.setFormatter(_Lines(_FORMATS[format_], {} if worker is None else {"worker": worker}))
    for name, least in ((_OWN, level.upper()), (None, logging.WARNING)):  # None is the root of all
        logger = logging.getLogger(name)
        for replaced in [other for other in logger.handlers if isinstance(other, _Handler)]:
            logger.removeHandler(replaced)
        logger.addHandler(handler)
        logger.setLevel(least)
    logging.getLogger(_OWN).propagate = False


class SparseLog:
    """Warnings that others can provoke: one of each kind in a while, which says how many were left out before it."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float], interval: float) -> None:
        """``clock`` gives seconds of a clock that is never set, and ``interval`` is in seconds."""
        self._logger = logger
        self._clock = clock
        self._interval = interval
        self._kinds: dict[str, tuple[float, int]] = {}  # when one was written, and how many were not since

    def warning(self, kind: str, event: str, /, **members: object) -> None:
        """Write it, if it is time. ``kind`` is of a closed list."""
        now = self._clock()
        last, left_out = self._kinds.get(kind, (-math.inf, 0))
        if now - last < self._interval:
            self._kinds[kind] = last, left_out + 1
            return
        self._kinds[kind] = now, 0
        more = {"left_out": left_out} if left_out else {}
        self._logger.warning(event, extra=fields(**members, **more))


class DecisionLog:
    """One line a decision."""

    _WRITTEN: Mapping[str, tuple[str, ...]] = {"none": (), "denied": ("deny",), "all": ("allow", "deny")}

    def __init__(self, which: Literal["none", "denied", "all"]) -> None:
        self._written = self._WRITTEN[which]
        self._logger = logging.getLogger(f"{_OWN}.decision")

    def write(self, attributes: Attributes, decision: Decision, decision_id: str, seconds: float) -> None:
        """Write the line for a decision that took so long, if it is one of those to write."""
        if decision_label(decision) in self._written and self._logger.isEnabledFor(logging.INFO):
            told = _told(attributes, decision) | {"duration_us": round(seconds * 1e6)}
            self._logger.info("decision", extra=fields(decision_id=decision_id, **told))


def _told(attributes: Attributes, decision: Decision) -> dict[str, object]:
    told: dict[str, object] = {
        "decision": decision_label(decision),
        "reason": decision.reason,
        "rule": decision.rule,
        "mode": decision.mode,
    }
    if told["decision"] == "deny":
        told |= {"status": int(DENIALS[decision.reason].status), "cause": decision.cause}
    sent = {
        "method": attributes.method,
        "host": without_userinfo(attributes.host),
        "path": without_secrets(attributes.path),
    }
    if (request_id := attributes.headers.get("x-request-id")) is not None:
        sent["request_id"] = request_id
    if (claims := decision.claims) is not None:
        sent |= {"issuer": claims.issuer, "subject": claims.subject, "client_id": claims.client_id}
    return told | {name: _shortened(text, _MAX_SENT) for name, text in sent.items()}


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + "..."


class _Handler(logging.StreamHandler["Writable"]):
    """Writes to a stream for as long as that is possible."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name that logging calls
        """Lose the line: the log was the place to complain at."""


class _Lines(logging.Formatter):
    """One record, one line of ASCII."""

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
        # Ours come first, and no field of the same name displaces them.
        members = ours | getattr(record, "fields", {}) | ours
        values = {_text(name): _value(member) for name, member in members.items()}
        return self._render(values | _exception(record))


def _json(members: Mapping[str, object]) -> str:
    return json.dumps(members)


def _logfmt(members: Mapping[str, object]) -> str:
    return " ".join(f"{_word(name)}={_word(member)}" for name, member in members.items())


_FORMATS: dict[str, Callable[[Mapping[str, object]], str]] = {"json": _json, "text": _logfmt}


def _word(member: object) -> str:
    match member:
        case str():
            text = member
        case list():
            text = ", ".join(map(str, member))
        case _:
            text = json.dumps(member)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def _value(member: object) -> object:
    if not isinstance(member, (list, tuple)):
        return _scalar(member)
    more = [f"and {len(member) - _MAX_ITEMS} more"] if len(member) > _MAX_ITEMS else []
    return [*map(_scalar, member[:_MAX_ITEMS]), *more]


def _scalar(member: object) -> object:
    match member:
        case None | bool() | int():
            return member
        case float() if math.isfinite(member):  # JSON knows no other
            return member
        case BaseException():
            return _text(_name(member))
        case _:
            return _text(str(member))


def _text(text: str, longest: int = _MAX_TEXT) -> str:
    """Shortened, without what looks like a token, and without lone surrogates, at which many a JSON parser gives up.

    Each text is redacted before it is escaped: in the finished line a token's first letter could be the end of an
    escape sequence, and the line no JSON once it was cut there.
    """
    return _SECRET.sub("[redacted]", _shortened(text, longest)).encode("utf-8", "backslashreplace").decode()


def _event(record: logging.LogRecord) -> str:
    try:
        event = record.getMessage()
    except Exception:  # noqa: BLE001 - a message that does not fit its arguments, told without them
        return str(record.msg)
    ours = record.name.partition(".")[0] == _OWN
    return event if ours or not record.exc_info else _QUOTATION.split(event, maxsplit=1)[0]


def _exception(record: logging.LogRecord) -> dict[str, object]:
    error = record.exc_info[1] if record.exc_info else None
    return (
        {"exception": [_text(_place(link), _MAX_PLACE) for link in islice(_chain(error), _MAX_CHAIN)]} if error else {}
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, then what it came from; the first of a group stands for all of it."""
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
    return f"{_name(error)} at {', '.join(frames[-_MAX_FRAMES:]) or 'no place'}"


def _name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
