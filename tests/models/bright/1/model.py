"""Voxels above -500 HU."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        volume = pb_utils.get_input_tensor_by_name(request, "volume").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("labels", (volume > -500).astype(np.uint8))])
