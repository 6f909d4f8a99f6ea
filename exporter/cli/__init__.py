"""Read the command line and dispatch to a verb.

Faces: `main.main`; `verbs/` has a module a verb; `command_line` what they share.
"""
