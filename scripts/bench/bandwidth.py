"""The memory's read bandwidth, by numpy: `python -m scripts.bench.bandwidth THREADS`.

For use until kernel_bench is built, which reads with the kernels' own loads.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

GIBIBYTE = 1 << 30
REPETITIONS = 5


def read_bandwidth(threads: int) -> float:
    """Bytes a second of the best of some passes over 1 GiB; numpy reads outside the global lock."""
    parts = np.array_split(np.ones(GIBIBYTE // 4, np.int32), threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPETITIONS):
            start = time.monotonic()
            list(pool.map(np.max, parts))  # the reduction that numpy vectorizes best
            best = min(best, time.monotonic() - start)
    return GIBIBYTE / best


if __name__ == "__main__":
    print(json.dumps({"read_gb_per_s": read_bandwidth(int(sys.argv[1])) / 1e9}))
