"""Owns Kubeflow's TrainJob: its manifest, the API server's client, and what a job shows while it trains.

``manifest`` is pure. Only ``cluster`` calls the Kubernetes client; ``status`` reads its answers. ``job`` finds or
creates a run's TrainJob, ``watch`` follows it until it ends, ``failure`` says why it failed. What the pods run is
`sft.adapters.instructlab.pod_entrypoint`.
"""
