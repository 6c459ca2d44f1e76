"""Batch norm and ReLU in training, against PyTorch's in both layouts."""


def test_batch_norm_relu(run):
    run()
