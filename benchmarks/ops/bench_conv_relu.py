"""Convolution and ReLU, against PyTorch's in both layouts."""


def test_conv_relu(run):
    run()
