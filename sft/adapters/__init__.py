"""One module or package per third-party library. Their exceptions are translated here and nowhere else."""
