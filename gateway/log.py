"""Logs without patient data: the event's name is a constant, data are keys of an allow-list, every other key is dropped.

Foreign loggers (pynetdicom, pydicom, highdicom, the engine) are cut to logger and level, Python warnings are dropped, and an
exception that nobody caught is told by type and place, because their texts carry values. Context (association,
series_instance_uid, job) is bound once by structlog.contextvars.
"""

import logging
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import Any

import structlog

KEYS = frozenset(
    {
        "event", "level", "timestamp", "logger", "association", "calling_ae_title", "called_ae_title", "address", "ingest",
        "study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid", "transfer_syntax_uid", "revision",
        "job", "delivery", "hours", "peer", "pipeline", "model", "rule", "stage", "attempt", "status", "state", "code", "reason",
        "instances", "bytes", "seconds", "port", "host", "url", "path", "error", "stack", "count", "executor", "version", "pid",
        "role", "notice",
    }
)  # fmt: skip


def drop_unknown_keys(_logger: Any, _method: str, event: Any) -> Any:
    return {key: value for key, value in event.items() if key in KEYS}


def stack_without_values(error: BaseException) -> str:
    """Where an unexpected error was raised: its type and the last lines of code, a line each, without message and locals."""
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    return "\n".join([type(error).__name__, *frames[-8:]])


class _CutToName(logging.Handler):
    """A foreign record becomes: this logger said something at this level."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        structlog.get_logger().log(record.levelno, "foreign.message", logger=record.name, error=error)


def configure(level: str = "info", form: str = "console") -> None:
    """Set up logging for this process: one line an event to standard error."""
    console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    renderer = structlog.processors.JSONRenderer() if form == "json" else console
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            drop_unknown_keys,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_CutToName(logging.WARNING)]
    for name in ("pynetdicom", "pydicom", "highdicom", "dbos", "sqlalchemy", "alembic", "httpx2", "httpcore2"):
        foreign = logging.getLogger(name)
        foreign.handlers[:] = []
        foreign.propagate = True
        foreign.setLevel(logging.ERROR)
    logging.captureWarnings(capture=True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    sys.excepthook = _uncaught
    sys.unraisablehook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _uncaught(kind: type[BaseException], error: BaseException | None, _trace: TracebackType | None) -> None:
    """Python would print the message, and with it whatever value it quotes."""
    stack = stack_without_values(error) if error is not None else ""
    structlog.get_logger().error("exception.uncaught", error=kind.__name__, stack=stack)
