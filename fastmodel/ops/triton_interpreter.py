"""What Triton's interpreter (3.6 to 3.9) gets wrong, put right.

It holds bfloat16 as the integers of its bits. Its product of two blocks multiplies those integers, and its
cast of float32 cuts the lower half off where every GPU rounds to nearest even. A number that bounds a loop is
an array of one element, which NumPy 2.4 takes for no integer in Triton 3.6.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def mend() -> None:
    """Replace the interpreter's product, its casts between float32 and bfloat16, and its bounds of loops."""
    cast, product = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot
    patch_tensor = interpreter._patch_lang_tensor

    def mended_cast(self: Any, source: Any, to: Any) -> Any:
        kinds = source.dtype.scalar, to.scalar
        if kinds == (tl.float32, tl.bfloat16):
            return TensorHandle(_nearest_bfloat16(source.data), tl.bfloat16)
        if kinds == (tl.bfloat16, tl.float32):
            return TensorHandle(_float32(source.data), tl.float32)
        return cast(self, source, to)

    def mended_product(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (
            TensorHandle(_float32(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x
            for x in (a, b)
        )
        return product(self, a, b, *rest)

    def mended_patch(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = mended_cast, mended_product
    interpreter._patch_lang_tensor = mended_patch


def _float32(bits: np.ndarray) -> np.ndarray:
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def _nearest_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of each value rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), bits >> 16 | 0x40, rounded).astype(np.uint16)
