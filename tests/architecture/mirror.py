"""Which modules of ``sft`` have no unit file, what covers each instead, and why; read by ``test_mirror``."""

from __future__ import annotations

_IN_A_RANK = "runs inside a rank of torchrun, so a real training is the test"
_IN_A_CHILD = "runs in a process of its own, which the test starts"
_TYPED = "a command: the test types it and reads what comes back"
_REAL_SERVER = "speaks to a server, and the test runs a real one"
_SCHEMA = "fields and defaults without logic: the goldens hold every one of them"

COVERED_BY: dict[str, tuple[str, str]] = {
    "sft.__main__": ("integration/test_command_line.py", "the entry point: the test starts it"),
    "sft.adapters.evaluation.oom_batches": (
        "unit/adapters/evaluation/test_holdout.py",
        "a held-out score that runs out of memory and one that does not must be equal",
    ),
    "sft.adapters.evaluation.worker": ("integration/test_evaluation.py", _IN_A_CHILD),
    "sft.adapters.http": ("integration/test_http.py", _REAL_SERVER),
    "sft.adapters.hub.rows": ("unit/adapters/test_hub.py", "one test file for the hub's package"),
    "sft.adapters.instructlab.layout": (
        "unit/adapters/instructlab/test_monitor.py",
        "names of files: the test writes them and the monitor reads them",
    ),
    "sft.adapters.instructlab.rank.cpu": ("integration/test_training.py", _IN_A_RANK),
    "sft.adapters.instructlab.rank.loader": ("integration/test_training_settings.py", _IN_A_RANK),
    "sft.adapters.instructlab.rank.loop": ("integration/test_training_faults.py", _IN_A_RANK),
    "sft.adapters.instructlab.rank.lora": ("integration/test_training_settings.py", _IN_A_RANK),
    "sft.adapters.instructlab.rank.worker": ("integration/test_training.py", _IN_A_RANK),
    "sft.adapters.instructlab.settings": (
        "contract/test_instructlab.py",
        "the library's arguments: each is compared with the library's own",
    ),
    "sft.adapters.instructlab.torchrun_agent": ("integration/test_training_faults.py", _IN_A_CHILD),
    "sft.adapters.kubeflow.cluster": ("integration/test_trainjob.py", _REAL_SERVER),
    "sft.adapters.kubeflow.job": ("integration/test_trainjob.py", _REAL_SERVER),
    "sft.adapters.kubeflow.watch": ("integration/test_trainjob.py", _REAL_SERVER),
    "sft.adapters.registry": ("unit/stages/test_register.py", "the types that registries and their stage share"),
    "sft.adapters.registry.kubeflow": ("integration/test_registry_kubeflow.py", _REAL_SERVER),
    "sft.adapters.registry.mlflow": ("integration/test_registry_mlflow.py", _REAL_SERVER),
    "sft.adapters.sbom": ("unit/stages/test_package.py", "needs a whole package, which that test makes"),
    "sft.adapters.signing": ("unit/stages/test_package.py", "needs a whole package, which that test makes"),
    "sft.adapters.source": ("unit/stages/test_dataset.py", "leads to the sources, which have tests of their own"),
    "sft.adapters.upload": ("unit/adapters/upload/test_oci.py", "the types that uploads and their stage share"),
    "sft.chat.sample": ("unit/chat/test_formats.py", "every rule of a sample is broken by a row of some format"),
    "sft.cli": ("integration/test_command_line.py", _TYPED),
    "sft.cli.compare": ("e2e/test_sweep.py", _TYPED),
    "sft.cli.completion": ("integration/test_command_line.py", _TYPED),
    "sft.cli.data": ("integration/test_data_check.py", _TYPED),
    "sft.cli.evaluate": ("e2e/test_quickstart.py", _TYPED),
    "sft.cli.export": ("unit/kfp/test_pipeline.py", _TYPED),
    "sft.cli.models": ("e2e/test_register.py", _TYPED),
    "sft.cli.plan": ("integration/test_command_line.py", _TYPED),
    "sft.cli.register": ("e2e/test_register.py", _TYPED),
    "sft.cli.run": ("integration/test_command_line.py", _TYPED),
    "sft.cli.store": ("integration/test_command_line.py", _TYPED),
    "sft.cli.verify": ("e2e/test_verify.py", _TYPED),
    "sft.config.checks": ("config/test_errors.py", "every rule is broken by a composed configuration"),
    "sft.config.compose": ("config/test_recipes.py", "every recipe and every choice of a group is composed"),
    "sft.config.diagnose": ("config/test_errors.py", "every fault is one of a composed configuration"),
    "sft.config.hydra_app": ("integration/test_command_line.py", "Hydra's flags: the test types them"),
    "sft.config.launcher_checks": ("config/test_launching.py", "every rule is broken by a composed configuration"),
    "sft.config.schema": ("config/test_recipes.py", _SCHEMA),
    "sft.config.schema.dataset": ("config/test_recipes.py", _SCHEMA),
    "sft.config.schema.eval": ("config/test_recipes.py", _SCHEMA),
    "sft.config.schema.launcher": ("config/test_recipes.py", _SCHEMA),
    "sft.config.schema.model": ("config/test_recipes.py", _SCHEMA),
    "sft.config.schema.registry": ("config/test_recipes.py", _SCHEMA),
    "sft.config.schema.sweep": ("config/test_recipes.py", _SCHEMA),
    "sft.config.schema.training": ("config/test_recipes.py", _SCHEMA),
    "sft.planning.model_shape": ("unit/planning/test_memory.py", "memory is counted from the shapes, model by model"),
    "sft.planning.stage_spec": ("unit/planning/test_plan.py", "the table that plans are built from"),
    "sft.report.comparison.charts": ("unit/report/comparison/test_page.py", "the page's drawings, looked at on it"),
    "sft.report.comparison.text": ("unit/report/comparison/test_page.py", "the same comparison, as text and as a page"),
    "sft.report.data": ("integration/test_data_check.py", "reads what the stages made, which the test makes"),
    "sft.report.page": ("unit/report/test_run.py", "a frame of HTML around what the test looks at"),
    "sft.runner.dispatch": ("e2e/test_quickstart.py", "hands artifacts from stage to stage of a whole run"),
    "sft.runner.export_trainjob": ("integration/test_trainjob.py", "the exported job is created and run"),
    "sft.runner.reregister": ("e2e/test_register.py", "acts on a run that has ended, which the test makes"),
    "sft.runner.rerun": ("integration/test_command_line.py", "acts on the record of a run, which the test makes"),
    "sft.runner.verify": ("integration/test_verify.py", "acts on a run that has ended, which the test damages"),
    "sft.runner.worker_node": ("e2e/test_trainjob.py", "what other machines of a training do: the test starts them"),
    "sft.stages.evaluate": ("integration/test_evaluation.py", "scores a real model"),
    "sft.stages.model": ("unit/adapters/test_random_model.py", "makes the random model that the test looks at"),
    "sft.stages.model_card": ("unit/stages/test_package.py", "the card of a whole package, which that test makes"),
    "sft.stages.registries": ("unit/stages/test_register.py", "the one place that tells registries apart"),
    "sft.stages.tokenize": ("integration/test_tokenizing.py", _IN_A_CHILD),
    "sft.stages.upload": ("integration/test_upload_oci.py", _REAL_SERVER),
    "sft.sweep.run": ("e2e/test_sweep.py", "runs whole sweeps, stopped and repeated"),
    "sft.sweep.spec": ("config/test_sweep.py", "what is a sweep is read from recipes and overrides"),
}
"""By module: the test file below ``tests`` that covers it, and why there."""

TOPICS: dict[str, str] = {}
"""By unit file that is not named after its module: the module. For a module whose tests are too many for one file."""
