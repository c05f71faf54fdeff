"""A wrong configuration is refused before anything runs, with every problem at once, in words that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.config.compose import compose, find_recipe, shipped
from sft.errors import ConfigError


def problems(*overrides: str, recipe: str = "quickstart") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(find_recipe(recipe), overrides)
    return [str(problem) for problem in caught.value.problems]


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_all_problems_come_at_once() -> None:
    found = problems(
        "training.lerning_rate=1", "training.num_epochs=many", "training.fsdp.sharding_strategy=FULL", "eval.limit=0"
    )
    assert found == [
        "training.lerning_rate=1: no such setting; did you mean training.learning_rate?",
        "training.num_epochs=many: must be a number",
        "training.fsdp.sharding_strategy=FULL: must be one of FULL_SHARD, SHARD_GRAD_OP, HYBRID_SHARD, NO_SHARD; "
        "did you mean FULL_SHARD?",
        "eval.limit=0: must be at least 1, or null",
    ]


def test_a_missing_uri_says_how_to_set_it() -> None:
    [problem] = problems("dataset=local", "dataset.uri=???")
    assert problem == (
        "dataset.uri: is required and not set; say where the data is: dataset.uri=data.jsonl, "
        "dataset.uri=hf://org/name or dataset.uri=s3://bucket/key"
    )


def test_an_unknown_choice_lists_the_choices() -> None:
    assert problems("training/fsdp=full") == [
        "training/fsdp=full: must be one of full_shard, hybrid_shard, no_shard, shard_grad_op; did you mean full_shard?"
    ]


def test_an_unknown_group_names_the_nearest() -> None:
    assert problems("traning/fsdp=full_shard") == ["traning/fsdp: no such config group; did you mean training/fsdp?"]


def test_a_key_brought_in_with_a_plus_is_still_checked() -> None:
    assert problems("+training.warmup=3") == ["training.warmup=3: no such setting; did you mean training.warmup_steps?"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("training.lr=1", "training.learning_rate"),
        ("lr=1", "training.learning_rate"),
        ("training.batch_size=8", "training.effective_batch_size"),
        ("training.epochs=3", "training.num_epochs"),
        ("training.lora.r=8", "training.lora.rank"),
        ("model.name=x", "model.name_or_path"),
        ("registry.name=x", "registry.model_name"),
        ("data.uri=x", "dataset.uri"),
        ("eval.task=[a]", "eval.tasks"),
        ("learning_rate=1", "training.learning_rate"),
    ],
)
def test_what_other_tools_call_a_setting_is_known(typed: str, meant: str) -> None:
    [problem] = problems(typed)
    assert problem.endswith(f"no such setting; did you mean {meant}?")


@pytest.mark.parametrize(
    "typed", ["training.precision=fp8", "training/fsdp=shrd", "training.temperature=1", "model.tasks=[a]"]
)
def test_nothing_is_proposed_that_would_be_another_thing(typed: str) -> None:
    [problem] = problems(typed)
    assert "did you mean" not in problem


def test_a_typo_in_a_recipe_is_named(tmp_path: Path) -> None:
    text = "defaults: [config, _self_]\ndataset: {uri: x.jsonl}\ntraining: {learningrate: 1, num_epochs: a}\n"
    assert problems(recipe=write(tmp_path, text)) == [
        "training.learningrate=1: no such setting; did you mean training.learning_rate?",
        "training.num_epochs=a: must be a number",
    ]


def test_a_recipe_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    [problem] = problems(recipe=write(tmp_path, "a: [1\n"))
    assert "is not valid YAML" in problem
    assert "line 2" in problem


NAMES = [
    "a b",
    "a=b",
    "a'b",
    'a"b',
    "é",
    "日本",
    "a\\b",
    "a,b",
    "[x]",
    "{x}",
    "a#b",
    "${x}",
    "a@b",
    "a:b",
    ".hidden",
    "a.b.c",
    "~x",
]


@pytest.mark.long
@pytest.mark.parametrize("name", [*NAMES, "a;b", "%41", "a*b", "-x", "$(x)", "x" * 200])
def test_a_recipe_may_be_called_anything_that_names_a_folder(name: str, tmp_path: Path) -> None:
    text = "defaults: [config, override /dataset: synthetic, override /model: scratch, _self_]\n"
    cfg = compose(find_recipe(write(tmp_path, text, name=f"{name}.yaml")), [])
    assert cfg.name == name


@pytest.mark.parametrize("name", ["mine.yml", "mine", "mine.YAML", "mine.json"])
def test_a_recipe_that_hydra_would_not_read_is_told_and_no_other_file_is_read(name: str, tmp_path: Path) -> None:
    write(tmp_path, "defaults: [config, _self_]\ndataset: {uri: other.jsonl}\n")
    path = write(tmp_path, "defaults: [config, _self_]\n", name=name)
    assert problems(recipe=path) == [f"{path}: a recipe's name ends in .yaml; rename it to mine.yaml"]


@pytest.mark.parametrize("content", ["", "# nothing\n", "null\n", "- a\n", "text\n", "3\n"])
def test_a_recipe_that_is_no_mapping_is_told(content: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    assert problems(recipe=path) == [f"{path}: a recipe is a mapping of keys to values"]


@pytest.mark.parametrize("head", [b"\xef\xbb\xbf", b"\r\n", b"# \xc3\xa4\r", b"---\n"])
def test_byte_order_marks_and_any_end_of_a_line_are_read(head: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = "defaults: [config, override /dataset: synthetic, override /model: scratch, _self_]\ntraining: {seed: 7}\n"
    path.write_bytes(head + text.replace("\n", "\r\n").encode())
    assert compose(find_recipe(str(path)), []).training.seed == 7


def test_anchors_and_merge_keys_are_read(tmp_path: Path) -> None:
    text = "defaults: [config, _self_]\nname: &n mine\nregistry: {model_name: *n}\ndataset: {uri: x.jsonl}\n"
    text += "eval: {gen_kwargs: &k {top_k: 1}, model_args: {<<: *k, dtype: float32}}\n"
    cfg = compose(find_recipe(write(tmp_path, text)), [])
    assert (cfg.registry.model_name, cfg.eval.model_args) == ("mine", {"top_k": 1, "dtype": "float32"})


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in ("ab", "bc", "cd", "de", "ef", "fg")
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nseed: 2\n", "says seed twice (lines 1 and 2)"),
        ("env: {A: '1', A: '2'}\n", "says A twice"),
        ("env: &a {b: *a}\n", "holds itself, through an anchor"),
        (BOMB, "unfolds to more than 100,000 values"),
        (f"env: {'{a: ' * 200}1{'}' * 200}\n", "is nested too deeply"),
        ("\tseed: 1\n", "is not valid YAML"),
        ("seed: 1\n---\nseed: 2\n", "is not valid YAML"),
        ("defaults: [mine]\n", "is nested too deeply, or its files include each other"),
        ("defaults: [{defaults: _self_}]\n", "Hydra can't read this list"),
        ("seed: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
        ("- a\n", "Merge error"),
    ],
    ids=["twice", "twice below", "itself", "bomb", "deep", "tab", "documents", "circle", "assertion", "tag", "list"],
)
def test_a_groups_file_is_read_as_strictly_as_a_recipe(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    write(tmp_path / "training", text)
    [problem] = problems(recipe=write(tmp_path, "defaults: [config, override /training: mine, _self_]\n"))
    assert said in problem


@pytest.mark.parametrize("key", ["training.env", "eval.model_args"])
def test_a_value_that_is_nested_too_deeply_is_told(key: str, tmp_path: Path) -> None:
    value = "{a: " * 200 + "1" + "}" * 200
    assert problems(f"{key}={value}") == [f"{key}: is nested too deeply"]
    group, _, name = key.partition(".")
    text = f"defaults: [config, _self_]\n{group}: {{{name}: {value}}}\n"
    [problem] = problems(recipe=write(tmp_path, text))
    assert problem.endswith("is nested too deeply: to more than 50 levels")


def test_a_recipe_without_the_base_says_what_to_write(tmp_path: Path) -> None:
    [problem] = problems(recipe=write(tmp_path, "training: {num_epochs: 2}\n"))
    assert "defaults: [config, _self_]" in problem


@pytest.mark.parametrize(("name", "meant"), [("quickstrat", "quickstart"), ("gsm8", "gsm8k")])
def test_an_unknown_recipe_names_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        find_recipe(name)


def test_a_missing_recipe_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such recipe file"):
        find_recipe("nowhere.yaml")


@pytest.mark.parametrize("name", ["ticket.yaml", "tickets.yml"])
def test_a_missing_recipe_file_names_the_nearest_beside_it(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, "", name="tickets.yaml")
    with pytest.raises(ConfigError, match=rf"did you mean {path}\?"):
        find_recipe(str(tmp_path / name))


@pytest.mark.long
@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("dataset.train_split=1.5", "above 0 and at most 1"),
        ("training.keep_full_states=3", "keeps nothing: no full state is saved; try training.full_state_at_epoch=true"),
        ("training.state_uri=s3://bucket/x", "keeps nothing: no full state is saved"),
        ("training.tracking.project=a/b", "names a project in W&B, which takes 128 characters"),
        ("training.tracking.trackers=[wandb,wandb]", "is named twice"),
        ("eval.tasks=[spell_numbers,spell_numbers]", "is named twice"),
        ("eval.gates.holdout.loss=< 1e999", "must compare with a finite number"),
        ("training.max_seq_len=5000", "must fit into training.max_tokens_per_gpu=2048"),
        ("training.effective_batch_size=1", "at least the 2 processes"),
        ("training.context_parallel=3", "must divide the 2 ranks of this training"),
        ("training.context_parallel=0", "must be at least 1"),
        ("model.scratch.num_key_value_heads=3", "must divide"),
        ("model.add_tokens.special=['<|call|>']", "is for a pretrained model; one from scratch gets a tokenizer"),
        ("eval.batch_size=many", "or auto"),
        ("eval.judge.model=m", "nothing is judged without eval.judge.address; name the judge's server"),
        ("eval.judge.address=localhost:8000", "must be http://HOST/… or https://HOST/…, without a query"),
        (
            "eval.no_regression=[judge]",
            "compares with the base model already: it has no such score; try eval.gates.judge",
        ),
        ("eval.gates.judge.win_rate=> 0.5", "there is no judge; set eval.judge.address"),
        (
            "eval.gates.holdout.loss=0.5",
            "is no comparison: '>= 0.6', '< baseline', '>= baseline - 0.01' or 'improvement",
        ),
        ("eval.gates.spell_numbers.bleu=> 3 and improvement > 0", "needs an error, and bleu has none"),
        ("eval.gates.spell_numbers.acc=improvement >= 1e999", "must compare with a finite number"),
        ("eval.no_regression=[spell_numbers.ter]", "needs an error, and ter has none"),
        ("eval.no_regression=[holdout.acc]", "no such score; it is scored for loss, perplexity"),
        ("eval.no_regression=[holdout,holdout]", "is named twice"),
        ("eval.confidence=1", "must be above 0.5 and below 1.0"),
        (
            "eval.gates.holdout.bleu=> 0.5",
            "no such score; it is scored for loss, perplexity",
        ),
        ("eval.gates.spell_numbers=> 0.5", "must name a score: task.metric; try spell_numbers.acc"),
        ("training.warmup_steps=-1", "must not be negative"),
        ("training.env.HF_TOKEN=abc", "named like a secret"),
        ("dataset.storage_options.secret=abc", "named like a secret"),
    ],
)
def test_a_rule_across_fields_names_the_key(override: str, rule: str) -> None:
    settings = ["training.full_state_at_epoch=false", "training.tracking.trackers=[wandb]"]
    [problem] = problems(*settings, override)
    assert override.partition("=")[0].removesuffix(".special") in problem
    assert rule in problem


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        (["https://host/states"], "https:// is not among the storage that full states are copied to"),
        (["hf://org/name"], "hf:// is not among the storage that full states are copied to"),
        (["s3://"], "names no folder; try s3://bucket/prefix"),
        (["sftp://ada:secret@host/states"], "holds a secret, and settings are recorded"),
        (["file:///data::x"], "addresses within addresses"),
        (["s3://bucket/x", "eval.every_epochs=1"], "does not hold the models that eval.every_epochs scores"),
        (["s3://bucket/x", "training/launcher=kubeflow"], "its full states lie on the volume"),
    ],
)
def test_full_states_are_copied_only_to_where_they_can_be_written_and_are_of_use(
    settings: list[str], rule: str
) -> None:
    address, *others = settings
    found = [
        problem for problem in problems(f"training.state_uri='{address}'", *others) if "training.state_uri" in problem
    ]
    assert [rule in problem for problem in found] == [True]
    assert "secret@" not in found[0]


@pytest.mark.parametrize("address", ["s3://bucket/prefix", "pvc://claim/states", "file:///data/states", "states"])
def test_places_for_full_states(address: str) -> None:
    assert compose(find_recipe("quickstart"), [f"training.state_uri='{address}'"])


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        (["eval.baseline=false"], "needs the base model's score; try eval.baseline=true"),
        (["eval=none"], "nothing is scored: eval.enabled=false"),
        (["eval.holdout.enabled=false"], "the held-out set has no such score; it is scored for nothing"),
        (["eval.holdout.limit=1"], "needs an error, and one sample has none: eval.holdout.limit=1"),
    ],
)
@pytest.mark.parametrize("gate", ["eval.no_regression=[holdout]", "eval.gates.holdout.loss=improvement > 0"])
def test_a_gate_that_can_never_be_judged_is_refused_before_anything_runs(
    gate: str, settings: list[str], rule: str
) -> None:
    found = problems(*settings, gate)
    assert [rule in problem for problem in found] == [True]


def test_new_tokens_are_texts_named_once_whose_embeddings_are_trained() -> None:
    found = problems(
        "model.add_tokens.special=[a,' ']", "model.add_tokens.plain=[a,b]", "training/lora=default", recipe="gsm8k"
    )
    fix = "needs the embedding to be trained, which adapters leave as it is; try training.lora.rank=0"
    assert found == [
        "model.add_tokens.special=' ': must be a text, and named once",
        "model.add_tokens.special='a': must be a text, and named once",
        f"model.add_tokens.special: {fix}",
        "model.add_tokens.plain='a': must be a text, and named once",
        f"model.add_tokens.plain: {fix}",
    ]


def test_no_data_is_told_with_all_else() -> None:
    assert problems("dataset.uri=", "registry.port=-5") == [
        "dataset.uri: is required and not set; say where the data is: dataset.uri=data.jsonl, "
        "dataset.uri=hf://org/name or dataset.uri=s3://bucket/key",
        "registry.port=-5: must be at least 1 and at most 65535, or null",
    ]


def test_a_command_that_needs_no_data_takes_none() -> None:
    assert compose(find_recipe("quickstart"), ["dataset.uri="], needs_data=False).dataset.uri == ""


def test_an_interpolation_that_leads_nowhere_is_told_under_its_key() -> None:
    assert problems("name=${nowhere}", "training.env={A: '${oc.env:NO_SUCH_VARIABLE}'}") == [
        "name=${nowhere}: Interpolation key 'nowhere' not found",
        "training.env={'A': '${oc.env:NO_SUCH_VARIABLE}'}: the environment variable NO_SUCH_VARIABLE is not set; "
        "export it, or write ${oc.env:NO_SUCH_VARIABLE,DEFAULT}",
    ]


def test_an_escaped_interpolation_is_text() -> None:
    assert compose(find_recipe("quickstart"), ["name=a\\${b}"]).name == "a${b}"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("=3", "=3: is not an override; write key=value"),
        ("training=3", "training=3: must be one of default"),
        ("training.lora=null", "training/lora=null: must be one of default, none, qlora; did you mean none?"),
    ],
)
def test_what_hydra_would_stumble_over_is_told(override: str, said: str) -> None:
    assert problems(override) == [said]


@pytest.mark.parametrize(
    ("key", "rule"), [("keep_full_states", "must be a whole number"), ("num_epochs", "must be a number")]
)
def test_a_number_of_any_length_in_a_recipe_is_told(key: str, rule: str, tmp_path: Path) -> None:
    text = f"defaults: [config, _self_]\ndataset: {{uri: x.jsonl}}\ntraining: {{{key}: 0x{'f' * 9000}}}\n"
    [problem] = problems(recipe=write(tmp_path, text))
    assert problem.startswith(f"training.{key}=0xfff")
    assert problem.endswith(f"(9002 characters): {rule}")


def test_what_needs_a_chat_template_says_so() -> None:
    server = ["eval.backend=local_chat_completions", "eval.system_instruction=short"]
    assert problems(*server, "eval.apply_chat_template=false") == [
        "eval.system_instruction: needs a chat template to stand in; try eval.apply_chat_template=true",
        "eval.backend=local_chat_completions: needs the server's address; "
        "try eval.model_args.base_url=http://localhost:8000/v1/chat/completions",
        "eval.backend=local_chat_completions: takes chats, no texts; try eval.apply_chat_template=true",
    ]


def test_a_secret_is_not_shown_in_the_message() -> None:
    assert "hush-hush" not in problems("training.env.HF_TOKEN=hush-hush")[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "dataset.storage_options.client.password=abc",
            "dataset.storage_options.client.password: is named like a secret, and settings are recorded; "
            "put it into the environment",
        ),
        (
            "training.env.WANDB_BASE_URL=https://me:canary@host",
            "training.env.WANDB_BASE_URL: holds a secret, and settings are recorded; put it into the environment",
        ),
        (
            "eval.model_args.revision=hf_canarycanarycanarycanary",
            "eval.model_args.revision: holds a secret, and settings are recorded; put it into the environment",
        ),
        ("name=hf_canarycanarycanarycanary", "name: holds a secret, and it names the run's folder"),
        ("name=../elsewhere", "name=../elsewhere: must be without /: it names the run's folder"),
        (
            "eval.model_args.trust_remote_code=true",
            "eval.model_args.trust_remote_code: is not for an evaluation to say: see model.trust_remote_code",
        ),
    ],
)
def test_what_must_not_be_recorded_or_leave_its_place_is_refused(override: str, said: str) -> None:
    assert problems(override) == [said]


def test_another_place_for_the_model_is_for_kubeflow_only() -> None:
    assert problems("registry=mlflow", "registry.uri=s3://models/m") == [
        "registry.uri=s3://models/m: is for a Kubeflow registry, and this one is MLflow; try null"
    ]


@pytest.mark.parametrize("pvc", ["sft-workspace", "sft-workspace:runs", ":/workspace"])
def test_a_volume_is_a_claim_and_where_it_is_mounted(pvc: str) -> None:
    assert problems(f"registry.pvc={pvc}") == [
        f"registry.pvc={pvc}: must be claim:/mount/path; try sft-workspace:/workspace"
    ]


def test_kubeflow_address_needs_a_scheme() -> None:
    [problem] = problems("registry=kubeflow", "registry.address=registry.example")
    assert "try https://registry.example" in problem


@pytest.mark.parametrize("override", ["training.fsdp=no_shard", "training/fsdp=no_shard"])
def test_a_nested_group_is_chosen_with_a_dot_or_a_slash(override: str) -> None:
    cfg = compose(find_recipe("quickstart"), [override])
    assert cfg.training.fsdp.sharding_strategy.value == "NO_SHARD"


@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize(
    ("key", "values"),
    [("dataset.sources.chat.weight", "1,2"), ("training.parameter_groups.head.learning_rate", "range(1,3)")],
)
def test_several_values_of_a_setting_in_a_named_group_are_refused_as_they_were_written(
    plus: str, key: str, values: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(find_recipe("quickstart"), [f"{plus}{key}={values}"])
    [problem] = caught.value.problems
    assert (problem.key, problem.value) == (key, values)
    assert "can't be swept" in problem.rule


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_plus_before_a_key_of_a_named_group_changes_nothing(plus: str) -> None:
    overrides = [f"{plus}eval.holdouts.mine.uri=a.jsonl", f"{plus}eval.gates.holdout.loss=< baseline"]
    cfg = compose(find_recipe("quickstart"), overrides)
    assert cfg.eval.holdouts["mine"].uri == "a.jsonl"
    assert cfg.eval.gates == {"holdout.loss": "< baseline"}


def test_a_new_key_of_a_free_mapping_needs_no_plus() -> None:
    cfg = compose(find_recipe("quickstart"), ["training.env.NCCL_DEBUG=INFO"])
    assert cfg.training.env == {"NCCL_DEBUG": "INFO"}


def test_a_recipe_finds_its_own_groups_first(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "ours.yaml").write_text("uri: ours.jsonl\n")
    recipe = write(tmp_path, "defaults:\n  - config\n  - override /dataset: ours\n  - _self_\n")
    assert compose(find_recipe(recipe), []).dataset.uri == "ours.jsonl"


@pytest.mark.parametrize("uri", ["synthetic://spell-numbers?rows=9&seed=1", "it's here/x.jsonl", "a b\\c?x=(1)"])
def test_a_value_that_hydra_can_not_parse_is_taken_as_text(uri: str) -> None:
    assert compose(find_recipe("quickstart"), [f"dataset.uri={uri}"]).dataset.uri == uri


def test_several_values_without_a_sweep_say_how_to_sweep() -> None:
    assert problems("training.seed=1,2") == [
        "training.seed=1,2: several values are a sweep; add -m, or [1,2] for a list"
    ]


def test_a_password_in_a_place_to_upload_to_is_refused_and_not_shown() -> None:
    assert problems("registry.upload='oci://ada:canary@ghcr.io/org/x'") == [
        "registry.upload=oci://***@ghcr.io/org/x: holds a secret, and settings are recorded; "
        "a login comes from the environment"
    ]


def test_a_model_is_uploaded_or_served_from_elsewhere_not_both() -> None:
    both = ["registry=kubeflow", "registry.uri=s3://other/x", "registry.upload=s3://bucket/x"]
    assert problems(*both) == [
        "registry.uri=s3://other/x: is where registry.upload has brought the model, or where something else does: "
        "not both; try registry.uri=null"
    ]


VLLM = ["eval.backend=vllm", "eval.vllm.python=vllm/bin/python"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["eval.backend=vllm"], "eval.backend=vllm: needs eval.vllm.python; make an environment with vLLM"),
        (["eval.vllm.enforce_eager=true"], "eval.vllm.enforce_eager: is read only with eval.backend=vllm"),
        ([*VLLM, "eval.tasks=[]"], "eval.backend=vllm: answers eval.tasks, and there are none"),
        ([*VLLM, "+eval.model_args.dtype=float16"], "eval.model_args.dtype: does not reach vLLM; with it there are"),
        ([*VLLM, "eval.vllm.gpu_memory_utilization=1.5"], "must be above 0 and at most 1, or null"),
    ],
)
def test_vllm_that_can_not_be_asked_is_refused(overrides: list[str], message: str) -> None:
    [problem] = problems(*overrides)
    assert message in problem


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.num_epochs=2"], "eval.every_epochs=2: scores no epoch before the last: training.num_epochs=2"),
        (["training.checkpoint_at_epoch=false"], "needs the models of the epochs; try training.checkpoint_at_epoch"),
        (["eval=none"], "eval.every_epochs=2: nothing is scored: eval.enabled=false"),
        (["eval.epoch_tasks=[arc_easy]"], "eval.epoch_tasks=arc_easy: is not among eval.tasks"),
        (["eval.epoch_holdouts=[legal]"], "eval.epoch_holdouts=legal: is not among the held-out sets"),
        (["dataset.train_split=1.0"], "eval.every_epochs=2: nothing to score; name a task in eval.epoch_tasks"),
        (["eval.epoch_holdouts=[]"], "eval.every_epochs=2: nothing to score; name a task in eval.epoch_tasks"),
        (
            ["eval.every_epochs=null", "eval.epoch_tasks=[spell_numbers]"],
            "eval.epoch_tasks: is read only with eval.every_epochs",
        ),
    ],
)
def test_epochs_that_can_not_be_scored_are_refused(overrides: list[str], message: str) -> None:
    [problem] = problems("training.num_epochs=5", "eval.every_epochs=2", *overrides)
    assert message in problem


JUDGE = ["eval.judge.address=http://localhost:8000/v1", "eval.judge.model=m"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.baseline=false", "eval.baseline=false: leaves out the base model's answers, and eval.judge compares"),
        ("eval.holdout.generate=false", "eval.holdout.generate=false: leaves the answers unwritten, and eval.judge"),
        (
            "eval.holdout.enabled=false",
            "eval.judge.holdouts=None: leaves nothing to judge; try eval.holdout.enabled=true",
        ),
        ("eval.judge.holdouts=[]", "eval.judge.holdouts=[]: leaves nothing to judge; try null"),
        (
            "eval.judge.holdouts=[legal]",
            "eval.judge.holdouts=legal: is no held-out set that is scored; there are holdout",
        ),
        ("eval.gates.judge.legal.win_rate=> 0.5", "the judge gives only judge.win_rate"),
        ("eval=none", "eval.enabled=false: scores nothing, and eval.judge compares"),
        (
            "dataset.train_split=1.0",
            "dataset.train_split=1.0: leaves no held-out row whose answers eval.judge can compare",
        ),
        ("eval.judge.model=''", "eval.judge.model: is required and not set; say what the server calls its model"),
        (
            "eval.judge.address=http://host/v1/chat/completions",
            "eval.judge.address=http://host/v1/chat/completions: ends before /chat/completions; http://host/v1",
        ),
        ("eval.judge.key_env=MINE", "eval.judge.key_env=MINE: must be named like a secret"),
        ("+eval.judge.parameters.n=3", "eval.judge.parameters.n=3: must leave one text to come back as a whole"),
        ("+eval.judge.parameters.messages=[]", "eval.judge.parameters.messages: is said by eval.judge.prompt"),
        ("+eval.judge.parameters.api_key=x", "eval.judge.parameters.api_key: is named like a secret"),
        ("eval.judge.address=http://me:canary@host/v1", "eval.judge.address: holds a secret"),
        ("eval.gates.judge.elo=> 1", "eval.gates.judge.elo=> 1: the judge gives only judge.win_rate"),
        ("eval.gates.judge.win_rate=> baseline", "compares with the base model already"),
    ],
)
def test_a_judge_that_can_not_judge_is_refused(override: str, message: str) -> None:
    [problem] = problems(*JUDGE, override)
    assert message in problem


NAMES = ["a b", "a=b", "a'b", 'a"b', "a,b", "a(b)", "a$b", "ä", "a{b}", "a[b]"]


@pytest.mark.long
def test_a_recipe_may_be_called_anything(tmp_path: Path) -> None:
    for name in NAMES:
        file = tmp_path / f"{name}.yaml"
        file.write_text("defaults: [config, override /dataset: synthetic, override /model: scratch, _self_]\n")
        assert compose(find_recipe(str(file)), []).name == name


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("hydra: null", "must be a mapping of Hydra's own settings"),
        ("hydra: [1]", "must be a mapping of Hydra's own settings"),
        ("name: a\nname: b", "says name"),
        ("training:\n\tnum_epochs: 2", "is not valid YAML"),
        ("training: &a\n  x: *a", "holds itself"),
        ("name: ${oc.env:NO_SUCH_VARIABLE}", "the environment variable NO_SUCH_VARIABLE is not set; export it"),
        ("training: &a {num_epochs: 2}\neval: *a", r"eval\.num_epochs=2: no such setting"),
    ],
)
def test_odd_yaml_ends_in_a_sentence(body: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(f"defaults: [config, override /dataset: synthetic, override /model: scratch, _self_]\n{body}\n")
    with pytest.raises(ConfigError, match=said):
        compose(find_recipe(str(file)), [])


def test_ranks_that_share_a_row_share_its_tokens_and_the_batch() -> None:
    shared = "training.context_parallel=2"
    compose(find_recipe("quickstart"), [shared, "training.max_seq_len=4096", "training.effective_batch_size=1"])
    assert problems(shared, "training.max_seq_len=5000") == [
        "training.max_seq_len=5000: a sample must fit into training.max_tokens_per_gpu=2048 on each of "
        "training.context_parallel=2 ranks; try training.max_seq_len=4096"
    ]
    assert problems(shared, "training.launcher.procs_per_worker=4", "training.effective_batch_size=1") == [
        "training.effective_batch_size=1: must be at least the 4 processes (num_workers, procs_per_worker, "
        "gpus_per_worker) by training.context_parallel=2, or some rank has nothing to do; try 2"
    ]


@pytest.mark.parametrize("attention", ["sdpa", "flash_attention"])
def test_ranks_that_share_a_row_take_torchs_packed_attention(attention: str) -> None:
    assert problems("training.context_parallel=2", f"training.attention={attention}") == [
        f"training.attention={attention}: training.context_parallel=2 is for torch's own attention over packed rows; "
        "try training.attention=varlen"
    ]


SOURCES = ("dataset=local", "dataset.sources.maths.uri=a.csv", "dataset.sources.chat.uri=b.jsonl")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["dataset.uri=c.jsonl"], "dataset.sources=maths, chat: are read in the place of dataset.uri: set one of both"),
        (["dataset.split=train"], "dataset.split=train: is not read with dataset.sources, each of which has its own"),
        (["dataset.format=alpaca"], "dataset.format=alpaca: says how dataset.uri and dataset.eval_uri spell rows"),
        (
            ["dataset.sources.maths.weight=2"],
            "dataset.sources.maths.weight=2: is not read with dataset.mixing=concatenate; try "
            "dataset.mixing=proportional, or dataset.sources.maths.epochs",
        ),
        (
            ["dataset.mixing=temperature", "dataset.sources.chat.epochs=2"],
            "dataset.sources.chat.epochs=2: is not read with dataset.mixing=temperature, whose shares are by weight",
        ),
        (["dataset.sources.maths.weight=0"], "dataset.sources.maths.weight=0.0: must be above 0"),
        (["dataset.sources.Maths.uri=c"], "dataset.sources=Maths: must be a name of at most 64 small letters"),
        (["dataset.sources.chat.revision=main"], "dataset.sources.chat.revision=main: is of a dataset of the hub"),
        (["dataset.sources.chat.columns.prompt=q", "dataset.sources.chat.format=messages"], "columns.prompt=q: is not"),
        (["dataset.sources.more.split=train"], "dataset.sources.more.uri: is required and not set"),
        (
            ["training.validation_split=0.1", "dataset.sources.chat.epochs=2"],
            "training.validation_split=0.1: would divide samples from their copies: dataset.sources.chat.epochs is",
        ),
        (
            ["training.validation_split=0.1", "dataset.mixing=proportional", "dataset.stop=all_exhausted"],
            "training.validation_split=0.1: would divide samples from their copies: dataset.stop=all_exhausted",
        ),
    ],
)
def test_sources_that_do_not_go_together_are_refused(overrides: list[str], told: str, tmp_path: Path) -> None:
    recipe = write(tmp_path, "defaults: [config, _self_]\nmodel: {name_or_path: org/model}\n")
    assert any(told in problem for problem in problems(*SOURCES, *overrides, recipe=recipe))


def test_a_mix_needs_sources() -> None:
    told = "dataset.mixing=proportional: mixes dataset.sources, and there are none"
    assert problems("dataset.mixing=proportional") == [told]


@pytest.mark.parametrize("how", ["truncate", "split_turns"])
def test_the_last_turn_is_not_cut_off_where_it_is_what_trains(how: str) -> None:
    [problem] = problems("training.train_on=last_turn", f"training.on_too_long={how}")
    assert problem.startswith(f"training.on_too_long={how}: would leave out the end of a conversation")


@pytest.mark.parametrize(
    "order", ["[_self_, config]", "[config, _self_, over]", "[config, _self_, {registry@training: x}]"]
)
def test_defaults_that_would_overrule_the_recipe_are_refused(order: str, tmp_path: Path) -> None:
    write(tmp_path, "training: {num_epochs: 2}\n", "over.yaml")
    recipe = write(tmp_path, f"defaults: {order}\ntraining: {{num_epochs: 7}}\n")
    [problem] = problems(recipe=recipe)
    assert problem.endswith("after _self_ would overrule what stands here: put _self_ last")


def test_defaults_without_settings_beside_them_and_overrides_may_stand_after_self(tmp_path: Path) -> None:
    write(tmp_path, "defaults: [config, _self_, {override /model: scratch}]\ndataset: {uri: a}\n", "base.yaml")
    recipe = write(tmp_path, "defaults: [_self_, base]\n")
    assert compose(find_recipe(recipe), []).dataset.uri == "a"


@pytest.mark.parametrize("name", ["config.yaml", "training/default.yaml"])
def test_a_file_that_would_stand_in_for_one_of_ours_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    write(tmp_path, "seed: 9\n", name)
    recipe = write(tmp_path, "defaults: [config, {override /model: scratch}, _self_]\ndataset: {uri: a}\n")
    [problem] = problems(recipe=recipe)
    assert f"{name}: would be read in the place of sft's own {name}" in problem
    (tmp_path / name).write_bytes((shipped("conf") / name).read_bytes())
    assert compose(find_recipe(recipe), []).training.seed == 42
