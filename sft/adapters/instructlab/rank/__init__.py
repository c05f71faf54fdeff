"""Runs inside a rank. The parent process imports nothing from here; both sides import `layout` and `settings`."""
