"""Linear layer and SiLU, against PyTorch's."""


def test_linear_silu(run):
    run()
