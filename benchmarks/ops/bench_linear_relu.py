"""Linear layer and ReLU, against PyTorch's."""


def test_linear_relu(run):
    run()
