"""Named inputs of conv_relu_maxpool."""

from __future__ import annotations

import math

from fastmodel.ops import conv
from fastmodel.ops.case import Case
from fastmodel.ops.conv_case import ConvInputs


def _case(
    name: str,
    inputs: ConvInputs,
    pool: tuple[int, int] = (2, 2),
    pool_stride: tuple[int, int] | None = None,
    pool_padding: tuple[int, int] = (0, 0),
    *,
    is_bench: bool = False,
) -> Case:
    step = pool if pool_stride is None else pool_stride
    pooled = conv.pooled_size(inputs.out, pool, step, pool_padding)
    return Case(
        name,
        lambda dtype: (*inputs.make(dtype), pool, pool_stride, pool_padding),
        depth=inputs.depth,
        flops=inputs.flops,
        # out in float32 and one byte of argmax each.
        bytes_float32=inputs.input_bytes() + 5 * inputs.x[0] * inputs.k * math.prod(pooled),
        is_bench=is_bench,
    )


CASES = (
    _case("one-pixel", ConvInputs((1, 1, 2, 2), 1, (1, 1))),
    _case("small-nchw", ConvInputs((2, 3, 7, 9), 5, is_channels_last=False)),
    _case("no-bias", ConvInputs((2, 4, 8, 8), 6, has_bias=False)),
    # Channels one less and one more than the vector widths and blocks of 16, 32 and 64.
    _case("below-block", ConvInputs((2, 15, 6, 7), 63)),
    _case("above-block", ConvInputs((1, 17, 7, 6), 65)),
    _case("below-two", ConvInputs((1, 5, 6, 6), 31)),
    _case("above-one", ConvInputs((1, 6, 6, 6), 17)),
    # Patches of a run wider than one tile of six vectors, and with a half tile.
    _case("wide-run", ConvInputs((1, 50, 5, 5), 20)),
    _case("padded", ConvInputs((2, 8, 7, 7), 16, padding=(1, 1))),
    _case("padded-unevenly", ConvInputs((2, 8, 6, 9), 16, (3, 5), padding=(2, 1))),
    _case("strided", ConvInputs((2, 6, 13, 12), 16, stride=(2, 1), padding=(1, 1))),
    _case("strided-across", ConvInputs((2, 6, 12, 13), 16, stride=(1, 2))),
    _case("dilated", ConvInputs((2, 6, 13, 12), 16, dilation=(2, 3))),
    _case("grouped", ConvInputs((2, 6, 9, 9), 8, groups=2)),
    _case("kernel-1x1", ConvInputs((2, 12, 8, 8), 24, (1, 1))),
    _case("kernel-5x5", ConvInputs((2, 3, 12, 12), 10, (5, 5))),
    _case("first-layer", ConvInputs((3, 1, 10, 10), 33)),
    _case("pool-3-overlapping", ConvInputs((2, 5, 12, 12), 18), (3, 3), (2, 2)),
    _case("pool-1x2", ConvInputs((2, 5, 9, 9), 18), (1, 2)),
    _case("pool-with-gaps", ConvInputs((2, 5, 12, 12), 18), (2, 2), (3, 4)),
    _case("pool-5x3", ConvInputs((1, 5, 14, 14), 18), (5, 3)),
    _case("pool-padded", ConvInputs((2, 5, 12, 11), 18), (3, 3), (2, 2), (1, 1)),
    _case("pool-padded-unevenly", ConvInputs((2, 5, 11, 12), 18), (5, 2), (1, 3), (2, 0)),
    _case("pool-padded-apart", ConvInputs((2, 5, 10, 9), 18), (2, 2), (2, 2), (1, 1)),
    _case("pool-padded-one-pixel", ConvInputs((1, 5, 3, 3), 18), (3, 3), (1, 1), (1, 1)),
    # Patches that fill narrow tiles over two chunks of channels, and short runs of several widths.
    _case("pool-3-chunked", ConvInputs((1, 32, 9, 9), 70), (3, 3), (2, 2)),
    _case(
        "stem-7x7", ConvInputs((2, 3, 21, 19), 20, (7, 7), (2, 2), (3, 3)), (3, 3), (2, 2), (1, 1)
    ),
    _case("stem-11x11", ConvInputs((1, 3, 31, 35), 64, (11, 11), (4, 4), (2, 2)), (3, 3), (2, 2)),
    _case("first-layer-overlapping", ConvInputs((2, 1, 12, 13), 33), (3, 3), (2, 1), (1, 0)),
    _case("many-rows", ConvInputs((1, 3, 40, 40), 70)),
    _case("first-layer-strided", ConvInputs((2, 1, 13, 14), 33, stride=(2, 3))),
    _case("empty-batch", ConvInputs((0, 3, 8, 8), 5)),
    _case("mnist-conv1", ConvInputs((64, 1, 28, 28), 32, is_channels_last=False), is_bench=True),
    _case("mnist-conv2", ConvInputs((64, 32, 13, 13), 64), is_bench=True),
    _case("mnist-conv2-512", ConvInputs((512, 32, 13, 13), 64), is_bench=True),
    _case("cifar-64", ConvInputs((128, 64, 32, 32), 64, padding=(1, 1)), is_bench=True),
    _case("cifar-128", ConvInputs((128, 128, 16, 16), 128, padding=(1, 1)), is_bench=True),
    _case("cifar-256", ConvInputs((128, 256, 8, 8), 256, padding=(1, 1)), is_bench=True),
    _case("vgg-64", ConvInputs((4, 64, 224, 224), 64, padding=(1, 1)), is_bench=True),
    _case("vgg-128", ConvInputs((4, 128, 112, 112), 128, padding=(1, 1)), is_bench=True),
    _case("vgg-256", ConvInputs((4, 256, 56, 56), 256, padding=(1, 1)), is_bench=True),
    _case("vgg-512", ConvInputs((4, 512, 28, 28), 512, padding=(1, 1)), is_bench=True),
    _case("vgg-512-14", ConvInputs((8, 512, 14, 14), 512, padding=(1, 1)), is_bench=True),
    _case(
        "alexnet-stem",
        ConvInputs((8, 3, 224, 224), 64, (11, 11), (4, 4), (2, 2)),
        (3, 3),
        (2, 2),
        is_bench=True,
    ),
    _case(
        "alexnet-192",
        ConvInputs((32, 64, 27, 27), 192, (5, 5), padding=(2, 2)),
        (3, 3),
        (2, 2),
        is_bench=True,
    ),
    _case(
        "alexnet-256",
        ConvInputs((32, 384, 13, 13), 256, padding=(1, 1)),
        (3, 3),
        (2, 2),
        is_bench=True,
    ),
    _case(
        "resnet-stem",
        ConvInputs((4, 3, 224, 224), 64, (7, 7), (2, 2), (3, 3)),
        (3, 3),
        (2, 2),
        (1, 1),
        is_bench=True,
    ),
)
