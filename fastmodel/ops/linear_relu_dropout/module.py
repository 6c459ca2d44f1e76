"""The drop-in for nn.Linear followed by nn.ReLU and nn.Dropout."""

from __future__ import annotations

from torch import Tensor, nn

from fastmodel.errors import InputError
from fastmodel.ops.linear_relu_dropout.op import linear_relu_dropout
from fastmodel.ops.modules import adopt


class LinearReLUDropout(nn.Linear):
    """`nn.Linear`, `nn.ReLU` and `nn.Dropout` in one: out = relu(x @ weight.T + bias) * keep / (1 - p).

    Parameters, initialisation and state_dict are those of `nn.Linear`; in evaluation mode nothing is dropped.

    Args:
        in_features: size of each input sample.
        out_features: size of each output sample.
        bias: False to learn no additive bias.
        device: where the parameters lie.
        dtype: of the parameters.
        p: in [0, 1], how probable it is that an element is dropped.

    Raises:
        InputError: p is out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device=None,
        dtype=None,
        p: float = 0.5,
    ) -> None:
        if not 0.0 <= p <= 1.0:
            raise InputError(f"LinearReLUDropout: p must be between 0.0 and 1.0, it is {p}")
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for x (..., in_features); see `functional.linear_relu_dropout`."""
        return linear_relu_dropout(x, self.weight, self.bias, self.p, self.training)

    def extra_repr(self) -> str:
        """The arguments, for `repr`."""
        return f"{super().extra_repr()}, p={self.p}"

    @classmethod
    def from_torch(cls, linear: nn.Linear, dropout: nn.Dropout) -> LinearReLUDropout:
        """The fused module over the very Parameters of `linear`; both are left as they are."""
        fused = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            device="meta",
            p=dropout.p,
        )
        return adopt(fused, linear)
