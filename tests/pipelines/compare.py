"""As bright, beside the earlier study of the patient that it is given: its report tells what came."""

from collections.abc import Iterable

import numpy as np
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from gateway.outputs import Output
from gateway.outputs.sr import Group, MeasurementReport
from gateway.pipeline import Infer, Needs, Pipeline, Priors, Study


def run(study: Study, infer: Infer) -> Iterable[Output]:
    infer({"volume": np.rint(study.volume.array).astype(np.int16)})
    told = ", ".join(
        f"{one.days_before} days before, {len(one.source)} slices of {one.volume.array.mean():.1f}" for one in study.priors
    )
    group = Group("Tissue", (), codes.SCT.Tissue)
    yield MeasurementReport(
        None, (group,), Code("169069000", "SCT", "CT of chest"), f"{len(study.priors)} priors: {told or 'none'}"
    )


PIPELINE = Pipeline(
    version="1.0.0",
    model="bright",
    needs=Needs(modality="CT", slices_at_least=2, priors=Priors(days=1000, wait_seconds=600)),
    run=run,
)
