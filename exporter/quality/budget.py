"""Parse what a model may cost: `120MB`, `4.0bpw`, `kl<0.01`."""

import re
from dataclasses import dataclass

UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Budget:
    """A budget: either most `bytes` of the whole file, most `bits` of it a weight, or most `kl` in nats."""

    text: str
    bytes: float | None = None
    bits: float | None = None
    kl: float | None = None

    def most_bytes(self, weights: int) -> float | None:
        """Return the most bytes of the file of a model of so many weights; None where KL is what counts."""
        return self.bytes if self.bits is None else self.bits * weights / 8


def parse_budget(text: str) -> Budget:
    """Parse a budget. Raises ValueError that names the value and what would be accepted."""
    size = re.fullmatch(r"([0-9.]+) ?(kB|MB|GB|KiB|MiB|GiB)", text)
    bits = re.fullmatch(r"([0-9.]+) ?bpw", text)
    kl = re.fullmatch(r"kl ?< ?([0-9.e-]+)", text)
    try:
        if size:
            return Budget(text, bytes=_positive(size[1]) * UNITS[size[2]])
        if bits:
            return Budget(text, bits=_positive(bits[1]))
        if kl:
            return Budget(text, kl=_positive(kl[1]))
    except ValueError:
        pass
    raise ValueError(
        f"--fit {text!r} is no budget; give a file size (120MB), bits a weight (4.0bpw) or a "
        "divergence (kl<0.01)"
    )


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value
