"""A recipe as a Kubeflow pipeline: ``pipeline`` compiles it, ``cluster`` is what Kubernetes gives its tasks, ``tasks``
what each of them runs.
"""

NAMESPACE = "SFT_POD_NAMESPACE"
"""Variable with the namespace of the pod of a task."""
