"""A smoother CT: an image for each image. Quick, so that tests can be about everything else."""

from collections.abc import Iterable

from pydicom.sr.codedict import codes

from gateway.outputs.derived import DerivedImages
from gateway.pipeline import Infer, Needs, Pipeline, Study


def run(study: Study, infer: Infer) -> Iterable[DerivedImages]:
    smooth = infer({"volume": study.volume.array})["smooth"]
    yield DerivedImages(study.volume.with_array(smooth), "Smooth", codes.DCM.Smoothing)


PIPELINE = Pipeline(version="1.0.0", model="smooth", needs=Needs(modality="CT", slices_at_least=2), run=run)
