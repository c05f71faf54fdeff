"""Every setting a recipe may hold: one file per group of dataclasses, each field documented beneath it.

Defaults and bounds live here and nowhere else; the YAML files under ``conf/`` say only what differs. Enum members are
spelled as a person types them. ``MISSING`` marks what only a person can supply.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from sft.config.schema.adapters import BaseQuantization, LoraConfig, LoraInit
from sft.config.schema.bounds import setting
from sft.config.schema.dataset import (
    ColumnsConfig,
    DatasetConfig,
    DatasetFormat,
    Mixing,
    MixingStop,
    OnInvalid,
    OnUnrendered,
    SourceConfig,
)
from sft.config.schema.eval import (
    HOLDOUT,
    EvalBackend,
    EvalConfig,
    HeldOutSetConfig,
    HoldoutConfig,
    HoldoutMetric,
    NotCompared,
    Sampling,
    Verbosity,
    VllmConfig,
)
from sft.config.schema.judge import JudgeConfig
from sft.config.schema.launcher import LauncherConfig, LauncherKind
from sft.config.schema.model import AdapterUse, AddTokensConfig, ModelConfig, ModelSource, ScratchConfig
from sft.config.schema.optimization import Loss, Optimizer, ParameterGroupConfig, WeightDecayOn
from sft.config.schema.registry import OnConflict, RegistryConfig, RegistryKind
from sft.config.schema.schedule import LrScheduler, ScheduleConfig
from sft.config.schema.selection import EarlyStoppingConfig, SelectConfig, SelectMode
from sft.config.schema.sweep import SweepConfig
from sft.config.schema.texts import FOLDER_NAME, PATH
from sft.config.schema.training import (
    Attention,
    Compile,
    FsdpConfig,
    GradientCheckpointing,
    OnTooLong,
    Precision,
    ProfileConfig,
    SaveDtype,
    ShardingStrategy,
    Tracker,
    TrackingConfig,
    TrainingConfig,
    TrainOn,
)

__all__ = [
    "HOLDOUT",
    "AdapterUse",
    "AddTokensConfig",
    "Attention",
    "BaseQuantization",
    "ColumnsConfig",
    "Compile",
    "DatasetConfig",
    "DatasetFormat",
    "EarlyStoppingConfig",
    "EvalBackend",
    "EvalConfig",
    "FsdpConfig",
    "GradientCheckpointing",
    "HeldOutSetConfig",
    "HoldoutConfig",
    "HoldoutMetric",
    "JudgeConfig",
    "LauncherConfig",
    "LauncherKind",
    "LoraConfig",
    "LoraInit",
    "Loss",
    "LrScheduler",
    "Mixing",
    "MixingStop",
    "ModelConfig",
    "ModelSource",
    "NotCompared",
    "OnConflict",
    "OnInvalid",
    "OnTooLong",
    "OnUnrendered",
    "Optimizer",
    "ParameterGroupConfig",
    "Precision",
    "ProfileConfig",
    "RegistryConfig",
    "RegistryKind",
    "RunConfig",
    "Sampling",
    "SaveDtype",
    "ScheduleConfig",
    "ScratchConfig",
    "SelectConfig",
    "SelectMode",
    "ShardingStrategy",
    "SourceConfig",
    "SweepConfig",
    "Tracker",
    "TrackingConfig",
    "TrainOn",
    "TrainingConfig",
    "Verbosity",
    "VllmConfig",
    "WeightDecayOn",
]


@dataclass(kw_only=True)
class RunConfig:
    """One run: everything that `sft run` reads."""

    name: str = setting("run", FOLDER_NAME)
    """Prefix of the run's folder; a recipe's own name unless set."""
    run_root: str = setting("runs", PATH)
    """Folder of the artifact store and of every run's record; relative to where `sft` is called."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)

    @property
    def has_held_out_split(self) -> bool:
        """Whether rows of the dataset are held out."""
        return self.dataset.eval_uri is not None or self.dataset.train_split < 1.0

    @property
    def held_out_sets(self) -> list[str]:
        """The sets of `eval.holdouts` whose rows a run takes: those that are scored, and `training.validation_sets`."""
        validated = self.training.validation_sets
        return [name for name in self.eval.holdouts if self.eval.enabled or name in validated]

    def scored_epochs(self) -> list[int]:
        """Return the epochs, from 1, whose models are scored besides the tuned model.

        That is the last one's, unless their scores choose it: then the last one is among them.
        """
        every, last = self.eval.every_epochs if self.eval.enabled else None, math.ceil(self.training.num_epochs)
        epochs = list(range(every, last, every)) if every else []
        return [*epochs, last] if epochs and self.training.select.score else epochs

    def of_held_out_set(self, name: str) -> RunConfig:
        """Return the configuration whose dataset is a set of `eval.holdouts`: all of its rows are held out."""
        wanted, shared = self.eval.holdouts[name], self.dataset
        data = DatasetConfig(
            uri="",
            eval_uri=wanted.uri,
            eval_split=wanted.split,
            format=wanted.format,
            columns=wanted.columns,
            split_by="row",
            ignore_fields=shared.ignore_fields,
            system_prompt=shared.system_prompt,
            on_invalid=shared.on_invalid,
            on_unrendered=shared.on_unrendered,
            max_download_bytes=shared.max_download_bytes,
            storage_options=shared.storage_options,
        )
        return replace(self, dataset=data)
