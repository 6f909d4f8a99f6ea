"""Go from a model's name to the files of one export.

Faces: `model_request.ModelRequest`, `prepare.describe` and `prepare`, `export.run`.
"""
