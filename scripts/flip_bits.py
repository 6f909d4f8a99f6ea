"""Flip one bit of a signed bundle at a time and run it: `scripts/flip_bits.py [--flips 10000] [--seed 0]`.

A tiny model is exported, packed and signed. Of each flip it is told who found it: the signature, the loader
or the self-test; the text of the others is compared with the right one. The first line of a signature is left
out, which minisign calls untrusted. Ends with status 1 when one is not found.
"""

from __future__ import annotations

import argparse
import collections
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
RUN = ("--tokens", "5,6,7", "-t", "0", "-n", "8", "--ignore-eos")
SECONDS = 20  # a run that takes longer hangs, and is found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        total = collections.Counter()
        for model in ("m.pte", "m.pt2"):
            found = _flip_in(_signed_bundle(Path(name), model), options.flips // 2, chance)
            print(f"{model}: " + ", ".join(f"{count} {who}" for who, count in sorted(found.items())))
            total += found
    return 1 if total["not found"] or total["wrong text"] else 0


def _signed_bundle(folder: Path, model: str) -> Path:
    import minisign
    import tiny
    from native import export

    from exporter.cli import main as cli

    if not (folder / "m").exists():
        tiny.make_hf(folder / "m", "llama3.1")
        export(folder / "m", "--quantize", "q4", "--max-seq-length", 64, "--output-pte", folder / "m.pte",
               "--output-aoti-package", folder / "m.pt2")  # fmt: skip
        pair = minisign.KeyPair.generate()
        (folder / "key").write_bytes(bytes(pair.secret_key))
        (folder / "key.pub").write_bytes(bytes(pair.public_key))
    bundle = folder / f"{model}-bundle"
    words = ["pack", folder / model, "--no-verify", "--sign", folder / "key", "-o", bundle]
    if cli.main([str(word) for word in words]) != 0:
        raise SystemExit("the bundle cannot be made")
    return bundle


def _flip_in(bundle: Path, flips: int, chance: random.Random) -> collections.Counter[str]:
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    right = _run(bundle, RUN)
    if right is None or right.returncode:
        raise SystemExit(f"the bundle does not run: {right and right.stderr}")
    found: collections.Counter[str] = collections.Counter()
    for done in range(flips):
        path = chance.choice(files)
        first = len(path.read_bytes().partition(b"\n")[0]) + 1 if path.suffix == ".minisig" else 0
        bit = chance.randrange(8 * first, 8 * path.stat().st_size)
        _flip(path, bit)
        who = _who_finds_it(bundle, right.stdout)
        _flip(path, bit)
        found[who] += 1
        if who in ("wrong text", "not found"):
            print(f"{path.relative_to(bundle)}: bit {bit}: {who}")
        if done % 500 == 499:
            print(f"  {done + 1} of {flips}", file=sys.stderr, flush=True)
    return found


def _flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def _who_finds_it(bundle: Path, right: bytes) -> str:
    test = _run(bundle, ("--self-test",))
    if test is None:
        return "found: it hangs"
    if test.returncode:
        if b"signed" in test.stderr or b"signature" in test.stderr or b".minisig" in test.stderr:
            return "found by the signature"
        return "found by the self-test" if test.returncode == 1 and test.stdout else "found by the loader"
    text = _run(bundle, RUN)
    if text is None or text.returncode:
        return "found when it generates"
    return "not found" if text.stdout == right else "wrong text"


def _run(bundle: Path, words: tuple[str, ...]) -> subprocess.CompletedProcess[bytes] | None:
    """Run the bundle's program itself: a damaged run.sh may leave out the flag that has it checked."""
    key = bundle.parent / "key.pub"
    (program,) = (bundle / "bin").iterdir()
    (model,) = (path for path in bundle.glob("model.*") if path.suffix in (".pte", ".pt2"))
    try:
        return subprocess.run([program, model, "--require-signature", key, *words],
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)  # fmt: skip
    except subprocess.TimeoutExpired:
        return None
    except OSError:  # no program at all any more
        return subprocess.CompletedProcess([], 126, b"", b"")


if __name__ == "__main__":
    sys.exit(main())
