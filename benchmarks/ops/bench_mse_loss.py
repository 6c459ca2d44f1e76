"""Mean squared error, against PyTorch's."""


def test_mse_loss(run):
    run()
