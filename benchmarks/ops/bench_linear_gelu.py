"""Linear layer and GELU, against PyTorch's."""


def test_linear_gelu(run):
    run()
