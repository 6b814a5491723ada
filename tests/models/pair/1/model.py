"""Voxels of a T2 above 200 whose ADC is below 1200."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        t2, adc = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("t2", "adc"))
        labels = ((t2 > 200) & (adc < 1200)).astype(np.uint8)
        return pb_utils.InferenceResponse([pb_utils.Tensor("labels", labels)])
