"""layer_norm against torch.nn.functional.layer_norm, and against float64."""

from support.norm import NORMS, NormTests


class TestLayerNorm(NormTests):
    norm = NORMS["layer_norm"]
