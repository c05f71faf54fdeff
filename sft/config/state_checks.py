"""Rules of full states: that some are saved, and where `training.state_uri` may copy them. Pure, as `checks` is."""

from __future__ import annotations

from collections.abc import Iterator

from sft.config.schema import RunConfig
from sft.errors import Problem
from sft.redaction import redact

_WRITABLE = {
    *("file", "pvc", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "tos"),
    *("hdfs", "webhdfs", "dbfs", "sftp", "ssh", "smb", "webdav"),
}
"""Schemes of storage in which a file can be replaced and removed."""


def check_states(cfg: RunConfig) -> Iterator[Problem]:
    """Yield what is wrong with how often full states are saved, and where they are copied."""
    training, uri = cfg.training, cfg.training.state_uri
    are_saved = training.full_state_at_epoch or training.checkpoint_every_steps is not None
    nothing = {"rule": "keeps nothing: no full state is saved", "suggestion": "try training.full_state_at_epoch=true"}
    if training.keep_full_states > 1 and not are_saved:
        yield Problem(key="training.keep_full_states", value=str(training.keep_full_states), **nothing)
    if uri is None:
        return
    key, shown = "training.state_uri", redact(uri)
    scheme = uri.partition("://")[0] if "://" in uri else "file"
    if scheme not in _WRITABLE:
        rule = f"{scheme}:// is not among the storage that full states are copied to"
        yield Problem(key=key, value=shown, rule=rule, suggestion="try s3://bucket/prefix, or a folder")
    elif shown != uri:
        rule = "holds a secret, and settings are recorded; a login comes from the environment"
        yield Problem(key=key, value=shown, rule=rule)
    elif not uri.partition("://")[2 if "://" in uri else 0].strip("/"):
        yield Problem(key=key, value=shown, rule="names no folder", suggestion=f"try {scheme}://bucket/prefix")
    elif "::" in uri:
        yield Problem(key=key, value=shown, rule="addresses within addresses (::) are not written")
    if not are_saved:
        yield Problem(key=key, value=shown, **nothing)
    if training.launcher.is_remote:
        rule = "is not read for a TrainJob: its full states lie on the volume, which outlives its pods"
        yield Problem(key=key, value=shown, rule=rule, suggestion="leave it out")
    if cfg.eval.every_epochs is not None:
        rule = "does not hold the models that eval.every_epochs scores: a fresh machine would lack them"
        yield Problem(key=key, value=shown, rule=rule, suggestion="leave one of them out")
