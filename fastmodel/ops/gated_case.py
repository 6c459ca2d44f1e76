"""Named inputs of the gated linear units."""

from __future__ import annotations

import math

from fastmodel.ops.case import Case, randn


def gated_cases(flops: int) -> tuple[Case, ...]:
    """The cases of an op that takes gate and up and needs `flops` an element."""

    def case(name: str, *shape: int, is_packed: bool = False, is_bench: bool = False) -> Case:
        """is_packed: gate and up are halves of one tensor's last dimension."""

        def make(dtype):
            if is_packed:
                both = randn(0, *shape[:-1], 2 * shape[-1], dtype=dtype)
                return both[..., : shape[-1]], both[..., shape[-1] :]
            return randn(0, *shape, dtype=dtype), randn(1, *shape, dtype=dtype)

        size = math.prod(shape)
        return Case(
            name,
            make,
            # The derivative's two terms may cancel, while gradient and up multiply their errors by up to
            # 2 x 4: as large as the error of a sum of 16 in `tolerance`, 4 times that of one.
            depth=16,
            flops=flops * size,
            bytes_float32=12 * size,
            is_bench=is_bench,
        )

    return (
        case("scalar"),
        case("one", 1),
        case("tiny", 3, 5),
        # One less and one more than the vector width (16, 8, 4), and a row of several vectors.
        case("15", 15),
        case("17", 2, 17),
        case("chunk-below", 3, 1023),
        case("chunk-above", 3, 1025),
        case("packed", 5, 33, is_packed=True),
        case("packed-3d", 2, 3, 19, is_packed=True),
        case("two-threads", 70, 1000),
        case("empty", 0, 5),
        case("empty-features", 3, 0),
        # nano GPT: 4,096 tokens of width 128; GPT-2 small: 1,024 of 768; and a Llama of 1B: 1,024 of 2,048.
        case("nano", 4096, 352, is_bench=True),
        case("small", 1024, 2048, is_bench=True),
        case("llama", 1024, 8192, is_bench=True),
    )
