"""One file per command of `seqzoo`: its options, its help, and the call behind it.

Nothing heavy is imported before a command runs, so that help and mistakes answer at once.
"""
