"""add_rms_norm against torch.nn.functional.rms_norm of a sum, and against float64."""

from support.norm import NORMS, ResidualNormTests


class TestAddRMSNorm(ResidualNormTests):
    norm = NORMS["add_rms_norm"]
