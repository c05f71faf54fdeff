"""A recipe as a Kubeflow pipeline: ``pipeline`` compiles it, ``tasks`` is what each of its tasks runs."""
