"""Residual addition and layer normalization, against PyTorch's."""


def test_add_layer_norm(run):
    run()
