"""Linear layer and sigmoid, against PyTorch's."""


def test_linear_sigmoid(run):
    run()
