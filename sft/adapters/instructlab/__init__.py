"""instructlab-training 0.16.2: its settings, its launch, the worker, and the mended traps."""
