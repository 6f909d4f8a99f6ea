"""Pack an artifact with the runner that it needs into a folder or archive for one kind of machine.

No torch, no model: files are read, and a build of the runners is installed by CMake.
"""
