"""Owns scoring in a child process that loads a model once: lm-eval's tasks (``lm_eval``), held-out data (``holdout``).

``task_index`` knows the names of lm-eval's tasks without importing it.
"""
