"""Owns what people read when work is done: facts in, a text or a page out."""
