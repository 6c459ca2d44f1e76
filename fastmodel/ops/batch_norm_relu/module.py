"""The drop-in for nn.BatchNorm2d followed by nn.ReLU."""

from __future__ import annotations

from torch import Tensor, nn

from fastmodel.ops.batch_norm_relu.op import batch_norm_relu
from fastmodel.ops.modules import adopt


def forward_of(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """relu(norm(x)): what the fused module does, with the mode, options and state of any batch norm."""
    # As nn.BatchNorm2d's own forward has it.
    norm._check_input_dim(x)
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    uses_batch = norm.training or (norm.running_mean is None and norm.running_var is None)
    moves = not norm.training or norm.track_running_stats
    return batch_norm_relu(
        x,
        norm.running_mean if moves else None,
        norm.running_var if moves else None,
        norm.weight,
        norm.bias,
        uses_batch,
        momentum,
        norm.eps,
    )


class BatchNormReLU2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` and `nn.ReLU` in one: out = relu((x - mean) / sqrt(var + eps) * weight + bias).

    Arguments, parameters, buffers, initialisation, modes and state_dict are those of `nn.BatchNorm2d`.

    Args:
        num_features: channels of the images.
        eps: added to the variance.
        momentum: how far the running statistics go towards a batch's; None for the average of all batches.
        affine: False to learn no weight and bias.
        track_running_stats: False to normalise by the batch's statistics in evaluation too.
        device: where the parameters lie.
        dtype: of the parameters.
        bias: False to learn no bias.
    """

    def forward(self, input: Tensor) -> Tensor:
        """out of x (N, C, H, W); in training the running statistics move."""
        return forward_of(self, input)

    @classmethod
    def from_torch(cls, norm: nn.BatchNorm2d) -> BatchNormReLU2d:
        """The fused module over the very Parameters and buffers of `norm`, which is left as it is."""
        fused = cls(
            norm.num_features,
            norm.eps,
            norm.momentum,
            norm.affine,
            norm.track_running_stats,
            device="meta",
        )
        for name, buffer in norm._buffers.items():
            fused.register_buffer(name, buffer)
        return adopt(fused, norm)
