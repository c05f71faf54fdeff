"""Decide what a run consists of, what it runs on and what it will need, before anything is done."""
