"""Owns one chat sample: its canonical form, the rules it must keep, and the formats it is read from.

A row is JSON bytes; what comes out is ``{"messages": [{"role", "content", …}, …]}``. Knows nothing of files, splits
or tokenizers.
"""
