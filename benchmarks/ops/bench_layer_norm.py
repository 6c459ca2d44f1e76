"""Layer normalization, against PyTorch's."""


def test_layer_norm(run):
    run()
