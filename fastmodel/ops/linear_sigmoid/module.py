"""The drop-in for nn.Linear followed by nn.Sigmoid."""

from __future__ import annotations

from torch import Tensor, nn

from fastmodel.ops.linear_sigmoid.op import linear_sigmoid
from fastmodel.ops.modules import adopt


class LinearSigmoid(nn.Linear):
    """`nn.Linear` and `nn.Sigmoid` in one: out = sigmoid(x @ weight.T + bias).

    Arguments, parameters, initialisation and state_dict are those of `nn.Linear`.

    Args:
        in_features: size of each input sample.
        out_features: size of each output sample.
        bias: False to learn no additive bias.
        device: where the parameters lie.
        dtype: of the parameters.
    """

    def forward(self, x: Tensor) -> Tensor:
        """out = sigmoid(x @ weight.T + bias); x (..., in_features) to (..., out_features)."""
        return linear_sigmoid(x, self.weight, self.bias)

    @classmethod
    def from_torch(cls, linear: nn.Linear) -> LinearSigmoid:
        """The fused module over the very Parameters of `linear`, which is left as it is."""
        fused = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        return adopt(fused, linear)
