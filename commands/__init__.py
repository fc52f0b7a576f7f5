"""The commands, a file a subject: each parses, calls one function and prints; `cli.py` names them.

Heavy imports stay inside the functions, so that `--help` is quick.
"""
