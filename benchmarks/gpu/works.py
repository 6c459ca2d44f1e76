"""The pieces of work that are functions, part by part: shapes, bytes, FLOPs and what must be shown.

Shapes are those of the tables that the project promises figures for: ResNet-50's and VGG-16's layers, GPT-2's
and Llama's widths and vocabularies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import measure
import torch
from function_races import Work
from measure import Goal
from torch import Tensor

BEST = "ratio to the best"
COPY = "share of the copy"
MEMORY = "peak memory to torch's"
_BF16 = torch.bfloat16


def _randn(*shape: int, dtype: torch.dtype = _BF16, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, device=measure.DEVICE) * scale).to(dtype)


def losses() -> Iterator[Work]:
    """Logits of bfloat16; forward reads them, backward reads them and writes their gradient."""
    liger = _liger("cross_entropy")

    def make(classes: int) -> Callable[[int], tuple]:
        return lambda rows: (
            _randn(rows, classes),
            torch.randint(classes, (rows,), device=measure.DEVICE),
        )

    goals = {128_256: (Goal("ratio to torch", 2.0), Goal(MEMORY, 0.6, is_most=True))}
    for classes in (128_256, 32_768, 50_257, 262_144):
        rows = 8192 if classes <= 128_256 else 4096
        yield Work(
            "cross_entropy",
            f"{rows}x{classes} bf16",
            make(classes),
            rows,
            checked_rows=256,
            # Logits in, gradient out: the second look finds a row in L2.
            size_bytes=2 * 2 * rows * classes,
            goals=(
                *goals.get(classes, (Goal("ratio to torch", 2.0),)),
                Goal("ratio to liger", 1.0),
            ),
            has_memory=True,
            others=liger,
        )
    yield Work(
        "mse_loss",
        "8192x4096 bf16",
        lambda rows: (_randn(rows, 4096), _randn(rows, 4096)),
        8192,
        # Both in, both in again, two gradients out.
        size_bytes=6 * 2 * 8192 * 4096,
        goals=(Goal(BEST, 1.0),),
    )


# Input channels, output channels, kernel, stride, height and width; padding keeps the size.
_RESNET_50 = (
    (3, 64, 7, 2, 224),
    (64, 64, 3, 1, 56),
    (64, 256, 1, 1, 56),
    (128, 128, 3, 1, 28),
    (256, 256, 3, 1, 14),
    (512, 512, 3, 1, 7),
)
_VGG_16 = ((64, 64, 3, 1, 224), (256, 256, 3, 1, 56), (512, 512, 3, 1, 28))
_POOLED = ((3, 64, 3, 1, 64), (64, 64, 3, 1, 224), (128, 128, 3, 1, 112), (512, 512, 3, 1, 14))
_SEED = ((1, 32, 28), (32, 64, 13))


def convolutions() -> Iterator[Work]:
    """bfloat16, channels_last, batch 32; the seed's own two in float32."""
    for network, layers in (("resnet-50", _RESNET_50), ("vgg-16", _VGG_16)):
        for inputs, outputs, kernel, stride, size in layers:
            yield _convolution("conv_relu", network, inputs, outputs, kernel, stride, size)
    for inputs, outputs, kernel, stride, size in _POOLED:
        yield _convolution("conv_relu_maxpool", "pooled", inputs, outputs, kernel, stride, size)
    for inputs, outputs, size in _SEED:

        def make(images: int, inputs=inputs, outputs=outputs, size=size) -> tuple:
            x = _randn(images, inputs, size, size, dtype=torch.float32)
            weight = _randn(outputs, inputs, 3, 3, dtype=torch.float32, scale=(9 * inputs) ** -0.5)
            bias = _randn(outputs, dtype=torch.float32)
            return x, weight, bias, (1, 1), (0, 0), (1, 1), 1, (2, 2), None, (0, 0)

        yield Work("conv_relu_maxpool", f"seed {inputs}-{outputs} {size}x{size}", make, 64)


def _convolution(
    op: str, network: str, inputs: int, outputs: int, kernel: int, stride: int, size: int
) -> Work:
    def make(images: int) -> tuple:
        x = _randn(images, inputs, size, size).contiguous(memory_format=torch.channels_last)
        weight = _randn(outputs, inputs, kernel, kernel, scale=(inputs * kernel**2) ** -0.5)
        weight = weight.contiguous(memory_format=torch.channels_last)
        pad = kernel // 2
        args = (x, weight, _randn(outputs), (stride, stride), (pad, pad), (1, 1), 1)
        return args if op == "conv_relu" else (*args, (2, 2), None, (0, 0))

    images, out = 32, size // stride
    flops = 3 * 2 * images * out * out * outputs * inputs * kernel**2
    name = f"{network} {inputs}-{outputs} {kernel}x{kernel}/{stride} {size}x{size}"
    least = 0.97 if op == "conv_relu" else 1.0
    return Work(op, name, make, images, checked_rows=2, flops=flops, goals=(Goal(BEST, least),))


def linears() -> Iterator[Work]:
    """A transformer's widest layer and a classifier's, every activation."""
    for activation in ("relu", "gelu", "silu", "sigmoid", "tanh"):
        for rows, ins, outs in (
            ((8192, 1024, 4096),)
            if activation != "relu"
            else (
                (8192, 1024, 4096),
                (512, 1600, 128),
            )
        ):

            def make(count: int, ins=ins, outs=outs) -> tuple:
                return _randn(count, ins), _randn(outs, ins, scale=ins**-0.5), _randn(outs)

            yield Work(
                f"linear_{activation}",
                f"{rows}x{ins}-{outs} bf16",
                make,
                rows,
                flops=3 * 2 * rows * ins * outs,
                goals=(Goal(BEST, 1.0),),
            )


def norms() -> Iterator[Work]:
    """Rows of 1,024 to 16,384; the gated units and the rotation move a few tensors each."""
    for op, parameters in (("rms_norm", 1), ("layer_norm", 2)):
        liger = _liger(op)
        for width in (1024, 4096, 16_384):

            def make(rows: int, width=width, parameters=parameters) -> tuple:
                affine = [_randn(width) for _ in range(parameters)]
                return _randn(rows, width), (width,), *affine

            yield Work(
                op,
                f"8192x{width} bf16",
                make,
                8192,
                # x in, out out; x and the gradient in, x's gradient out.
                size_bytes=5 * 2 * 8192 * width,
                goals=(Goal(COPY, 0.85), Goal(BEST, 1.0)),
                others=liger,
            )
    yield Work(
        "swiglu",
        "8192x14336 bf16",
        lambda rows: (_randn(rows, 14_336), _randn(rows, 14_336)),
        8192,
        checked_rows=512,
        # gate and up in, out out; both and the gradient in, two gradients out.
        size_bytes=8 * 2 * 8192 * 14_336,
        goals=(Goal(COPY, 0.9),),
        others=_liger("swiglu"),
    )

    def rotary(length: int) -> tuple:
        angles = torch.arange(length, device=measure.DEVICE)[:, None] * 10_000 ** (
            -torch.arange(0, 128, 2, device=measure.DEVICE) / 128
        )
        angles = torch.cat([angles, angles], dim=-1)
        heads = [_randn(4, length, count, 128).transpose(1, 2) for count in (32, 8)]
        return *heads, angles.cos().to(_BF16), angles.sin().to(_BF16)

    yield Work(
        "rope",
        "4x(32+8)x4096x128 bf16",
        rotary,
        4096,
        checked_rows=128,
        # q and k in and out, their gradients in and out.
        size_bytes=4 * 2 * 4 * 40 * 4096 * 128,
        goals=(Goal(COPY, 0.9),),
    )


def heads() -> Iterator[Work]:
    """The language model's head with its loss: Llama 3's width and vocabulary."""
    rows, width, classes = 8192, 4096, 128_256

    def make(count: int) -> tuple:
        target = torch.randint(classes, (count,), device=measure.DEVICE)
        return _randn(count, width), _randn(classes, width, scale=width**-0.5), target

    yield Work(
        "linear_cross_entropy",
        f"{rows}x{width}x{classes} bf16",
        make,
        rows,
        checked_rows=64,
        flops=3 * 2 * rows * width * classes,
        goals=(Goal(MEMORY, 0.25, is_most=True), Goal("ratio to torch", 1 / 1.1)),
        has_memory=True,
        is_compiled=False,
    )


def _liger(op: str) -> dict[str, Callable]:
    """Liger-Kernel's form of an op, where it is installed."""
    try:
        from liger_kernel.transformers import functional as liger
    except ImportError:
        return {}
    forms: dict[str, Callable] = {
        "cross_entropy": lambda x, target: liger.liger_cross_entropy(x, target),
        "rms_norm": lambda x, shape, weight: liger.liger_rms_norm(x, weight, 1e-6),
        "layer_norm": lambda x, shape, weight, bias: liger.liger_layer_norm(x, weight, bias, 1e-5),
        "swiglu": lambda gate, up: liger.liger_swiglu(gate, up),
    }
    return {"liger": forms[op]}


FUNCTION_PARTS: dict[str, Callable[[], Iterator[Work]]] = {
    "losses": losses,
    "convolutions": convolutions,
    "linears": linears,
    "norms": norms,
    "heads": heads,
}
