"""Another opinion about lungs: the small U-Net of the developers' weights (MIT), which never saw our model."""

from functools import cache
from pathlib import Path

import highdicom as hd
import numpy as np
import onnxruntime
from pydicom import dcmread
from scipy import ndimage

CHEST = "ct_chest_philips_5mm_lungpetctdx_A0001"


@cache
def chest_lungs(real_data: Path, weights: Path) -> hd.Volume:
    """Its opinion about the real chest, uint8. It takes long, so the tests that ask are of one xdist_group."""
    chest = hd.get_volume_from_series([dcmread(path) for path in sorted((real_data / CHEST).glob("*.dcm"))])
    return chest.with_array(unet_lungs(chest, weights).astype(np.uint8))


def unet_lungs(volume: hd.Volume, weights: Path) -> np.ndarray:
    """(slices, rows, columns) bool: the largest two components inside the body. `volume` is float32 HU, axial."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other tests run beside it
    session = onnxruntime.InferenceSession(weights / "lung_unet_small" / "unet_small.onnx", options)
    name = session.get_inputs()[0].name
    planes = [session.run(None, {name: plane[None, None] + 1024})[0][0, 0] for plane in volume.array.astype(np.float32)]
    found = (np.stack(planes) > 0.5) & _body(volume.array)
    labels, count = ndimage.label(found)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return np.isin(labels, np.argsort(-sizes)[:2] + 1)


def _body(hounsfield: np.ndarray) -> np.ndarray:
    """The largest thing denser than air, filled plane by plane."""
    labels, count = ndimage.label(ndimage.binary_opening(hounsfield > -400, np.ones((1, 5, 5))))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    body = labels == np.argmax(sizes) + 1
    return np.stack([ndimage.binary_fill_holes(plane) for plane in body])
