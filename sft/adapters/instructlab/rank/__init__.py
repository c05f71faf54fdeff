"""What runs inside a rank. The parent process imports nothing from here; it shares `layout` and `settings`."""
