"""Residual addition and root mean square normalization, against PyTorch's."""


def test_add_rms_norm(run):
    run()
