"""Writes the metrics as Prometheus text 0.0.4, or as OpenMetrics 1.0 if the client accepts it.

Invariants: each piece of an exposition takes little time, however many series there are. Label values may contain
anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from authz_service.telemetry.instruments import Exemplar, Samples

_NOT_FINITE: Final = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}
_VERSION = "1.0.0"  # the only version that a client can name in both formats
_ALLOW_UTF8 = "allow-utf-8"


class Format(NamedTuple):
    """A format of the exposition."""

    content_type: str
    openmetrics: bool


_DEFAULT: Final = Format("text/plain; version=0.0.4; charset=utf-8", openmetrics=False)


def format_of(accept: str) -> Format:
    """The first supported format in an Accept header, or Prometheus text.

    The escaping schemes ``allow-utf-8`` and ``underscores`` do not change our metric names, which consist of ASCII
    letters, digits and underscores.
    """
    for accepted in accept.split(","):
        media_type, *parameters = (each.strip() for each in accepted.split(";"))
        values = dict(reversed([each.split("=", 1) for each in parameters if "=" in each]))
        version = values.get("version", "")
        escaping = _ALLOW_UTF8 if values.get("escaping") == _ALLOW_UTF8 else "underscores"
        if media_type == "application/openmetrics-text" and not version:
            return Format(f"{media_type}; version={_VERSION}; charset=utf-8", openmetrics=True)
        if media_type in {"application/openmetrics-text", "text/plain"} and version == _VERSION:
            content_type = f"{media_type}; version={version}; charset=utf-8; escaping={escaping}"
            return Format(content_type, openmetrics=media_type != "text/plain")
    return _DEFAULT


def exposition(collected: Iterable[Samples], *, openmetrics: bool) -> Iterator[str]:
    """The exposition of these samples, in pieces."""
    bare_names: set[str] = set()
    previous = ("", "")
    for samples in collected:
        family = samples.family, samples.kind
        if family != previous:
            yield _openmetrics_head(samples, bare_names) if openmetrics else _text_head(samples)
            bare_names.add(samples.family)
            previous = family
        if openmetrics and samples.exemplars:
            yield "".join(_with_exemplar(samples, name, value) for name, value in samples.values.items())
        else:
            yield "".join([f"{name} {_number(value)}\n" for name, value in samples.values.items()])
    if openmetrics:
        yield "# EOF\n"


def _text_head(samples: Samples) -> str:
    description = samples.description.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {samples.family} {description}\n# TYPE {samples.family} {samples.kind}\n"


def _openmetrics_head(samples: Samples, bare_names: set[str]) -> str:
    """OpenMetrics names a counter's family without ``_total``.

    If another family has that name, the counter has its full name and no type; its samples are the same.
    """
    name, kind = samples.family, str(samples.kind)
    if kind == "counter":
        bare = name.removesuffix("_total")
        name, kind = (name, "unknown") if bare in bare_names else (bare, kind)
    description = samples.description.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f"# HELP {name} {description}\n# TYPE {name} {kind}\n"


def _with_exemplar(samples: Samples, name: str, value: float) -> str:
    exemplar: Exemplar | None = samples.exemplars.get(name)
    if exemplar is None:
        return f"{name} {_number(value)}\n"
    trace_id, observed, timestamp = exemplar
    return f'{name} {_number(value)} # {{trace_id="{trace_id}"}} {_number(observed)} {timestamp}\n'


def _number(value: float) -> str:
    text = repr(float(value))
    return _NOT_FINITE.get(text, text)
