"""Owns Kubeflow's TrainJob: its manifest, the API server's client, and what there is to see of a job at work.

``manifest`` is pure; ``cluster`` is the only room that calls the Kubernetes client; ``sights`` reads what it answers;
``job`` finds or makes a run's TrainJob, ``stay`` stays with it, ``ending`` says why it failed. What the pods do is
`sft.adapters.instructlab.pod_entrypoint`.
"""
