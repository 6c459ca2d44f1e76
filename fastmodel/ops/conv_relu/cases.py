"""Named inputs of conv_relu."""

from __future__ import annotations

import math

from fastmodel.ops.case import Case
from fastmodel.ops.conv_case import ConvInputs


def _case(name: str, inputs: ConvInputs, *, is_bench: bool = False) -> Case:
    return Case(
        name,
        inputs.make,
        depth=inputs.depth,
        flops=inputs.flops,
        bytes_float32=inputs.input_bytes() + 4 * inputs.x[0] * inputs.k * math.prod(inputs.out),
        is_bench=is_bench,
    )


CASES = (
    _case("one-pixel", ConvInputs((1, 1, 1, 1), 1, (1, 1))),
    _case("small-nchw", ConvInputs((2, 3, 7, 9), 5, is_channels_last=False)),
    _case("no-bias", ConvInputs((2, 4, 8, 8), 6, has_bias=False)),
    # Channels one less and one more than the blocks; rows one less and one more than the pixel tile.
    _case("below-block", ConvInputs((2, 15, 5, 7), 63)),
    _case("above-block", ConvInputs((1, 17, 6, 9), 65)),
    _case("above-one", ConvInputs((1, 6, 6, 10), 17)),
    _case("wide-run", ConvInputs((1, 50, 5, 5), 20)),
    _case("padded", ConvInputs((2, 8, 7, 7), 16, padding=(1, 1))),
    _case("padded-unevenly", ConvInputs((2, 8, 6, 9), 16, (3, 5), padding=(2, 1))),
    _case("strided", ConvInputs((2, 6, 13, 12), 16, stride=(2, 1), padding=(1, 1))),
    _case("strided-across", ConvInputs((2, 6, 12, 13), 16, stride=(1, 2))),
    _case("dilated", ConvInputs((2, 6, 13, 12), 16, dilation=(2, 3))),
    _case("grouped", ConvInputs((2, 6, 9, 9), 8, groups=2)),
    _case("depthwise", ConvInputs((2, 18, 9, 8), 18, padding=(1, 1), groups=18)),
    _case("depthwise-nchw", ConvInputs((1, 5, 7, 9), 5, groups=5, is_channels_last=False)),
    _case("depthwise-strided", ConvInputs((2, 33, 9, 12), 33, (3, 5), (2, 3), (1, 2), groups=33)),
    _case(
        "depthwise-dilated",
        ConvInputs((2, 7, 13, 12), 7, (3, 2), (1, 2), (3, 4), (2, 3), groups=7, has_bias=False),
    ),
    _case("depthwise-beside-the-image", ConvInputs((3, 6, 2, 1), 6, padding=(4, 3), groups=6)),
    _case("kernel-1x1", ConvInputs((2, 12, 8, 8), 24, (1, 1))),
    _case("kernel-5x5", ConvInputs((2, 3, 12, 12), 10, (5, 5))),
    _case("first-layer", ConvInputs((3, 1, 10, 10), 33)),
    _case("first-layer-strided", ConvInputs((2, 1, 13, 14), 33, stride=(2, 3))),
    _case("empty-batch", ConvInputs((0, 3, 8, 8), 5)),
    _case("mnist-conv2", ConvInputs((64, 32, 13, 13), 64), is_bench=True),
    _case("resnet-64", ConvInputs((16, 64, 56, 56), 64, padding=(1, 1)), is_bench=True),
    _case("resnet-256", ConvInputs((16, 256, 14, 14), 256, padding=(1, 1)), is_bench=True),
)
