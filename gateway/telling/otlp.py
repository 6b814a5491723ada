"""OTLP: spans to a collector of OpenTelemetry over HTTP, in the background; one that is away costs spans and nothing else."""

import os
import socket
import threading
from datetime import datetime

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from gateway.configuration.oversight import TracingSection
from gateway.telling.traces import Span

_EVERY_MILLISECONDS, _SECONDS, _END_SECONDS = 1000, 10, 3.0


class Otlp:
    """`source` is our name there."""

    def __init__(self, section: TracingSection, *, source: str, version: str) -> None:
        certificate = str(section.authorities) if section.authorities is not None else None
        exporter = OTLPSpanExporter(endpoint=section.url, certificate_file=certificate, timeout=_SECONDS)
        self._processor = BatchSpanProcessor(exporter, schedule_delay_millis=_EVERY_MILLISECONDS)
        self._scope = InstrumentationScope("gateway", version)
        instance = f"{socket.gethostname()}-{os.getpid()}"
        self._resource = Resource({"service.name": source, "service.instance.id": instance, "service.version": version})

    def export(self, span: Span) -> None:
        status = Status(StatusCode.ERROR, span.failed) if span.failed else Status(StatusCode.OK)
        context, parent = _context(span.trace, span.id), _context(span.trace, span.parent) if span.parent else None
        told = ReadableSpan(
            span.name, context=context, parent=parent, resource=self._resource, attributes=dict(span.attributes), status=status,
            start_time=_nanoseconds(span.began), end_time=_nanoseconds(span.ended), instrumentation_scope=self._scope,
        )  # fmt: skip
        self._processor.on_end(told)

    def close(self) -> None:
        """What waits goes out, if the collector takes it at once; a stop waits for nobody longer."""
        ending = threading.Thread(target=self._processor.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(_END_SECONDS)  # its own limit is half a minute, and a flush has none


def _context(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000
