"""Linear layer and tanh, against PyTorch's."""


def test_linear_tanh(run):
    run()
