"""An artifact in a store."""

from __future__ import annotations

import time
from pathlib import Path

from sft.artifacts import ModelArtifact
from sft.store import Entry, Store


def publish(store: Store, key: str = "k1", text: str = "weights") -> Entry:
    out = store.staging("model", key, resume=False)
    (out / "model.safetensors").write_text(text)
    (out / "logs").mkdir()
    (out / "logs" / "log.txt").write_text(str(time.time_ns()))
    made = ModelArtifact(root=out, source="scratch", revision="", external_dir=Path("/models/x"), num_parameters=3)
    return store.publish(key, "model", made, settings={"a": 1}, inputs={"dataset": "d"}, seconds=1.5)
