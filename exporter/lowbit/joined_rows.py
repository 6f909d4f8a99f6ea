"""Read several matrices as one without a copy of all."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class JoinedRows:
    """The rows of matrices [n, K], one matrix's after the other's, as those of one matrix [N, K].

    `joined[rows]` is a tensor [R, K] of the rows of a slice.
    """

    def __init__(self, parts: Sequence[Tensor]):
        self._parts = parts
        self.shape = (sum(map(len, parts)), parts[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        found = list(self._of_parts(*rows.indices(len(self))))
        return torch.cat(found) if found else self._parts[0][:0]

    def _of_parts(self, start: int, stop: int, step: int) -> Iterator[Tensor]:
        first = 0
        for part in self._parts:
            own = range(start, stop, step)[max(0, -(-(first - start) // step)) :]
            if own and own[0] < first + len(part):
                yield part[own[0] - first : stop - first : step]
            first += len(part)
