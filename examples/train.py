"""A small training: on torch where it is installed, on plain Python where it is not.

    python examples/train.py                      here, with nothing installed
    chisel python examples/train.py --epochs 10   on somebody else's machine

It learns which side of a circle a point lies on, and writes what it learned to model.json.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F")

try:
    import aspara
    from chisel import capture_trace
except ImportError:  # a checkout with nothing installed: learn all the same
    aspara = None

    def capture_trace(trace_name: str) -> Callable[[F], F]:
        """Do without traces."""
        return lambda function: function


SAMPLES = 4_000
FEATURES = 8
HIDDEN = 16


@capture_trace(trace_name="preprocess")
def preprocess(count: int, seed: int) -> tuple[list[list[float]], list[int]]:
    """Make points and labels, and scale the points to mean 0 and deviation 1."""
    source = random.Random(seed)
    points = [[source.uniform(-1, 1) for _ in range(FEATURES)] for _ in range(count)]
    labels = [int(point[0] ** 2 + point[1] ** 2 < 0.6) for point in points]
    columns = list(zip(*points, strict=True))
    means = [sum(column) / count for column in columns]
    spreads = [
        math.sqrt(sum((value - mean) ** 2 for value in column) / count)
        for column, mean in zip(columns, means, strict=True)
    ]
    scaled = [
        [
            (value - mean) / spread
            for value, mean, spread in zip(point, means, spreads, strict=True)
        ]
        for point in points
    ]
    return scaled, labels


class PlainModel:
    """One hidden layer of tanh, trained point by point, without any library."""

    name = "plain Python"

    def __init__(self, seed: int) -> None:
        source = random.Random(seed)
        self.inner = [[source.gauss(0, 0.5) for _ in range(FEATURES + 1)] for _ in range(HIDDEN)]
        self.outer = [source.gauss(0, 0.5) for _ in range(HIDDEN + 1)]

    def forward(self, point: list[float]) -> tuple[list[float], float]:
        hidden = [
            math.tanh(row[FEATURES] + sum(w * x for w, x in zip(row, point, strict=False)))
            for row in self.inner
        ]
        score = self.outer[HIDDEN] + sum(w * h for w, h in zip(self.outer, hidden, strict=False))
        return hidden, 1 / (1 + math.exp(-max(-60.0, min(60.0, score))))

    def epoch(self, points: list[list[float]], labels: list[int], rate: float) -> float:
        total = 0.0
        for point, label in zip(points, labels, strict=True):
            hidden, guess = self.forward(point)
            total -= math.log(max(1e-12, guess if label else 1 - guess))
            error = guess - label
            for unit, (row, value) in enumerate(zip(self.inner, hidden, strict=True)):
                slope = rate * error * self.outer[unit] * (1 - value * value)
                for index, x in enumerate(point):
                    row[index] -= slope * x
                row[FEATURES] -= slope
                self.outer[unit] -= rate * error * value
            self.outer[HIDDEN] -= rate * error
        return total / len(points)

    def accuracy(self, points: list[list[float]], labels: list[int]) -> float:
        right = sum(
            (self.forward(p)[1] > 0.5) == bool(y) for p, y in zip(points, labels, strict=True)
        )
        return right / len(points)

    def weights(self) -> dict[str, list]:
        return {"inner": self.inner, "outer": self.outer}


class TorchModel:
    """The same network in torch, on a GPU where there is one."""

    def __init__(self, seed: int) -> None:
        import torch

        torch.manual_seed(seed)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.name = f"torch {torch.__version__} on {self.device}"
        self.net = torch.nn.Sequential(
            torch.nn.Linear(FEATURES, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, 1)
        ).to(self.device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.02)

    def epoch(self, points: list[list[float]], labels: list[int], rate: float) -> float:
        import torch

        x = torch.tensor(points, device=self.device)
        y = torch.tensor(labels, device=self.device, dtype=torch.float32)
        total = 0.0
        for batch in torch.randperm(len(points), device=self.device).split(32):
            self.optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                self.net(x[batch]).squeeze(1), y[batch]
            )
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(batch)
        return total / len(points)

    def accuracy(self, points: list[list[float]], labels: list[int]) -> float:
        import torch

        with torch.no_grad():
            guesses = self.net(torch.tensor(points, device=self.device)).squeeze(1) > 0
        return (guesses.cpu() == torch.tensor(labels, dtype=torch.bool)).float().mean().item()

    def weights(self) -> dict[str, list]:
        return {name: value.tolist() for name, value in self.net.state_dict().items()}


@capture_trace(trace_name="train")
def train(
    model: PlainModel | TorchModel, points: list[list[float]], labels: list[int], epochs: int
) -> float:
    """Train, saying how it goes on stdout, and how long an epoch took on stderr."""
    split = len(points) * 4 // 5
    accuracy = 0.0
    for epoch in range(1, epochs + 1):
        began = time.perf_counter()
        loss = model.epoch(points[:split], labels[:split], rate=0.05)
        accuracy = model.accuracy(points[split:], labels[split:])
        print(f"epoch {epoch}/{epochs}  loss {loss:.4f}  accuracy {accuracy:.3f}", flush=True)
        took = time.perf_counter() - began
        print(f"epoch {epoch} took {took:.2f} s", file=sys.stderr, flush=True)
        if aspara is not None:
            aspara.log({"loss": loss, "accuracy": accuracy, "epoch_seconds": took})
    return accuracy


def main() -> None:
    """Make the data, train, and keep the model and the metrics."""
    parser = argparse.ArgumentParser(description="Train a small network.")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()

    run = None
    if aspara is not None:
        run = aspara.init(
            project="examples",
            config={"epochs": options.epochs, "seed": options.seed},
            tags=["demo"],
        )
    points, labels = preprocess(SAMPLES, options.seed)
    model = TorchModel(options.seed) if find_spec("torch") else PlainModel(options.seed)
    print(f"training on {model.name}", flush=True)
    accuracy = train(model, points, labels, options.epochs)
    learned = {"model": model.name, "accuracy": accuracy, "weights": model.weights()}
    Path("model.json").write_text(json.dumps(learned), encoding="utf-8")
    print(f"done: accuracy {accuracy:.3f}, model in model.json", flush=True)
    if run is not None:
        run.summary["accuracy"] = accuracy
        aspara.finish()


if __name__ == "__main__":
    main()
