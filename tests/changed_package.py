"""Copies of a `.pt2` in which something is another."""

import json
import zipfile

from native import METADATA

from exporter.lower.pt2_package import ALIGNMENT, Pt2Writer


def changed(package, to, change) -> None:
    """A copy of the archive as the exporter would write it; `change(name, data)` gives each member's
    new bytes, None to drop it."""
    with zipfile.ZipFile(package) as old, Pt2Writer(to) as new:
        for name in old.namelist():
            if not name.startswith(("model/data/", "model/tokenizer/")):
                continue  # written by itself
            data = change(name, old.read(name))
            if data is not None:
                new._stream(name.removeprefix("model/"), len(data), [data], ALIGNMENT)


def with_metadata(package, to, **values: object) -> None:
    def change(name, data):
        if name != METADATA:
            return data
        new = {key: v if isinstance(v, str) else json.dumps(v) for key, v in values.items()}
        return json.dumps({**json.loads(data), **new}).encode()

    changed(package, to, change)


def without_self_test(name: str, data: bytes) -> bytes:
    """Makes an older release's package, for `changed`."""
    if name != METADATA:
        return data
    return json.dumps({k: v for k, v in json.loads(data).items() if k != "self_test"}).encode()
