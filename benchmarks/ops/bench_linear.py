"""Linear layer, against PyTorch's."""


def test_linear(run):
    run()
