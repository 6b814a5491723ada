"""Fails with the patient's name in its message, as careless code does."""

from collections.abc import Iterable

from gateway.outputs import Output
from gateway.pipeline import Infer, Needs, Pipeline, Study


def run(study: Study, infer: Infer) -> Iterable[Output]:
    header = study.source[0]
    raise ValueError(
        f"cannot segment {header.PatientName}, {header.PatientID}, born {header.PatientBirthDate}, {header.AccessionNumber}"
    )


PIPELINE = Pipeline(version="1.0.0", model="bright", needs=Needs(modality="CT", slices_at_least=2), run=run)
