"""Parse the words of a recipe's "method": changes of the weights, then how they are rounded."""

from dataclasses import dataclass

from exporter.util.nearest import hint

TRANSFORMS = ("retie", "rotate", "smoothquant", "awq")
ROUNDINGS = ("rtn", "hqq", "gptq")
PLAIN = ("rtn", "hqq")
CALIBRATED = ("smoothquant", "awq", "gptq")


@dataclass(frozen=True)
class Method:
    """A method: `transforms` in the order they are made; `rounding` of what they leave."""

    transforms: tuple[str, ...]
    rounding: str

    def rounded_by(self, rounding: str) -> str:
        """Return the text of the same transforms and another rounding."""
        return "+".join((*self.transforms, rounding))

    def needs_calibration(self) -> bool:
        return any(step in CALIBRATED for step in (*self.transforms, self.rounding))

    def is_plain(self) -> bool:
        """Tell whether each matrix is rounded by itself, as it is."""
        return not self.transforms and self.rounding in PLAIN


def parse_method(text: str) -> Method:
    """Parse a method from words with + between: `gptq`, `rotate+gptq`, `awq`.

    Raises ValueError that names the word and what would be accepted.
    """
    words = text.split("+")
    known = (*TRANSFORMS, *ROUNDINGS)
    for word in words:
        if word not in known:
            raise ValueError(
                f'method "{text}": there is no "{word}"{hint(word, known)}; join with + any of '
                f"{', '.join(TRANSFORMS)}, and at most one of {', '.join(ROUNDINGS)}"
            )
    roundings = [word for word in words if word in ROUNDINGS]
    if len(roundings) > 1:
        raise ValueError(f'method "{text}" rounds twice: keep one of {" and ".join(roundings)}')
    if len(set(words)) < len(words):
        raise ValueError(f'method "{text}" names a step twice: name it once')
    if "awq" in words and "smoothquant" in words:
        raise ValueError(f'method "{text}" scales twice: keep awq or smoothquant')
    transforms = tuple(step for step in TRANSFORMS if step in words)
    return Method(transforms, roundings[0] if roundings else ROUNDINGS[0])
