"""Linear layer and ReLU, against PyTorch's."""


def test_linear_relu_dropout(run):
    run()
