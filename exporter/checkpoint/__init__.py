"""Find a checkpoint by alias, path or hub id, and read its weights under canonical names.

Faces: `checkpoint.open_checkpoint`, without torch; `load.load_model` and `streamed.stream_model`.
"""
