"""What an operator computes, from its name: "conv backward", "pool forward", "optimizer"."""

from __future__ import annotations

import re

# Tried in order against the event's name in lower case; the first match is its kind. Fused ops stand
# before the plain ones whose names they contain.
_KINDS: tuple[tuple[str, str], ...] = (
    (r"^optimizer\.zero_grad", "optimizer"),
    (r"^optimizer\.step|^fastmodel\.optimizer|accumulategrad", "optimizer"),
    (r"^enumerate\(dataloader\)|^fastmodel\.dataloader", "data loader"),
    (r"conv_?relu_?max_?pool", "conv+ReLU+pool"),
    (r"conv_?relu", "conv+ReLU"),
    (r"linear_?relu", "linear+ReLU"),
    (r"cross_?entropy|nll_?loss|log_?softmax|mse_loss|loss", "loss"),
    (r"conv", "conv"),
    (r"pool", "pool"),
    (r"relu|gelu|silu|sigmoid|tanh|clamp_min|threshold", "activation"),
    (r"dropout|bernoulli", "dropout"),
    (r"batch_?norm|layer_?norm|group_?norm", "norm"),
    (r"linear|addmm|\bmm\b|mmbackward|matmul|\bbmm\b", "linear"),
    (r"^aten::(index|index_select|randperm)$", "batches"),
)
_BACKWARD = re.compile(r"backward")
_ONE_PASS = ("optimizer", "batches", "data loader")


def classify(name: str) -> str | None:
    """The kind of an event by its name, "conv backward" for instance; None if it has none."""
    lower = name.lower()
    for pattern, label in _KINDS:
        if re.search(pattern, lower):
            if label in _ONE_PASS:
                return label
            return f"{label} {'backward' if _BACKWARD.search(lower) else 'forward'}"
    return None
