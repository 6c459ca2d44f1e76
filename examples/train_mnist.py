"""A plain PyTorch training script: a small CNN on MNIST. Nothing in it knows of fastmodel's profiler.

    python examples/train_mnist.py --epochs 2
    fastmodel profile examples/train_mnist.py --epochs 1

The images lie in memory as one tensor, and each batch is drawn from it by index.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

from fastmodel.harness.workloads.datasets import load_mnist


class Net(nn.Module):
    """conv 32 - pool - conv 64 - pool - linear 128 - dropout - linear 10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.fc1 = nn.Linear(64 * 5 * 5, 128)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = self.dropout(F.relu(self.fc1(x)))
        return self.fc2(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--most-steps", type=int, help="stop after so many steps")
    args = parser.parse_args()

    torch.manual_seed(0)
    mnist = load_mnist()
    images = torch.tensor(mnist.train_images).unsqueeze(1).float().div_(255.0)
    labels = torch.tensor(mnist.train_labels, dtype=torch.int64)

    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    loss_sum, steps = 0.0, 0
    for epoch in range(args.epochs):
        for index in torch.randperm(len(images)).split(args.batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[index]), labels[index])
            loss.backward()
            optimizer.step()
            loss_sum += loss.item()
            steps += 1
            if steps == args.most_steps:
                break
        print(f"epoch {epoch + 1}: mean loss {loss_sum / steps:.4f} over {steps} steps")


if __name__ == "__main__":
    main()
