"""Foreign: the code of a pipeline. Whatever it does ends as outputs, or in words that its author can use."""

from collections.abc import Sequence
from pathlib import Path
from traceback import walk_tb

import structlog

from gateway import log
from gateway.errors import BadOutput, JobError
from gateway.outputs import Output
from gateway.outputs.derived import DerivedImages
from gateway.outputs.sr import MeasurementReport
from gateway.pipeline import Infer, Pipeline, Study

_logger = structlog.get_logger()


def outputs(pipeline: Pipeline, study: Study, infer: Infer) -> tuple[Output, ...]:
    """What it yields. Raises JobError: also where it asks the process to end (`sys.exit()`), which is not its own to end."""
    try:
        found = pipeline.run(study, infer)
        made = None if found is None else tuple(one for output in found for one in _each(output))
    except JobError:
        raise
    except BaseException as error:
        kind = type(error).__name__
        _logger.error("stage.failed", error=kind, stack=log.stack_without_values(error))
        raise JobError(f"unexpected {kind} in the pipeline's code{_place(error)}; the log has where it was raised") from error
    if made is None:
        raise BadOutput("expected run to yield outputs, or to return several: it returned None")
    if not made:
        raise BadOutput("expected at least one output: where there is nothing to show, yield a report that says so")
    for output in made:
        if not callable(getattr(output, "encode", None)):
            raise BadOutput(f"expected outputs, such as Segmentation: run yielded a {type(output).__name__}")
        if isinstance(output, MeasurementReport) and output.segmentation not in (None, *made):
            raise BadOutput("expected the segmentation of a report to be yielded too")
    return made


def _each(output: Output | DerivedImages) -> Sequence[Output]:
    return output.instances() if isinstance(output, DerivedImages) else (output,)


def _place(error: BaseException) -> str:
    """The last line of a pipeline's file that was reached."""
    frames = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)
              if str(frame.f_globals.get("__name__")).startswith("pipelines.")]  # fmt: skip
    return f" ({Path(frames[-1][0]).name}, line {frames[-1][1]})" if frames else ""
