"""Convolution, ReLU and max-pool, against PyTorch's in both layouts."""


def test_conv_relu_maxpool(run):
    run()
