"""SGD's step with momentum over lists of parameters, against torch.optim's plain, foreach and fused steps."""


def test_sgd(run):
    run()
