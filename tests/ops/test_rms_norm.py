"""rms_norm against torch.nn.functional.rms_norm, and against float64."""

from support.norm import NORMS, NormTests


class TestRMSNorm(NormTests):
    norm = NORMS["rms_norm"]
