"""Keep on disk what a calibration has finished, so that an interrupted one goes on where it was."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from exporter.lowbit.weights import QuantizedWeight, WeightFormat
from exporter.util.files import disk_full_named

Streams = tuple[Tensor, Tensor]


class Work:
    """A folder with a file a finished layer, and the streams after the last one.

    The folder belongs to one model, recipe and text: its name says which. `text`, where the model's own
    is kept, is removed with it.
    """

    def __init__(self, folder: Path, text: Path | None = None):
        self.folder, self.text = folder, text

    def resume(self, scaled: bool) -> tuple[dict[str, QuantizedWeight], int, Streams | None]:
        """Read the finished matrices, how many layers they are of, and the streams after them. `scaled`:
        layers have factors, too.

        A folder of which anything cannot be read counts as empty.
        """
        try:
            done = int((self.folder / "done").read_text())
            found = {}
            for i in range(done):
                found.update(_read_layer(self.folder / f"layer-{i}.safetensors"))
                if scaled:
                    load_file(self._factors(i))
            with open(self._streams(done), "rb") as file:
                streams = torch.from_numpy(np.load(file)), torch.from_numpy(np.load(file))
            return found, done, streams
        except (OSError, EOFError, ValueError, KeyError, TypeError, SafetensorError):
            return {}, 0, None

    def keep(self, layer: int, made: dict[str, QuantizedWeight], streams: Streams) -> None:
        """Write a finished layer. Raises OSError with the remedy when the disk is full."""
        with disk_full_named(str(self.folder)):
            self.folder.mkdir(exist_ok=True)
            _write_layer(self.folder / f"layer-{layer}.safetensors", made)
            with open(self._streams(layer + 1), "wb") as file:  # as safetensors it takes three times as long
                for stream in streams:
                    np.save(file, stream.numpy())
            part = self.folder / "done.part"
            part.write_text(str(layer + 1))
            os.replace(part, self.folder / "done")
        self._streams(layer).unlink(missing_ok=True)

    def keep_factors(self, layer: int, factors: dict[str, Tensor]) -> None:
        with disk_full_named(str(self.folder)):
            self.folder.mkdir(exist_ok=True)
            save_file(factors, self._factors(layer))

    def factors(self, layer: int) -> dict[str, Tensor]:
        """Read the factors of a finished layer."""
        return load_file(self._factors(layer))

    def _streams(self, layer: int) -> Path:
        """Return the file of the streams before a layer: quantized, float."""
        return self.folder / f"streams-{layer}.npy"

    def _factors(self, layer: int) -> Path:
        return self.folder / f"factors-{layer}.safetensors"

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.text is not None:
            self.text.unlink(missing_ok=True)


def _write_layer(path: Path, made: dict[str, QuantizedWeight]) -> None:
    tensors, forms = {}, {}
    for name, q in made.items():
        forms[name] = json.dumps(asdict(q.format))
        tensors[f"{name}:values"], tensors[f"{name}:scales"] = q.values, q.scales
        if q.zeros is not None:
            tensors[f"{name}:zeros"] = q.zeros
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata=forms or None)


def _format(said: str) -> WeightFormat:
    fields = json.loads(said)
    return WeightFormat(**{**fields, "bits_from_row": tuple(map(tuple, fields["bits_from_row"]))})


def _read_layer(path: Path) -> dict[str, QuantizedWeight]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        forms = file.metadata() or {}
        names = set(file.keys())
        return {
            name: QuantizedWeight(
                _format(form),
                file.get_tensor(f"{name}:values"),
                file.get_tensor(f"{name}:scales").to(torch.float32),
                file.get_tensor(f"{name}:zeros") if f"{name}:zeros" in names else None,
            )
            for name, form in forms.items()
        }
