"""A linear head and the cross-entropy of its logits, against PyTorch's."""


def test_linear_cross_entropy(run):
    run()
