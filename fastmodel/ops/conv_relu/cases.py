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


def _layer(name: str, n: int, c: int, size: int, k: int, kernel: int, **options) -> Case:
    """A bench case with square images, filters and steps, padded to keep the size at stride 1."""
    padding = options.get("dilation", (1, 1))[0] * (kernel // 2)
    inputs = ConvInputs((n, c, size, size), k, (kernel, kernel), padding=(padding,) * 2, **options)
    return _case(name, inputs, is_bench=True)


_HALVED = {"stride": (2, 2)}

# Layers of ResNets, VGG, MobileNet and AlexNet, and a few of kinds that these have not; batches so small
# that a bench takes seconds.
_BENCHES = (
    _case("mnist-conv2", ConvInputs((64, 32, 13, 13), 64), is_bench=True),
    _layer("resnet-64", 8, 64, 56, 64, 3),
    _layer("resnet-128", 8, 128, 28, 128, 3),
    _layer("resnet-256", 16, 256, 14, 256, 3),
    _layer("resnet-512", 16, 512, 7, 512, 3),
    _layer("resnet-64-128-halved", 8, 64, 56, 128, 3, **_HALVED),
    _layer("resnet-128-256-halved", 8, 128, 28, 256, 3, **_HALVED),
    _layer("resnet-256-512-halved", 16, 256, 14, 512, 3, **_HALVED),
    _layer("downsample-64-128", 8, 64, 56, 128, 1, **_HALVED),
    _layer("downsample-128-256", 8, 128, 28, 256, 1, **_HALVED),
    _layer("downsample-256-512", 16, 256, 14, 512, 1, **_HALVED),
    _layer("vgg-64-224", 1, 64, 224, 64, 3),
    _layer("vgg-128-112", 1, 128, 112, 128, 3),
    _layer("vgg-256-56", 2, 256, 56, 256, 3),
    _layer("vgg-512-28", 2, 512, 28, 512, 3),
    _layer("vgg-512-14", 8, 512, 14, 512, 3),
    _layer("pointwise-32-64-112", 4, 32, 112, 64, 1),
    _layer("pointwise-64-128-56", 8, 64, 56, 128, 1),
    _layer("pointwise-64-256-56", 4, 64, 56, 256, 1),
    _layer("pointwise-256-64-56", 4, 256, 56, 64, 1),
    _layer("pointwise-128-56", 8, 128, 56, 128, 1),
    _layer("pointwise-256-28", 8, 256, 28, 256, 1),
    _layer("pointwise-512-14", 16, 512, 14, 512, 1),
    _layer("pointwise-1024-7", 16, 1024, 7, 1024, 1),
    _layer("depthwise-32-112", 8, 32, 112, 32, 3, groups=32),
    _layer("depthwise-64-112-halved", 8, 64, 112, 64, 3, groups=64, **_HALVED),
    _layer("depthwise-128-56", 8, 128, 56, 128, 3, groups=128),
    _layer("depthwise-128-56-halved", 8, 128, 56, 128, 3, groups=128, **_HALVED),
    _layer("depthwise-256-28", 8, 256, 28, 256, 3, groups=256),
    _layer("depthwise-512-14", 8, 512, 14, 512, 3, groups=512),
    _layer("depthwise-512-14-halved", 8, 512, 14, 512, 3, groups=512, **_HALVED),
    _layer("depthwise-1024-7", 8, 1024, 7, 1024, 3, groups=1024),
    _layer("kernel-5x5-64-28", 8, 64, 28, 64, 5),
    _layer("kernel-5x5-32-96-28", 8, 32, 28, 96, 5),
    _layer("dilated-64-28", 8, 64, 28, 64, 3, dilation=(2, 2)),
    _layer("dilated-256-28", 4, 256, 28, 256, 3, dilation=(2, 2)),
    _layer("resnet-stem", 4, 3, 224, 64, 7, **_HALVED),
    _layer("mobilenet-stem", 8, 3, 224, 32, 3, **_HALVED),
    _layer("vgg-stem", 2, 3, 224, 64, 3),
    _case(
        "alexnet-stem",
        ConvInputs((8, 3, 224, 224), 64, (11, 11), stride=(4, 4), padding=(2, 2)),
        is_bench=True,
    ),
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
    # Several blocks of pixels across images, of output channels and of patch elements.
    _case("many-pixels", ConvInputs((5, 7, 11, 13), 70, padding=(1, 1))),
    _case("many-channels", ConvInputs((3, 9, 4, 5), 130, (2, 2), padding=(1, 0))),
    _case("many-pixels-1x1", ConvInputs((3, 70, 13, 15), 140, (1, 1))),
    _case("strided-1x1", ConvInputs((3, 33, 8, 9), 40, (1, 1), stride=(2, 2))),
    _case("nchw-1x1", ConvInputs((2, 20, 9, 9), 35, (1, 1), is_channels_last=False)),
    *_BENCHES,
)
