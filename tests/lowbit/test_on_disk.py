"""Packed weights that are kept in files until they are written."""

import errno
import os

import pytest
import torch

from exporter.lowbit import on_disk as module
from exporter.lowbit.on_disk import LEAST_BYTES, in_memory, on_disk


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_same_tensor_in_a_file_without_a_name(dtype, tmp_path):
    tensor = torch.arange(LEAST_BYTES).to(dtype)
    kept = on_disk(tmp_path)(tensor)
    assert torch.equal(kept, tensor) and kept.dtype == dtype and kept.data_ptr() != tensor.data_ptr()
    assert kept.is_contiguous() and kept.untyped_storage().nbytes() == tensor.nbytes
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="Linux tells what is mapped")
def test_it_is_mapped_as_long_as_the_tensor_is_there(tmp_path):
    def mapped() -> bool:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            return any(str(tmp_path) in line for line in maps)

    kept = on_disk(tmp_path)(torch.zeros(LEAST_BYTES, dtype=torch.uint8))
    assert mapped() and len(kept) == LEAST_BYTES
    del kept
    assert not mapped()


def test_small_ones_stay(tmp_path):
    tensor = torch.zeros(LEAST_BYTES - 1, dtype=torch.uint8)
    assert on_disk(tmp_path / "no folder")(tensor) is tensor and in_memory(tensor) is tensor


def test_a_full_disk(tmp_path, monkeypatch):
    whole = module.tempfile.NamedTemporaryFile

    class Full:
        def __init__(self, **options: object):
            self._file = whole(**options)

        def __enter__(self):
            self._file.__enter__()
            return self

        def __exit__(self, *raised: object):
            return self._file.__exit__(*raised)

        def write(self, content: object):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.tempfile, "NamedTemporaryFile", Full)
    with pytest.raises(OSError, match=f"{tmp_path}: the disk is full; free some room and export again"):
        on_disk(tmp_path)(torch.zeros(LEAST_BYTES, dtype=torch.uint8))
    assert not list(tmp_path.iterdir())
