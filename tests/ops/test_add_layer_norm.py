"""add_layer_norm against torch.nn.functional.layer_norm of a sum, and against float64."""

from support.norm import NORMS, ResidualNormTests


class TestAddLayerNorm(ResidualNormTests):
    norm = NORMS["add_layer_norm"]
