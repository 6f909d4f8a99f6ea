"""Whether `verify` sees an artifact's metadata that is not its checkpoint's."""

import pytest

from exporter.verify.identity import wrong_contexts


@pytest.mark.parametrize(
    ("metadata", "wrong"),
    [
        ({"context_length": "16", "longest_context": "64"}, []),
        ({"context_length": "64"}, []),
        ({"context_length": "65"}, ["context_length 65, outside 1..64"]),
        ({"context_length": "sixteen"}, ["context_length sixteen, outside 1..64"]),
        ({"context_length": "-16", "longest_context": "64"},
         ["context_length -16, outside 1..64"]),
        ({}, ["context_length , outside 1..64"]),
        ({"context_length": "16", "longest_context": "8"},
         ["longest_context 8, outside 16..64"]),
        ({"context_length": "16", "longest_context": "¹"},
         ["longest_context ¹, outside 16..64"]),
    ],
)  # fmt: skip
def test_contexts(metadata, wrong):
    assert wrong_contexts(metadata, 64) == wrong
