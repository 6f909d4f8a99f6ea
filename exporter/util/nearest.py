"""Name the nearest of what is known to a word that is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, names: Iterable[str], likeness: float = 0.65) -> str | None:
    """Return the one of `names` that is spelled most like `word`, None where none is near; case, dashes and
    underscores make no difference. `likeness` is what `difflib` gives at least, 1 for equal words."""
    plain = {_plain(name): name for name in names}
    close = difflib.get_close_matches(_plain(word), plain, n=1, cutoff=likeness)
    return plain[close[0]] if close else None


def hint(word: str, names: Iterable[str]) -> str:
    """Return a question to end an error's text with, ` (did you mean NAME?)`, or nothing."""
    found = nearest(word, names)
    return f" (did you mean {found}?)" if found is not None else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
