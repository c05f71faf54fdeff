"""Processes and this machine: what the operating system is asked for."""
