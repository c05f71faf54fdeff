"""Owns scoring in a child process, which loads a model once: lm-eval's tasks (``harness``) and held-out conversations
(``holdout``). ``catalog`` knows the names of lm-eval's tasks without importing it.
"""
