"""PyTorch, the data in memory as tensors; `--compile` passes the network to `torch.compile`."""

import sys

import torch
from protocol import Data, Peer, serve
from torch import nn
from torch.nn import functional


def create(data: Data, seed: int) -> Peer:
    """Builds the network and its optimizer."""
    torch.manual_seed(seed)
    splits = {
        name: (torch.tensor(images).permute(0, 3, 1, 2).float() / 255, torch.tensor(labels).long())
        for name, (images, labels) in data.items()
    }
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.MaxPool2d(2),  # before the rectifier: equal, and faster
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5408, 64),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7, fused=True)
    if "--compile" in sys.argv:
        model = torch.compile(model)

    def epoch():
        images, labels = splits["train"]
        batches = torch.randperm(len(images)).split(128)
        model.train()
        for index in batches:
            optimizer.zero_grad()
            functional.cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()
        return {"steps": len(batches), "val_accuracy": accuracy("validation")}

    @torch.no_grad()
    def accuracy(split):
        images, labels = splits[split]
        model.eval()
        batches = zip(images.split(128), labels.split(128), strict=True)
        correct = sum((model(x).argmax(1) == y).sum().item() for x, y in batches)
        return correct / len(labels)

    return epoch, lambda: accuracy("test")


if __name__ == "__main__":
    serve(create, torch)
