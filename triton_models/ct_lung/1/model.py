"""Triton's Python backend around lungs.segment: on the GPU that Triton gives this instance, else on the CPU."""

import numpy as np
import torch
import triton_python_backend_utils as triton
from lungs import segment


class TritonPythonModel:
    def initialize(self, args):
        on_gpu = args["model_instance_kind"] == "GPU" and torch.cuda.is_available()
        self.device = torch.device(f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu")

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        volume, spacing = (triton.get_input_tensor_by_name(request, name).as_numpy() for name in ("volume", "spacing"))
        if not (np.isfinite(spacing).all() and (spacing > 0).all() and volume.size):
            return _refusal("expected spacings in mm and a volume that is not empty", triton.TritonError.INVALID_ARG)
        try:
            with torch.inference_mode():
                labels = segment(torch.from_numpy(volume.copy()).to(self.device), [float(mm) for mm in spacing])
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return _refusal("no memory left on the GPU", triton.TritonError.UNAVAILABLE)
        return triton.InferenceResponse([triton.Tensor("labels", labels.cpu().numpy())])


def _refusal(reason, code):
    return triton.InferenceResponse(error=triton.TritonError(reason, code))
