"""Cross-entropy of logits and class indices, against PyTorch's."""


def test_cross_entropy(run):
    run()
