"""Named inputs of linear: those of every linear layer, and the layers of transformers."""

from fastmodel.ops.linear_case import linear_case, linear_cases

CASES = (
    *linear_cases(),
    linear_case((), "gpt-qkv", (16, 128), 128, 384, is_bench=True),
    linear_case((), "gpt-up", (16, 128), 128, 512, is_bench=True),
    linear_case((), "gpt-down", (16, 128), 512, 128, is_bench=True),
    linear_case((), "gpt-head", (16, 128), 128, 256, has_bias=False, is_bench=True),
    linear_case((), "gpt2-up", (1, 1024), 768, 3072, is_bench=True),
)
