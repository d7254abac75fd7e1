"""The log has one line per record, valid JSON without tokens, whatever a record contains."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from authz_service.core.reasons import Reason
from authz_service.telemetry.logs import RateLimitedLog, configure, fields
from support.log_lines import (
    ANY_TEXT,
    CLAIMS,
    HEADER,
    OPAQUE,
    SIGNATURE,
    TOKEN,
    BrokenStream,
    lines,
    secrets_in,
    written,
)

logger = logging.getLogger("authz.test")


# One record.


def test_a_record_is_one_object_with_time_level_logger_event_and_fields() -> None:
    stream = written()
    logger.info("new keys", extra=fields(issuer="main", keys=3, kids=["a", None], usable=True, wait=0.5))
    [line] = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "authz.test",
        "event": "new keys",
        "issuer": "main",
        "keys": 3,
        "kids": ["a", None],
        "usable": True,
        "wait": 0.5,
    }


def test_the_time_is_rfc_3339_in_utc_with_milliseconds() -> None:
    stream = written()
    record = logger.makeRecord("authz.test", logging.INFO, "x.py", 1, "event", (), None)
    record.created, record.msecs = 1_700_000_000.0071, 7.1
    logger.handle(record)
    assert lines(stream)[0]["time"] == "2023-11-14T22:13:20.007Z"


def test_the_text_format_has_the_same_members_as_key_value_pairs() -> None:
    stream = written("text")
    logger.warning("new keys", extra=fields(issuer="main", kids=["a", None], usable=True, note='a="b"', empty=""))
    time, _, members = stream.getvalue().partition(" ")
    assert time.startswith("time=2")
    assert members == (
        'level=warning logger=authz.test event="new keys" issuer=main kids="a, None" usable=true '
        'note="a=\\"b\\"" empty=""\n'
    )


def test_no_field_replaces_the_members_of_every_line() -> None:
    stream = written()
    logger.info("event", extra=fields(event="other", level="other", logger="other", time="other"))
    [line] = lines(stream)
    assert "other" not in line.values()
    assert list(line) == ["time", "level", "logger", "event"]


def test_values_that_json_lacks_are_written_as_strings() -> None:
    stream = written()
    logger.info(
        "event", extra=fields(a=float("nan"), b=float("-inf"), c={"k": 1}, d=b"x", e=Reason.OK, f=KeyError(TOKEN))
    )
    [line] = lines(stream)
    assert [line[name] for name in "abcdef"] == ["nan", "-inf", "{'k': 1}", "b'x'", "ok", "KeyError"]


@pytest.mark.parametrize("format_", ["json", "text"])
@given(texts=st.lists(ANY_TEXT, min_size=1), name=ANY_TEXT)
@example(texts=["\u2028\u2029\x85\x0b\x0c\x1c\r\n\x00\x7f\ud800\udfff\U0001f600"], name="\n")
@example(texts=["\u00eeyJabc", "\u00eeeyJabc", "\x08earer abc", "\\bearer abc", '"eyJ"', "eyJ\\"], name="")
def test_any_string_anywhere_gives_exactly_one_line(format_: str, texts: list[str], name: str) -> None:
    stream = written(format_)
    logger.info(texts[0], extra=fields(texts=texts, **{name: texts[-1]}))
    logger.info("%s", texts[0], extra=fields(**{name: texts}))
    assert len(stream.getvalue().splitlines()) == 2
    assert stream.getvalue().isascii()
    assert stream.getvalue().endswith("\n")
    if format_ == "json":
        assert {"time", "level", "logger", "event", name} <= lines(stream)[0].keys() | {name}


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="Jr")))
def test_a_string_without_a_token_is_written_unchanged(text: str) -> None:
    stream = written()
    logger.info("event", extra=fields(text=text))
    assert lines(stream)[0]["text"] == text


def test_a_lone_surrogate_is_escaped_so_that_strict_parsers_read_the_line() -> None:
    stream = written()
    logger.info("event", extra=fields(text="a\ud800"))
    assert lines(stream)[0]["text"] == "a\\ud800"


def test_a_message_that_does_not_fit_its_arguments_is_written_without_them() -> None:
    stream = written()
    logger.info("%d of %d", "one")  # noqa: PLE1206 - what is tested
    assert lines(stream)[0]["event"] == "%d of %d"


# Secrets.


@pytest.mark.parametrize("format_", ["json", "text"])
@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        HEADER,
        f"{HEADER}.{CLAIMS}",
        f"{HEADER}..{SIGNATURE}",
        f"x{TOKEN}x",
        TOKEN.replace(".", "%2E"),
        f"/a/{TOKEN}/b",
        f"Bearer {TOKEN}",
        f"Bearer {OPAQUE}",
        f"bEARER \t {OPAQUE}",
        f"Bearer Bearer {OPAQUE}",
        f"DPoP Bearer%20dpop {OPAQUE}",
        f"authorization:Bearer\n{OPAQUE}",
        f"bearer\u00a0{OPAQUE}",
        f"/cb/Bearer%20{OPAQUE}",
        f"/cb/bearer+{OPAQUE}",
        f"DPoP {OPAQUE}",
        f"dpop: dpop  {OPAQUE}",
        f"/cb/DPoP%20{OPAQUE}",
        f"\u00ee{TOKEN}",
        f"\\{TOKEN}",
    ],
)
def test_whatever_looks_like_a_token_is_redacted_anywhere(format_: str, text: str) -> None:
    stream = written(format_)
    logger.info(text)
    logger.info("%s", text)
    logger.info("event", extra=fields(text=text, texts=[text], nested={"a": text}, **{text: 1}))
    assert secrets_in(stream) == []
    assert stream.getvalue().count("[redacted]") == 6


@pytest.mark.parametrize(
    "cause", ["the request has no DPoP header", "bound to a DPoP key (cnf.jkt), and not to another"]
)
def test_a_cause_about_dpop_is_not_redacted(cause: str) -> None:
    stream = written("json")
    logger.info("decision", extra=fields(cause=cause))
    assert json.loads(stream.getvalue())["cause"] == cause


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(before=ANY_TEXT, after=ANY_TEXT)
def test_a_token_is_redacted_in_any_context(before: str, after: str) -> None:
    text = f"{before}{TOKEN}{after}"
    stream = written()
    logger.info("event", extra=fields(text=text))
    assert secrets_in(stream) == []
    assert len(lines(stream)) == 1


# Exceptions.


def _fail(text: str) -> None:
    raise KeyError(text)


def _fail_in_two_steps(text: str) -> None:
    try:
        _fail(text)
    except KeyError as error:
        raise ValueError(text) from error


@pytest.mark.parametrize("format_", ["json", "text"])
@pytest.mark.parametrize("text", [TOKEN, OPAQUE])
def test_the_message_of_an_exception_is_never_logged(format_: str, text: str) -> None:
    stream = written(format_)
    try:
        _fail_in_two_steps(text)
    except ValueError as error:
        logger.exception("it failed", extra=fields(error=error))
    assert secrets_in(stream) == []
    assert len(stream.getvalue().splitlines()) == 1


def test_an_exception_is_logged_with_type_and_place_and_its_cause() -> None:
    stream = written()
    try:
        _fail_in_two_steps("text")
    except ValueError:
        logger.exception("it failed")
    outer, inner = lines(stream)[0]["exception"]
    assert outer.startswith(f"ValueError at {__name__}:")
    assert outer.endswith(" in _fail_in_two_steps")
    assert inner.startswith(f"KeyError at {__name__}:")
    assert inner.endswith(" in _fail")


def test_an_exception_of_a_library_is_logged_with_its_module() -> None:
    stream = written()
    try:
        json.loads("{")
    except ValueError:
        logger.exception("it failed")
    library, name = json.JSONDecodeError.__module__, json.JSONDecodeError.__qualname__
    assert lines(stream)[0]["exception"][0].startswith(f"{library}.{name} at ")


def test_an_exception_group_is_represented_by_its_first_exception() -> None:
    stream = written()
    logger.error("it failed", exc_info=ExceptionGroup("group", [KeyError("a"), ValueError("b")]))
    assert [link.split(" at ")[0] for link in lines(stream)[0]["exception"]] == ["ExceptionGroup", "KeyError"]


def test_a_deep_recursion_is_logged_with_a_limited_number_of_frames() -> None:
    def recurse() -> None:
        recurse()

    stream = written()
    try:
        recurse()
    except RecursionError:
        logger.exception("it failed")
    assert lines(stream)[0]["exception"][0].count("recurse") == 20


def test_without_a_current_exception_none_is_logged() -> None:
    stream = written()
    logger.error("it failed", exc_info=True)  # noqa: LOG014 - what is tested
    assert "exception" not in lines(stream)[0]


# Sources and destinations of records.


def test_records_below_the_level_are_not_written() -> None:
    stream = written(level="warning")
    logger.info("event")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("name", ["grpc._cython.cygrpc", "aiohttp.server", "asyncio"])
def test_warnings_of_libraries_are_written_in_the_same_format(name: str) -> None:
    stream = written()
    logging.getLogger(name).info("chatter")
    logging.getLogger(name).warning("trouble with\n%s", TOKEN)
    [line] = lines(stream)
    assert (line["level"], line["logger"], line["event"]) == ("warning", name, "trouble with\n[redacted]")


@pytest.mark.parametrize(
    "message", [f"Exception calling application: {OPAQUE}", f"It failed\nexception=ValueError('{OPAQUE}')"]
)
def test_an_exception_message_that_a_library_quotes_is_cut_off(message: str) -> None:
    stream = written()
    try:
        _fail(OPAQUE)
    except KeyError:
        logging.getLogger("grpc._server").exception(message)
    assert lines(stream)[0]["event"] in {"Exception calling application", "It failed"}
    assert secrets_in(stream) == []


async def test_an_exception_that_no_one_awaited_is_logged_without_its_message() -> None:
    async def fail() -> None:
        _fail(OPAQUE)

    stream = written()
    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    del task
    gc.collect()
    [line] = lines(stream)
    assert line["logger"] == "asyncio"
    assert line["exception"][0].startswith("KeyError at ")
    assert secrets_in(stream) == []


def test_configuring_again_redirects_the_log_and_writes_each_line_once() -> None:
    before, after = written(), written("text")
    logger.info("event")
    logging.getLogger("asyncio").warning("trouble")
    assert before.getvalue() == ""
    assert len(after.getvalue().splitlines()) == 2


def test_a_broken_stream_loses_the_line_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (BrokenStream(), closed):
        configure("info", "json", stream)
        logger.error("event")
    assert capfd.readouterr() == ("", "")


# Lengths.


@pytest.mark.parametrize("format_", ["json", "text"])
@pytest.mark.parametrize(
    "long", ["x" * 480_000, "\x00" * 480_000, "\U0001f600" * 480_000, "\ud800" * 480_000, '"' * 480_000]
)
def test_no_string_makes_a_line_long(format_: str, long: str) -> None:
    """A kid, a cause, a library's message, a field name: each is truncated."""
    stream = written(format_)
    logger.info(long)
    logger.info("event", extra=fields(kid=long, kids=[long] * 3, nested={"a": long}, **{long: 1}))
    logging.getLogger("aiohttp.server").warning("trouble with %s", long)
    assert [len(line) < 100_000 for line in stream.getvalue().splitlines()] == [True] * 3
    assert "..." in stream.getvalue()


def test_a_list_is_truncated_to_its_first_hundred_items() -> None:
    stream = written()
    logger.info("event", extra=fields(kids=list(range(100)), problems=list(range(100_000))))
    [line] = lines(stream)
    assert line["kids"] == list(range(100))
    assert line["problems"] == [*range(100), "and 99900 more"]


def test_a_string_is_truncated_and_then_redacted() -> None:
    stream = written()
    logger.info("event", extra=fields(text="x" * 1000 + TOKEN, other="x" * 1010 + f"Bearer {OPAQUE}"))
    [line] = lines(stream)
    assert line["text"] == "x" * 1000 + "[redacted]"
    assert line["other"] == "x" * 1010 + "[redacted]"


# Warnings that clients can cause.


def test_one_warning_of_each_kind_per_interval_is_logged_with_the_number_of_suppressed_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    log = RateLimitedLog(logging.getLogger("rate-limited"), lambda: now, 10.0)
    for now, kind in ((0.0, "a"), (1.0, "a"), (2.0, "b"), (9.9, "a"), (10.0, "a"), (20.0, "a"), (20.0, "b")):
        log.warning(kind, "it happened", kind=kind, at=now)
    logged = [record.fields for record in caplog.records]  # type: ignore[attr-defined] # ours
    assert logged == [
        {"kind": "a", "at": 0.0},
        {"kind": "b", "at": 2.0},
        {"kind": "a", "at": 10.0, "suppressed": 2},
        {"kind": "a", "at": 20.0},
        {"kind": "b", "at": 20.0},
    ]
