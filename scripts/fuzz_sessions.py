"""Fuzz sessions: tiny models of every family, in both runners, on every instruction set and type of cache.

Prints a line for each, and ends with 1 at the first session that does not say what it would alone.
"""

import argparse
import contextlib
import itertools
import math
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SLOWER = {"scalar": 30}  # times than the others; it has as much fewer sequences
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "families")]


def checkpoints(folder: Path) -> dict[str, Path]:
    """A tiny checkpoint of each family, by its name."""
    import family
    import tiny
    from test_gemma3 import TestGemma3
    from test_qwen2 import TestQwen2
    from test_qwen3 import TestQwen3

    made = {name: folder / name for name in ("llama", "mistral", "qwen2", "qwen3", "gemma3")}
    families = {path.stem for path in (ROOT / "exporter" / "families").glob("*.py")} - {"__init__"}
    if families != made.keys():
        raise SystemExit(f"error: this script makes models of {sorted(made)}, there are {sorted(families)}")
    tiny.make_hf(made["llama"], "llama3.1")
    tiny.make_hf(made["mistral"], "mistral_window")
    for name, tests in (("qwen2", TestQwen2), ("qwen3", TestQwen3), ("gemma3", TestGemma3)):
        family.make_hf(made[name], tests.case)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=100_000, help="of all together (default: 100000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--build", type=Path, action="append",
                        help="folder of a build (default: cmake-out), of several each")  # fmt: skip
    parser.add_argument("--isa", action="append", help="only these")
    options = parser.parse_args()
    builds = [path.resolve() for path in options.build or [ROOT / "cmake-out"]]
    os.chdir(ROOT)

    from native import export
    from session_fuzz import CACHE_TYPES, TOOLS, fuzz, isas

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.redirect_stderr(open(os.devnull, "w")):
            for family, path in checkpoints(folder).items():
                export(path, "--quantize", "q4", "--max-seq-length", 96,
                       "--output-pte", folder / f"{family}.pte",
                       "--output-aoti-package", folder / f"{family}.pt2")  # fmt: skip
        artifacts = sorted([*folder.glob("*.pte"), *folder.glob("*.pt2")])
        cases = [
            case for case in itertools.product(artifacts, options.isa or isas(builds[0]), CACHE_TYPES, builds)
            if (case[3] / "tests" / TOOLS[case[0].suffix]).is_file()
        ]  # fmt: skip
        shares = [1 / SLOWER.get(case[1], 1) for case in cases]
        counts = [math.ceil(options.sequences * share / sum(shares)) for share in shares]
        for number, ((artifact, isa, cache_type, build), count) in enumerate(zip(cases, counts, strict=True)):
            said = fuzz(artifact, count, options.seed + number, isa, cache_type, build)
            print(f"{artifact.name:12} {cache_type:8} {build.name:10} {said}", end="", flush=True)
        print(f"{sum(counts)} sequences in {len(cases)} cases: no session differs from one alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
