"""Show progress, write files whole, name the nearest word: what every room uses.

Faces: `progress.note` and `stage`, `files.written_whole`, `nearest.hint`, `errors.first_line`.
"""
