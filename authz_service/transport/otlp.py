"""Spans to the bytes of an OTLP request, and what the collector's response reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from authz_service import __version__
from authz_service._pb.otlp_common_pb2 import AnyValue, InstrumentationScope, KeyValue
from authz_service._pb.otlp_resource_pb2 import Resource
from authz_service._pb.otlp_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from authz_service._pb.otlp_trace_pb2 import ResourceSpans, ScopeSpans, Status
from authz_service._pb.otlp_trace_pb2 import Span as OtlpSpan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz_service.telemetry.spans import Span

_NANOSECONDS = 1_000_000_000
_SCOPE = InstrumentationScope(name="authz-service", version=__version__)


def encode(spans: Iterable[Span], service_name: str) -> bytes:
    """The bytes of an ExportTraceServiceRequest with these spans of a service."""
    resource = Resource(attributes=[_attribute("service.name", service_name)])
    scope_spans = ScopeSpans(scope=_SCOPE, spans=map(_span, spans))
    request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=resource, scope_spans=[scope_spans])])
    return request.SerializeToString()


def rejected_spans(response: bytes) -> tuple[int, str]:
    """How many spans the collector rejected although it accepted the request, and why."""
    try:
        partial = ExportTraceServiceResponse.FromString(response).partial_success
    except DecodeError:  # accepted all the same
        return 0, ""
    return partial.rejected_spans, partial.error_message


def _span(span: Span) -> OtlpSpan:
    return OtlpSpan(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_id,
        name=span.name,
        kind=OtlpSpan.SPAN_KIND_SERVER if span.name == "Check" else OtlpSpan.SPAN_KIND_CLIENT,
        start_time_unix_nano=int(span.start * _NANOSECONDS),
        end_time_unix_nano=int(span.end * _NANOSECONDS),
        attributes=[_attribute(key, value) for key, value in span.attributes],
        status=Status(code=Status.STATUS_CODE_ERROR) if span.failed else None,
    )


def _attribute(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))
