"""Owns instructlab-training 0.16.2 as the parent process sees it. ``rank`` holds what runs inside the ranks."""
