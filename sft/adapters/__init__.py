"""One module or folder per third-party library. Foreign exceptions are translated here and nowhere else."""
