"""Make one canonical table of any tokenizer, checked against the library that it was made for.

Faces: `tokenizer.read_tokenizer`; `end_tokens.token_sources` says what begins and ends a text.
"""
