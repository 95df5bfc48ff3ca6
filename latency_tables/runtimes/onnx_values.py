"""Values of ONNX Runtime in number formats that numpy lacks, as arrays of longer numbers."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

NARROW = {
    f"tensor({name.lower()})": name
    for name in (
        "BFLOAT16",
        "FLOAT8E4M3FN",
        "FLOAT8E4M3FNUZ",
        "FLOAT8E5M2",
        "FLOAT8E5M2FNUZ",
        "FLOAT8E8M0",
        "FLOAT4E2M1",
        "INT4",
        "UINT4",
        "INT2",
        "UINT2",
    )
}
"""Name in ONNX of each type that numpy lacks, by its name in ONNX Runtime."""


def wide_dtype(name: str) -> type[np.generic]:
    """The numpy type that holds every number of a type in `NARROW`."""
    if "FLOAT" in name:
        return np.float32
    return np.uint8 if name.startswith("U") else np.int8


def to_ort_value(array: np.ndarray, kind: str, device: str) -> Any:
    """Copy an array into an `onnxruntime.OrtValue`.

    Args:
        array: numbers; those of a type in `NARROW` are rounded to it.
        kind: the type as ONNX Runtime names it, such as `tensor(bfloat16)`.
        device: `cpu` or `cuda`; types in `NARROW` are always on the CPU.
    """
    import onnxruntime as ort

    if kind not in NARROW:
        return ort.OrtValue.ortvalue_from_numpy(array, device, 0)
    from onnx import TensorProto, helper, numpy_helper

    number = TensorProto.DataType.Value(NARROW[kind])
    # Types of ml_dtypes take numbers of float32 and int8 alone.
    wide = np.ascontiguousarray(array, wide_dtype(NARROW[kind]))
    rounded = wide.astype(helper.tensor_dtype_to_np_dtype(number))
    data = numpy_helper.from_array(rounded).raw_data
    value = ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), number)
    ctypes.memmove(value.data_ptr(), data, len(data))
    return value


def to_python(value: Any) -> Any:
    """The content of an `onnxruntime.OrtValue` on the CPU, as `InferenceSession.run` returns it."""
    if not value.is_tensor() or value.data_type() not in NARROW:
        return value.numpy()
    from onnx import TensorProto, numpy_helper

    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    tensor = TensorProto(data_type=value.element_type(), dims=value.shape(), raw_data=data)
    return numpy_helper.to_array(tensor).astype(wide_dtype(NARROW[value.data_type()]))
