"""Logs carry constants and keys of an allow-list; what a foreign library or an exception says of a value never reaches them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway import log
from gateway.db import open_database
from gateway.engine import Queues
from gateway.run import run_failed
from tests.rows_fixture import NOW, a_job, a_series

ROOT = Path(__file__).parent.parent


def logged(code: str, *, level: str = "info", form: str = "json", warnings: str = "always") -> str:
    """What a process writes to standard error that configures logging and then runs `code`."""
    setup = f"import logging, warnings, threading, structlog\nfrom gateway import log\nlog.configure({level!r}, {form!r})\nlogger = structlog.get_logger()\n"
    ran = subprocess.run(
        [sys.executable, f"-W{warnings}", "-c", setup + code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert ran.stdout == ""
    return ran.stderr


def events(code: str, **how: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in logged(code, **how).splitlines()]


def test_an_event_is_one_line_of_json_with_time_and_level() -> None:
    (event,) = events("logger.info('instance.received', series_instance_uid='1.2', instances=3)")

    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "instance.received", "level": "info", "series_instance_uid": "1.2", "instances": 3}


def test_a_job_that_fails_stands_in_the_log_with_its_reason(database_url: str) -> None:
    db, queues = open_database(database_url), Queues(database_url)
    a_series(db)
    job = a_job(db, state="running")

    with capture_logs() as logs:
        for _ in range(2):
            run_failed(job, KeyError("CANARY"), NOW, db=db, queues=queues)

    reason = "unexpected KeyError; the log has where it was raised"
    line = {"event": "job.failed", "log_level": "error", "job": job, "pipeline": "bright", "code": "JOB", "reason": reason}
    assert logs == [line]
    queues.close()
    db.kw["bind"].dispose()


def test_keys_that_are_not_on_the_list_are_dropped() -> None:
    (event,) = events("logger.info('x', patient_name='CANARY^NAME', PatientID='CANARY-ID', dataset={'a': 'CANARY'}, peer='pacs')")

    assert set(event) == {"event", "level", "timestamp", "peer"}


def test_bound_context_is_filtered_too() -> None:
    told = logged("structlog.contextvars.bind_contextvars(job=3, name='CANARY^NAME')\nlogger.info('x')", form="console")

    assert "job" in told
    assert "CANARY" not in told


def test_the_level_cuts() -> None:
    assert [event["event"] for event in events("logger.info('a')\nlogger.warning('b')\nlogger.error('c')", level="warning")] == [
        "b",
        "c",
    ]


@pytest.mark.parametrize(
    "name", ["pynetdicom.assoc", "pydicom", "highdicom.base", "dbos", "sqlalchemy.engine", "alembic", "httpx2", "some.other"]
)
def test_a_foreign_logger_is_cut_to_name_and_level(name: str) -> None:
    code = f"logging.getLogger({name!r}).error('Invalid value CANARY^NAME for %s', 'CANARY-ID')"

    (event,) = events(code)

    assert event.pop("timestamp")
    assert event == {"event": "foreign.message", "level": "error", "logger": name, "error": None}


def test_a_foreign_exception_is_cut_to_its_type() -> None:
    (event,) = events("try:\n    int('CANARY')\nexcept ValueError:\n    logging.getLogger('pydicom').exception('CANARY')")

    assert event["error"] == "ValueError"
    assert "CANARY" not in str(event)


def test_chatter_of_foreign_loggers_is_dropped() -> None:
    assert (
        events(
            "logging.getLogger('pynetdicom').warning('CANARY')\nlogging.getLogger('dbos').info('x')\nlogging.getLogger('x').info('y')"
        )
        == []
    )


def test_a_handler_that_a_library_made_before_is_gone() -> None:
    code = "logging.getLogger('dbos').addHandler(logging.StreamHandler())\nlog.configure('info', 'json')\nlogging.getLogger('dbos').error('CANARY')"

    assert "CANARY" not in logged(code)


@pytest.mark.parametrize(
    "warn", ["warnings.warn('CANARY^NAME')", "import pydicom\npydicom.Dataset().PatientBirthDate = 'CANARY-DATE'"]
)
def test_python_warnings_do_not_reach_the_log(warn: str) -> None:
    assert "CANARY" not in logged(warn)
    assert "CANARY" not in logged(f"warnings.simplefilter('always')\n{warn}")


@pytest.mark.parametrize(
    "code",
    [
        "raise ValueError('CANARY^NAME')",
        "thread = threading.Thread(target=lambda: int('CANARY'))\nthread.start()\nthread.join()",
        "class Bad:\n    def __del__(self):\n        raise ValueError('CANARY')\nBad()",
    ],
    ids=["main", "thread", "destructor"],
)
def test_an_exception_that_nobody_caught_is_told_by_type_and_place(code: str) -> None:
    (event,) = events(code)

    assert event["event"] == "exception.uncaught"
    assert event["error"] == "ValueError"
    assert "<string>" in str(event["stack"])
    assert "CANARY" not in str(event)


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_stack_can_be_written_in_both_formats(form: str) -> None:
    told = logged(
        "try:\n    int('CANARY')\nexcept ValueError as error:\n    logger.error('stage.failed', stack=log.stack_without_values(error))",
        form=form,
    )

    assert "stage.failed" in told
    assert "<string>:6 <module>" in told
    assert "Traceback" not in told
    assert "CANARY" not in told


def test_a_stack_names_places_and_neither_message_nor_locals() -> None:
    patient_name = "CANARY^NAME"
    try:
        raise ValueError(f"Invalid value for PN: {patient_name}")
    except ValueError as error:
        stack = log.stack_without_values(error).splitlines()

    assert stack[0] == "ValueError"
    assert stack[1].endswith("test_a_stack_names_places_and_neither_message_nor_locals")
    assert "CANARY" not in str(stack)


def test_a_long_stack_is_cut_to_its_end() -> None:
    def deeper(left: int) -> None:
        if left == 0:
            raise KeyError
        deeper(left - 1)

    with pytest.raises(KeyError) as raised:
        deeper(30)

    assert len(log.stack_without_values(raised.value).splitlines()) == 9
