"""Named inputs of the rotary embeddings."""

from __future__ import annotations

import torch

from fastmodel.ops.case import Case, randn


def rotary_cases(pairs_of_angles) -> tuple[Case, ...]:
    """The cases of an op that takes q, k, cos and sin.

    Args:
        pairs_of_angles: (..., D / 2) to (..., D): each angle at both places of its pair.
    """

    def case(
        name: str,
        batch: int,
        heads: int,
        groups: int,
        length: int,
        width: int,
        *,
        tables: int = 0,
        has_free_tables: bool = False,
        is_transposed: bool = False,
        is_bench: bool = False,
    ) -> Case:
        """tables: 0 for tables of (T, D), else how many of them.

        has_free_tables: the tables are any numbers, so that a place taken for another shows.
        is_transposed: q and k lie in memory as a projection leaves them, (B, T, H, D).
        """

        def made(seed: int, count: int, dtype):
            if is_transposed:
                return randn(seed, batch, length, count, width, dtype=dtype).transpose(1, 2)
            return randn(seed, batch, count, length, width, dtype=dtype)

        def make(dtype):
            shape = (tables, length) if tables else (length,)
            if has_free_tables:
                cos = randn(2, *shape, width, dtype=dtype)
                sin = randn(3, *shape, width, dtype=dtype)
            else:
                positions = torch.arange(length, dtype=torch.float64).expand(shape).unsqueeze(-1)
                speeds = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
                angles = pairs_of_angles(positions * speeds)
                cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
            return made(0, heads, dtype), made(1, groups, dtype), cos, sin

        elements = batch * (heads + groups) * length * width
        return Case(
            name,
            make,
            depth=2,
            flops=3 * elements,
            bytes_float32=4 * (2 * elements + 2 * max(tables, 1) * length * width),
            is_bench=is_bench,
        )

    return (
        case("one", 1, 1, 1, 1, 2),
        case("tiny", 2, 3, 1, 5, 6, has_free_tables=True),
        # One less and one more than the vector width (16, 8, 4), counted in pairs and in elements.
        case("pairs-below", 1, 2, 2, 3, 30, has_free_tables=True),
        case("pairs-above", 1, 2, 2, 3, 34, has_free_tables=True),
        case("vectors", 1, 2, 1, 3, 64, has_free_tables=True),
        case("table-each", 3, 2, 1, 4, 18, tables=3, has_free_tables=True),
        case("table-of-one", 3, 2, 1, 4, 18, tables=1, has_free_tables=True),
        case("angles", 1, 2, 1, 9, 16),
        case("transposed", 2, 3, 2, 5, 20, is_transposed=True, has_free_tables=True),
        case("two-threads", 2, 8, 4, 33, 64, is_transposed=True),
        case("empty-batch", 0, 2, 2, 3, 8),
        case("empty-length", 2, 2, 2, 0, 8),
        case("no-heads-of-k", 1, 2, 0, 3, 8),
        # nano GPT: 4,096 tokens of 4 heads of 32; GPT-2 small: 1,024 of 12 of 64; grouped: 32 and 8 of 64.
        case("nano", 16, 4, 4, 256, 32, is_transposed=True, is_bench=True),
        case("small", 1, 12, 12, 1024, 64, is_transposed=True, is_bench=True),
        case("grouped", 1, 32, 8, 1024, 64, is_transposed=True, is_bench=True),
    )
