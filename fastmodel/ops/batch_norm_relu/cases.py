"""Named inputs of batch_norm_relu: the arguments of `functional.batch_norm_relu`, in its order."""

from __future__ import annotations

import math

import torch

from fastmodel.ops.case import Case, randn

EPS = 1e-5


def _case(
    name: str,
    *shape: int,
    is_channels_last: bool = False,
    is_training: bool = True,
    has_running: bool = True,
    is_affine: bool = True,
    is_bench: bool = False,
) -> Case:
    def make(dtype):
        channels = shape[1]
        x = randn(0, *shape, dtype=dtype)
        if is_channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        running: tuple = (None, None)
        weight: tuple = (None, None)
        if has_running:
            mean, var = randn(3, channels, dtype=dtype, scale=0.1), torch.ones(channels)
            running = mean, (var + 0.25 * randn(4, channels, dtype=torch.float32).tanh()).to(dtype)
        if is_affine:
            weight = (
                randn(1, channels, dtype=dtype, scale=0.25) + 1.0,
                randn(2, channels, dtype=dtype),
            )
        return x, *running, *weight, is_training, 0.1, EPS

    values = math.prod(shape)
    return Case(
        name,
        make,
        depth=max(1, values // max(1, shape[1])),
        flops=values * (7 if is_training else 4),
        bytes_float32=4 * values * 2,
        is_bench=is_bench,
    )


def _both(name: str, *shape: int, **options) -> tuple[Case, Case]:
    return (
        _case(name, *shape, **options),
        _case(f"{name}-last", *shape, is_channels_last=True, **options),
    )


CASES = (
    *_both("tiny", 2, 3, 4, 5),
    *_both("evaluation", 2, 3, 4, 5, is_training=False),
    *_both("no-running", 3, 5, 3, 3, has_running=False),
    *_both("not-affine", 3, 5, 3, 3, is_affine=False),
    *_both("not-affine-evaluation", 3, 5, 3, 3, is_affine=False, is_training=False),
    _case("two-values", 2, 3, 1, 1),
    _case("one-channel", 2, 1, 3, 3),
    _case("pixel", 5, 18, 1, 1),
    # One less and one more than the vectors (16, 8, 4), four of them, and eight rows.
    *_both("15", 2, 15, 3, 5),
    *_both("17", 1, 17, 1, 17),
    *_both("63", 1, 33, 7, 9),
    *_both("65", 1, 65, 5, 13),
    # Planes around the chunk of 8192, whole ones of it, and rows around a chunk of 512.
    *_both("plane-below", 2, 2, 63, 130),
    *_both("plane-above", 2, 2, 64, 129),
    *_both("planes", 35, 3, 16, 16),
    _case("rows-above", 1, 64, 27, 38, is_channels_last=True),
    _case("wide-rows", 3, 600, 7, 7, is_channels_last=True),
    *_both("two-threads", 4, 24, 22, 22),
    *_both("two-threads-evaluation", 4, 24, 22, 22, is_training=False),
    *_both("empty", 0, 3, 4, 4),
    *_both("empty-evaluation", 0, 3, 4, 4, is_training=False),
    _case("no-pixels", 2, 3, 0, 4),
    # ResNet-18 and -50 on CIFAR's and ImageNet's sizes, U-Net.
    *_both("resnet-cifar1", 16, 64, 32, 32, is_bench=True),
    *_both("resnet-cifar2", 16, 128, 16, 16, is_bench=True),
    *_both("resnet-cifar4", 16, 512, 4, 4, is_bench=True),
    *_both("resnet1", 16, 64, 56, 56, is_bench=True),
    *_both("resnet1-wide", 8, 256, 56, 56, is_bench=True),
    *_both("unet3", 16, 256, 14, 14, is_bench=True),
)
