"""Every Triton kernel once: how it is launched, and the registers and shared memory it may take.

The budgets are what was found, the larger of Triton 3.6 and 3.9, registers with an eighth more: a change that
costs occupancy shows here. Shared memory above 99 KiB fits no consumer GPU, above 163 KiB no A100.
"""

from __future__ import annotations

from fastmodel.ops import triton_math
from support.triton_compile import Kernel

# One group, stride and dilation 1 are constants to Triton; the other sizes of triton_conv.Geometry.
_ONES = dict.fromkeys(("groups", "stride_h", "stride_w", "dilation_h", "dilation_w"), 1)
_SIZES = "i32 " * 11
_DIVISIBLE = ("channels", "filters", "depth")
_BLOCKS = {"BLOCK_PIXELS": 64, "BLOCK_FILTERS": 64, "BLOCK_DEPTH": 32}
_FLAT_BLOCKS = {"BLOCK_PIXELS": 64, "BLOCK_FILTERS": 32, "BLOCK_DEPTH": 16}
_LARGE_BLOCKS = {"BLOCK_PIXELS": 128, "BLOCK_FILTERS": 128, "BLOCK_DEPTH": 32}
_PRODUCT = {**_ONES, "HAS_BIAS": True, "PRECISION": "ieee"}
_NORM = {"IS_CENTRED": True, "HAS_WEIGHT": True}
_NORM_FORWARD = {**_NORM, "HAS_RESIDUAL": True, "HAS_BIAS": True}
_NORM_SUMS = {"WANTS_WEIGHT": True, "WANTS_BIAS": True}
_NORM_BACKWARD = {**_NORM, **_NORM_SUMS, "HAS_GRAD_SUM": True, "WANTS_X": True}
_NORM_FORWARD_TYPES = "*T *T *T *T *T *T *fp32 i32 i32 fp32"
_NORM_BACKWARD_TYPES = "*T *T *T *T *fp32 *T *fp32 i32 i32"
_ROW = ("n",)

KERNELS = (
    Kernel(
        "adam",
        "step_kernel",
        "*i64 *i64 *i32 *i32 i32 *T *T *fp32 *fp32 *i64 *i64 *fp32 *fp32 *fp32"
        " fp32 fp32 fp32 fp32 fp32 fp32 fp32 i64",
        {
            "IS_DECOUPLED": True,
            "IS_AMSGRAD": False,
            "HAS_CLIP": True,
            "HAS_SCALE": False,
            "HAS_FOUND_INF": False,
            "ROUNDS_AT_RANDOM": False,
            "IS_ALIGNED": True,
            "CHUNK": 4096,
            "BLOCK": 1024,
        },
        registers=136,
        shared_bytes=0,
        wide=7,
    ),
    Kernel(
        "conv_relu",
        "forward_kernel",
        f"*T *T *T *T i32 {_SIZES}",
        {**_PRODUCT, "IS_FLAT": False, **_BLOCKS},
        registers=192,
        shared_bytes=32768,
        wide=16,
        divisible=_DIVISIBLE,
    ),
    Kernel(
        "conv_relu",
        "forward_kernel",
        f"*T *T *T *T i32 {_SIZES}",
        {**_PRODUCT, "IS_FLAT": True, **_FLAT_BLOCKS},
        registers=192,
        shared_bytes=12288,
    ),
    Kernel(
        "conv_relu",
        "forward_kernel",
        f"*T *T *T *T i32 {_SIZES}",
        {**_PRODUCT, "IS_FLAT": False, **_LARGE_BLOCKS},
        registers=208,
        shared_bytes=49152,
        wide=16,
        warps=8,
        dtypes=("bf16",),
        divisible=_DIVISIBLE,
    ),
    Kernel(
        "conv_relu_maxpool",
        "forward_kernel",
        f"*T *T *T *T *u8 i32 {_SIZES} i32 i32 i32 i32 i32 i32",
        {**_PRODUCT, "POOL_H": 2, "POOL_W": 2, "IS_FLAT": False, **_BLOCKS},
        registers=192,
        shared_bytes=32768,
        wide=8,
        warps=8,
        divisible=_DIVISIBLE,
    ),
    Kernel(
        "conv_relu_maxpool",
        "forward_kernel",
        f"*T *T *T *T *u8 i32 {_SIZES} i32 i32 i32 i32 i32 i32",
        {**_PRODUCT, "POOL_H": 2, "POOL_W": 2, "IS_FLAT": True, **_FLAT_BLOCKS},
        registers=208,
        shared_bytes=12288,
        warps=8,
    ),
    Kernel(
        "conv_relu_maxpool",
        "scatter_kernel",
        "*T *u8 *T *fp32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32",
        {"POOL_H": 2, "POOL_W": 2, "WANTS_BIAS": True, "BLOCK_ROWS": 32, "BLOCK_CHANNELS": 64},
        registers=96,
        shared_bytes=4096,
        wide=5,
        divisible=("filters",),
    ),
    Kernel(
        "cross_entropy",
        "divisor_kernel",
        "*i64 *T *fp32 i32 i32 i32",
        {"HAS_WEIGHT": False, "BLOCK": 1024},
        registers=32,
        shared_bytes=16,
        dtypes=("bf16",),
    ),
    Kernel(
        "cross_entropy",
        "forward_kernel",
        "*T *i64 *T *T *fp32 *fp32 *fp32 *T i32 i32 i32 fp32 fp32",
        {
            "HAS_INDEX": True,
            "HAS_WEIGHT": False,
            "SMOOTHS": False,
            "DIVIDES": True,
            "KEEPS_STATS": False,
            "WANTS_X": True,
            "BLOCK": 4096,
        },
        registers=64,
        shared_bytes=32,
        wide=6,
        warps=8,
        divisible=("classes",),
    ),
    Kernel(
        "cross_entropy",
        "backward_kernel",
        "*T *T *i64 *T *T *fp32 *T *T i32 i32 i32 fp32 fp32",
        {
            "HAS_INDEX": False,
            "HAS_WEIGHT": True,
            "SMOOTHS": True,
            "DIVIDES": True,
            "HAS_ROWS": False,
            "WANTS_X": True,
            "WANTS_TARGET": True,
            "BLOCK": 4096,
        },
        registers=72,
        shared_bytes=32,
        warps=8,
        divisible=("classes",),
    ),
    Kernel(
        "linear_cross_entropy",
        "softmax_kernel",
        "*T *i64 *fp32 *fp32 *fp32 i32 i32 fp32 fp32",
        {"HAS_WEIGHT": True, "SMOOTHS": True, "WANTS_GRADIENT": True, "BLOCK": 4096},
        registers=128,
        shared_bytes=128,
        warps=8,
        divisible=("classes",),
    ),
    Kernel(
        "mse_loss",
        "terms_kernel",
        "*T *T *T i64",
        {"BLOCK": 1024},
        40,
        0,
        wide=2,
        divisible=("size",),
    ),
    Kernel(
        "mse_loss",
        "partial_sums_kernel",
        "*T *T *fp32 i64",
        {"BLOCK": 1024},
        48,
        16,
        wide=2,
        divisible=("size",),
    ),
    Kernel(
        "mse_loss",
        "backward_kernel",
        "*T *T *T *T *T i64 fp32",
        {"HAS_TERMS": False, "WANTS_X": True, "WANTS_TARGET": False, "BLOCK": 1024},
        40,
        0,
        wide=2,
        divisible=("size",),
    ),
    Kernel(
        "sgd",
        "step_kernel",
        "*i64 *i64 *i32 *i32 i32 *T *i32 *fp32 *fp32 *fp32 fp32 fp32 fp32 fp32 fp32",
        {
            "HAS_MOMENTUM": True,
            "IS_NESTEROV": False,
            "HAS_CLIP": True,
            "HAS_SCALE": False,
            "HAS_FOUND_INF": False,
            "IS_ALIGNED": True,
            "CHUNK": 4096,
            "BLOCK": 1024,
        },
        registers=88,
        shared_bytes=0,
        wide=5,
    ),
    Kernel(
        "triton_chain",
        "chain_kernel",
        "*T *T *T *fp32 i32 i32 fp32",
        {
            "CHAIN": triton_math.gelu_chain,
            "WANTS_BIAS": True,
            "BLOCK_ROWS": 32,
            "BLOCK_CHANNELS": 64,
        },
        registers=96,
        shared_bytes=1024,
        wide=6,
        divisible=("channels",),
    ),
    *(
        Kernel(
            "triton_gated",
            "forward_kernel",
            "*T *T *T i64 i32 i32 i32",
            {"ACTIVATION": triton_math.gelu_tanh, "IS_FLAT": is_flat, "BLOCK": 1024},
            registers=64,
            shared_bytes=0,
            dtypes=dtypes,
        )
        for is_flat, dtypes in ((True, ("bf16", "fp32")), (False, ("bf16",)))
    ),
    Kernel(
        "triton_gated",
        "backward_kernel",
        "*T *T *T *T *T i64 i32 i32 i32 i32",
        {
            "ACTIVATION": triton_math.gelu,
            "CHAIN": triton_math.gelu_chain,
            "IS_FLAT": True,
            "WANTS_GATE": True,
            "WANTS_UP": True,
            "BLOCK": 1024,
        },
        registers=64,
        shared_bytes=0,
    ),
    *(
        Kernel(
            "triton_rotary",
            "turn_kernel",
            "*T *T *T *T *fp32 *fp32 " + "i32 " * 17,
            {
                "IS_NEIGHBOURS": is_neighbours,
                "IS_BACKWARD": False,
                "WANTS_Q": True,
                "WANTS_K": True,
                "HEADS": 8,
                "HALF": 64,
            },
            registers=96,
            shared_bytes=4096,
            dtypes=dtypes,
        )
        for is_neighbours, dtypes in ((False, ("bf16", "fp32")), (True, ("bf16",)))
    ),
    *(
        Kernel(
            "triton_linear",
            "forward_kernel",
            "*T *T *T *T *T i32 i32 i32 i64 i64 fp32",
            {
                "ACTIVATION": activation,
                "HAS_BIAS": True,
                "KEEPS_PRE": not drops,
                "DROPS": drops,
                "PRECISION": "ieee",
                "BLOCK_ROWS": size,
                "BLOCK_OUTS": size,
                "BLOCK_INS": depth,
                "GROUP": 8,
            },
            registers=255,
            shared_bytes=98304,
            warps=warps,
            dtypes=(dtype,),
            divisible=("ins", "outs"),
        )
        for activation, drops, size, depth, warps, dtype in (
            (triton_math.gelu, False, 128, 64, 8, "bf16"),
            (triton_math.relu, True, 64, 32, 4, "fp32"),
        )
    ),
    Kernel("triton_host", "sum_kernel", "*fp32 *T i32 fp32", {"BLOCK": 1024}, 40, 16),
    # The norms, each with the longest rows that it takes.
    Kernel(
        "triton_norm",
        "forward_kernel",
        _NORM_FORWARD_TYPES,
        {**_NORM_FORWARD, "ROWS": 1, "BLOCK": 16384},
        104,
        64,
        warps=16,
        divisible=_ROW,
    ),
    Kernel(
        "triton_norm",
        "forward_long_kernel",
        _NORM_FORWARD_TYPES,
        {**_NORM_FORWARD, "BLOCK": 4096},
        99,
        32,
        warps=8,
        divisible=_ROW,
    ),
    Kernel(
        "triton_norm",
        "backward_kernel",
        _NORM_BACKWARD_TYPES,
        {**_NORM_BACKWARD, "ROWS": 1, "BLOCK": 8192},
        128,
        16384,
        warps=16,
        divisible=_ROW,
    ),
    Kernel(
        "triton_norm",
        "backward_long_kernel",
        _NORM_BACKWARD_TYPES,
        {**_NORM_BACKWARD, "SWEEP": 4096, "BLOCK": 8192},
        128,
        16384,
        warps=16,
        divisible=_ROW,
    ),
    Kernel(
        "triton_norm",
        "sum_partials_kernel",
        "*fp32 *fp32 *fp32 *fp32 i32 i32",
        {**_NORM_SUMS, "ROWS": 32, "BLOCK": 32},
        36,
        512,
        dtypes=("fp32",),
        divisible=_ROW,
    ),
)
