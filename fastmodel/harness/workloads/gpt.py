"""gpt: a language model of bytes, trained on the sources of Python's standard library.

The model and its two flavours are in gpt_model.py, the text in source_text.py. A token is a byte, so the loss
over ln 2 is bits per byte. AdamW decays every parameter, and the learning rate goes by the step: warm-up,
then half a cosine.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from fastmodel.harness.workloads.gpt_model import Gpt, GptConfig, TokenLoss
from fastmodel.harness.workloads.protocol import Optimizer, Options, Workload
from fastmodel.harness.workloads.recipe import Recipe
from fastmodel.harness.workloads.source_text import VOCABULARY, sequences, source_files

_MOST_WARMUP_STEPS = 100
_WARMUP_SHARE = 0.1


def _describe(config: GptConfig) -> str:
    return f"bytes of Python's standard library; {config.describe()}; cross-entropy; AdamW"


class GptWorkload(Workload):
    """A workload `gpt...`; subclasses give its size."""

    config: ClassVar[GptConfig]
    lr: ClassVar[float]
    train_bytes: ClassVar[int | None] = None
    """Of text in an epoch; None for all there is."""
    held_out_bytes: ClassVar[int] = 64 * 1024
    """For validation, and for testing."""
    batch_size: ClassVar[int] = 16
    """Sequences in a batch, unless the command line says otherwise."""
    max_grad_norm: ClassVar[float] = 1.0
    class_dim = -1
    bytes_per_target = 1

    def __init__(self, options: Options) -> None:
        config, files = self.config, source_files(options.data)
        self.train, self.validation, self.test = (
            sequences(files[part], config.context, most_bytes)
            for part, most_bytes in (
                ("train", self.train_bytes),
                ("validation", self.held_out_bytes),
                ("test", self.held_out_bytes),
            )
        )
        self.tokens_per_sample = config.context
        with torch.device("meta"):
            self.flops_per_sample = Gpt(config).flops_per_sequence()
        self._lr = self.lr if options.lr is None else options.lr
        steps = options.epochs * math.ceil(len(self.train) / options.batch_size)
        self.recipe = Recipe(
            max_grad_norm=self.max_grad_norm,
            warmup_steps=max(1, min(_MOST_WARMUP_STEPS, round(steps * _WARMUP_SHARE))),
            total_steps=steps,
        )

    def model(self) -> nn.Module:
        return Gpt(self.config)

    def loss(self) -> nn.Module:
        return TokenLoss()

    def optimizer(self) -> Optimizer:
        return Optimizer("AdamW", {"lr": self._lr, "betas": (0.9, 0.95), "weight_decay": 0.1})


class GptNano(GptWorkload):
    """Small enough for two CPU cores."""

    name = "gpt"
    config = GptConfig(layers=4, heads=4, width=128, context=128, vocabulary=VOCABULARY)
    description = _describe(config)
    lr = 3e-3
    train_bytes = 512 * 1024


class GptNanoLlama(GptNano):
    """The same size in Llama's flavour."""

    name = "gpt-llama"
    config = replace(GptNano.config, is_llama=True)
    description = _describe(config)


class GptMini(GptWorkload):
    """Between: an hour or so on a CPU, a minute on a GPU."""

    name = "gpt-mini"
    config = GptConfig(layers=6, heads=6, width=384, context=256, vocabulary=VOCABULARY)
    description = _describe(config)
    lr = 1e-3
    batch_size = 32


class GptSmall(GptWorkload):
    """GPT-2 small, but for its vocabulary."""

    name = "gpt-small"
    config = GptConfig(layers=12, heads=12, width=768, context=1024, vocabulary=VOCABULARY)
    description = _describe(config)
    lr = 6e-4
    batch_size = 8


class GptSmallLlama(GptSmall):
    """The same size in Llama's flavour."""

    name = "gpt-small-llama"
    config = replace(GptSmall.config, is_llama=True)
    description = _describe(config)
