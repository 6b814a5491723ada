"""A smoother CT, an image for each image, and a map of how much smoother. Quick, so that tests can be about everything else."""

from collections.abc import Iterable

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from gateway.outputs import Output
from gateway.outputs.derived import DerivedImages
from gateway.outputs.parametric import ParametricMap
from gateway.pipeline import Infer, Needs, Pipeline, Study

CHANGE, HOUNSFIELD = Code("CHANGE", "99TESTS", "Change"), Code("[hnsf'U]", "UCUM", "Hounsfield unit")


def run(study: Study, infer: Infer) -> Iterable[Output | DerivedImages]:
    smooth = infer({"volume": study.volume.array})["smooth"]
    yield DerivedImages(study.volume.with_array(smooth), "Smooth", codes.DCM.Smoothing)
    yield ParametricMap(study.volume.with_array(smooth - study.volume.array), HOUNSFIELD, CHANGE, "Change")


PIPELINE = Pipeline(version="1.0.0", model="smooth", needs=Needs(modality="CT", slices_at_least=2), run=run)
