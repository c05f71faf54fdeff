"""Owns what a person may write: the typed schema, its composition, and what is wrong with it."""
