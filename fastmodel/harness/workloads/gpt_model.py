"""The transformers of the workload `gpt`, in plain PyTorch: GPT-2's block, and Llama's.

    x = x + attention(norm(x)),  x = x + mlp(norm(x));  attention is causal, by scaled_dot_product_attention
    gpt:   LayerNorm, learned positions, mlp = down(gelu(up(x))), the head shares the embedding's weight
    llama: RMSNorm, rotary positions, mlp = down(silu(gate(x)) * up(x)), no biases, a head of its own

Sources: Radford et al., Language Models are Unsupervised Multitask Learners (2019); Touvron et al., LLaMA
(2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_INIT_STD = 0.02
_ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class GptConfig:
    """The size and the flavour of a model."""

    layers: int
    heads: int
    width: int
    context: int
    vocabulary: int
    is_llama: bool = False
    dropout: float = 0.0

    @property
    def hidden(self) -> int:
        """The width between an mlp's layers; Llama's three matrices hold as much as GPT's two."""
        return 8 * self.width // 3 // 32 * 32 if self.is_llama else 4 * self.width

    def describe(self) -> str:
        """Its size in words."""
        flavour = "RMSNorm, SwiGLU, RoPE" if self.is_llama else "LayerNorm, GELU"
        return f"{self.layers} layers of {self.width}, {self.heads} heads, context {self.context}, {flavour}"


class Gpt(nn.Module):
    """Bytes (N, T), int64, to logits (N, T, vocabulary)."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        if not config.is_llama:
            self.positions = nn.Parameter(torch.empty(config.context, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = _norm(config)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        if not config.is_llama:
            self.head.weight = self.tokens.weight
        self._initialise()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens)
        if not self.config.is_llama:
            x = x + self.positions[: tokens.shape[1]]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def _initialise(self) -> None:
        """GPT-2's: normal, smaller where a layer writes to the residual stream; biases 0."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue  # norms are 1 and 0 already
            is_residual = name.endswith(("project.weight", "down.weight"))
            std = _INIT_STD / math.sqrt(2 * self.config.layers) if is_residual else _INIT_STD
            nn.init.normal_(parameter, std=std)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def flops_per_sequence(self) -> int:
        """Multiplications and additions of a training step over one sequence of the full context.

        2 a weight and token forward, twice that backward; a token's attention 4 * width a position that it
        attends to, of which a causal one has half the context; likewise backward. Nothing else is counted.
        """
        config = self.config
        weights = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))
        attention = config.layers * 4 * config.width * config.context // 2
        return 3 * config.context * (2 * weights + attention)


class Block(nn.Module):
    """One layer: x (N, T, width) to the same shape."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = Attention(config)
        self.mlp_norm = _norm(config)
        self.mlp: nn.Module = GatedMlp(config) if config.is_llama else Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Attention(nn.Module):
    """Causal attention of several heads."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.heads, self.p, self.is_rotary = config.heads, config.dropout, config.is_llama
        has_bias = not config.is_llama
        self.query_key_value = nn.Linear(config.width, 3 * config.width, bias=has_bias)
        self.project = nn.Linear(config.width, config.width, bias=has_bias)
        self.dropout = nn.Dropout(config.dropout)
        if self.is_rotary:
            cos, sin = rotary_tables(config.context, config.width // config.heads)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        heads = self.query_key_value(x).view(n, t, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        if self.is_rotary:
            cos, sin = self.cos[:t], self.sin[:t]
            query = query * cos + rotate_half(query) * sin
            key = key * cos + rotate_half(key) * sin
        p = self.p if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, dropout_p=p, is_causal=True)
        return self.dropout(self.project(y.transpose(1, 2).reshape(n, t, width)))


class Mlp(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.hidden)
        self.activation = nn.GELU()
        self.down = nn.Linear(config.hidden, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.activation(self.up(x))))


class GatedMlp(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.hidden, bias=False)
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(F.silu(self.gate(x)) * self.up(x)))


class TokenLoss(nn.Module):
    """Cross-entropy of logits (N, T, vocabulary) against targets (N, T), the mean over all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.cross_entropy = nn.CrossEntropyLoss()

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.cross_entropy(logits.flatten(0, 1), targets.flatten())


def rotary_tables(context: int, dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin (context, dim) of position * base^(-2 i / dim), i below dim / 2, twice in a row."""
    frequencies = _ROTARY_BASE ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.outer(torch.arange(context, dtype=torch.float64), frequencies).repeat(1, 2)
    return angles.cos().float(), angles.sin().float()


def rotate_half(x: Tensor) -> Tensor:
    """(-second half, first half) of the last dimension."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def _norm(config: GptConfig) -> nn.Module:
    return nn.RMSNorm(config.width, eps=1e-5) if config.is_llama else nn.LayerNorm(config.width)
