"""Compare an artifact with the checkpoint that it was made of, and report what was found.

Faces: `verify.verify`, `report.write_report`, `inspection` for the verb `inspect`.
"""
