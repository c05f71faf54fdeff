"""The folder that is given away: its weights are links, the hub reads its card, its record shows every change."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft import self_hashed_json
from sft.adapters.signing import Signer, Trusted, check_file, sign_file
from sft.artifacts import ChosenStep, ModelPackage, hash_files
from sft.config.schema import RegistryConfig
from sft.errors import StageError
from sft.progress import Progress
from sft.runner.verify import verify
from sft.stages.package import PackageInputs, package
from tests.support.register_inputs import register_inputs

CONFIG = RegistryConfig(model_name="speller", description="Spells numbers.")


@pytest.fixture
def inputs(tmp_path: Path) -> PackageInputs:
    """A checkpoint with an adapter, from a hub's model and data."""
    source = register_inputs(tmp_path / "made")
    root = source.checkpoint.root
    (root / "model" / "model.safetensors").write_bytes(b"weights")
    (root / "model" / "config.json").write_text("{}")
    (root / "adapter").mkdir()
    (root / "adapter" / "adapter_config.json").write_text("{}")
    training = {"num_epochs": 1, "effective_batch_size": 4, "learning_rate": 1e-5, "lr_scheduler": "cosine"}
    training |= {"warmup_steps": 0, "weight_decay": 0.0, "max_seq_len": 8, "max_tokens_per_gpu": 8, "seed": 1}
    training |= {"save_dtype": "auto"}
    tokens: dict[str, list[str]] = {"special": ["<|call|>"], "plain": []}
    return PackageInputs(
        base=source.base,
        dataset=replace(source.dataset, source="hf://openai/gsm8k:main", source_version="a" * 40),
        checkpoint=source.checkpoint,
        baseline=source.baseline,
        report=source.report,
        comparison=source.comparison,
        gates=None,
        record={
            "command": ["sft", "run", "my recipe.yaml"],
            "config": {"training": training, "model": {"add_tokens": tokens}},
            "versions": {"torch": "2.13.0"},
            "resources": {"precision": {"value": "bf16", "reason": "this CPU computes bf16"}},
            "steps": [],
        },
        files=hash_files(root),
    )


def make(cfg: RegistryConfig, inputs: PackageInputs, out: Path) -> ModelPackage:
    out.mkdir()
    return package(cfg, inputs, out, Progress(quiet=True))


def key_pair(folder: Path, name: str = "key", password: str | None = None) -> tuple[Path, Path]:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    encrypted = ["-aes256", "-pass", f"pass:{password}"] if password else []
    run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", *encrypted, "-out", private])
    given = ["-passin", f"pass:{password}"] if password else []
    run(["openssl", "pkey", "-in", private, *given, "-pubout", "-out", public])
    return private, public


def run(argv: Sequence[str | Path]) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def test_weights_and_adapter_are_links_and_the_rest_is_beside_them(inputs: PackageInputs, tmp_path: Path) -> None:
    made = make(CONFIG, inputs, tmp_path / "out")
    there = sorted(file.relative_to(made.model_dir).as_posix() for file in made.model_dir.rglob("*") if file.is_file())
    assert there == ["README.md", "adapter/adapter_config.json", "config.json", "model.safetensors", "sft.json"]
    assert (made.model_dir / "model.safetensors").samefile(inputs.checkpoint.model_dir / "model.safetensors")


def test_sft_json_holds_the_record_its_digest_and_that_of_each_file(inputs: PackageInputs, tmp_path: Path) -> None:
    made = make(CONFIG, inputs, tmp_path / "out")
    facts = self_hashed_json.load_checked((made.model_dir / "sft.json").read_bytes())
    assert facts["record"] == inputs.record
    assert facts["record_digest"] == made.record_digest == self_hashed_json.digest_of(inputs.record)
    files = hash_files(made.model_dir)
    del files["sft.json"]
    assert facts["files"] == files


def test_where_links_can_not_be_files_are_copied(
    inputs: PackageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", elsewhere)
    made = make(CONFIG, inputs, tmp_path / "out")
    assert (made.model_dir / "model.safetensors").read_bytes() == b"weights"
    assert (made.model_dir / "model.safetensors").stat().st_nlink == 1
    (inputs.checkpoint.model_dir / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(StageError, match=r"model\.safetensors: is not the file that was trained"):
        make(CONFIG, inputs, tmp_path / "again")


def test_the_hub_reads_the_card(inputs: PackageInputs, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard_data import eval_results_to_model_index

    card = ModelCard.load(make(CONFIG, inputs, tmp_path / "out").model_dir / "README.md")
    assert card.data.base_model == "Qwen/Qwen2.5-1.5B-Instruct"
    assert card.data.datasets == ["openai/gsm8k"]
    assert card.data.metrics == ["acc"]
    assert card.data.model_name == "speller"
    results = [(r.task_type, r.dataset_name, r.metric_type, r.metric_value) for r in card.data.eval_results]
    assert results == [("text-generation", "arc", "acc", 0.5), ("text-generation", "holdout", "acc", 0.9375)]
    [index] = eval_results_to_model_index("speller", card.data.eval_results)
    front = yaml.safe_load(card.content.split("---")[1])
    assert front["model-index"] == [index]


def test_the_card_says_scores_before_and_after_and_how_to_make_it_again(inputs: PackageInputs, tmp_path: Path) -> None:
    text = (make(CONFIG, inputs, tmp_path / "out").model_dir / "README.md").read_text()
    assert "New tokens, whose embeddings began as the mean of the others: `<|call|>`." in text
    assert "# speller\n\nSpells numbers.\n\nFine-tuned from `Qwen/Qwen2.5-1.5B-Instruct` at `989aa79` on 80" in text
    row = "| arc.acc | 0.2500 ± 0.1250 | 0.5000 ± 0.1250 | +0.2500, better (+0.1250 to +0.3750) | 9 samples | 0.5000 |"
    assert row in text
    assert "| +0.9375, no verdict (one sample has no error) | 9 samples | – |" in text
    assert "Differences: 1 paired test, 0.95 confidence." in text
    assert "```sh\nsft run 'my recipe.yaml'\n```" in text
    assert f"- sha256 of the checkpoint: `{inputs.checkpoint.digest}`" in text
    assert "200 tokens/s, 80 of them for the loss, 25.0% model FLOPs utilisation" in text
    assert "was allowed to run" not in text
    assert 'AutoModelForCausalLM.from_pretrained("FOLDER", dtype="auto")' in text
    assert "\nsft chat FOLDER  " in text


def test_the_card_says_which_step_was_chosen_and_by_what(inputs: PackageInputs, tmp_path: Path) -> None:
    choice = ChosenStep(step=4, metric="validation_loss", value=1.25, num_steps=10, num_planned=10)
    chosen = replace(inputs, checkpoint=replace(inputs.checkpoint, choice=choice))
    text = (make(CONFIG, chosen, tmp_path / "out").model_dir / "README.md").read_text()
    assert "\n- chose step 4 of 10 by validation_loss 1.25\n" in text


def test_the_card_says_that_the_scores_of_the_sets_that_chose_are_optimistic(
    inputs: PackageInputs, tmp_path: Path
) -> None:
    of_sets = {"num_models": 5, "sets": ("gold", "chat")}
    choice = ChosenStep(step=4, metric="validation_loss", value=1.25, num_steps=10, num_planned=10, **of_sets)
    chosen = replace(inputs, checkpoint=replace(inputs.checkpoint, choice=choice))
    text = (make(CONFIG, chosen, tmp_path / "out").model_dir / "README.md").read_text()
    assert (
        "The training chose step 4 of 10 by validation_loss 1.25; scores on gold, chat are optimistic: on the same "
        "samples the best of 5 models was chosen; unbiased are those on a set or task that chose nothing."
    ) in text


def test_the_card_of_an_unscored_local_model_names_nothing_the_hub_has_not(
    inputs: PackageInputs, tmp_path: Path
) -> None:
    base = replace(inputs.base, source="/models/mine", revision="", trust_remote_code=True)
    data = replace(inputs.dataset, source="a.jsonl and b.jsonl", source_version="1|2")
    config = {**inputs.record["config"], "model": {**inputs.record["config"]["model"], "trust_remote_code": True}}
    record = {**inputs.record, "config": config}
    local = replace(inputs, base=base, dataset=data, report=None, baseline=None, record=record)
    text = (make(CONFIG, local, tmp_path / "out").model_dir / "README.md").read_text()
    for absent in ("base_model", "datasets", "model-index", "metrics", "## Scores"):
        assert absent not in text
    assert "Code that came with the base model was allowed to run (`model.trust_remote_code=true`)." in text
    assert 'AutoTokenizer.from_pretrained("FOLDER", trust_remote_code=True)' in text
    assert "sft chat FOLDER model.trust_remote_code=true" in text


@pytest.mark.parametrize("password", [None, "canary-password"])
def test_a_signed_folder_is_known_by_its_key_alone(
    inputs: PackageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    private, public = key_pair(tmp_path, password=password)
    monkeypatch.setenv("SFT_SIGNING_KEY_FILE", str(private))
    if password:
        monkeypatch.setenv("SFT_SIGNING_KEY_PASSWORD", password)
    made = make(replace(CONFIG, sign=True), inputs, tmp_path / "out")
    assert made.signed
    assert verify(made.model_dir, trusted=Trusted(public)).problems == []
    assert "not checked; say who signs: --key" in verify(made.model_dir).notes[0]
    _, other = key_pair(tmp_path, "other")
    [problem] = verify(made.model_dir, trusted=Trusted(other)).problems
    assert "not a signature of this folder by" in problem


def test_a_forged_record_is_known_by_the_signature(inputs: PackageInputs, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path)
    folder = make(replace(CONFIG, sign=str(private)), inputs, tmp_path / "out").model_dir
    facts = self_hashed_json.load_checked((folder / "sft.json").read_bytes())
    record = {**facts["record"], "command": ["sft", "run", "nothing.yaml"]}
    forged = {**facts, "record": record, "record_digest": self_hashed_json.digest_of(record)}
    before = verify(folder).digest
    (folder / "sft.json").write_bytes(self_hashed_json.dump_with_digest(forged))
    unsigned = verify(folder)
    assert unsigned.problems == []
    assert unsigned.digest != before  # which a registry holds
    [problem] = verify(folder, trusted=Trusted(public)).problems
    assert "sft.json" in problem


def test_a_signed_file_is_known_by_its_key_alone(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path)
    record = tmp_path / "run.json"
    record.write_text("{}")
    sign_file(record, Signer(private))
    check_file(record, Trusted(public))
    record.write_text("{ }")
    with pytest.raises(StageError, match="not a signature of this folder"):
        check_file(record, Trusted(public))


def test_an_unsigned_folder_is_not_passed_off_as_signed(inputs: PackageInputs, tmp_path: Path) -> None:
    _, public = key_pair(tmp_path)
    made = make(CONFIG, inputs, tmp_path / "out")
    assert verify(made.root, trusted=Trusted(public)).problems == [f"{made.model_dir}: is not signed"]


@pytest.mark.parametrize(
    ("sign", "said"),
    [
        (True, "SFT_SIGNING_KEY_FILE is not set"),
        ("nowhere.pem", "no private key at nowhere.pem"),
        ("bad.pem", "can't sign"),
        ("sigstore", "SIGSTORE_ID_TOKEN is not set, and no CI system offers one"),
    ],
)
def test_a_key_that_can_not_be_used_is_said(
    inputs: PackageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: bool | str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SFT_SIGNING_KEY_FILE", "SIGSTORE_ID_TOKEN", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    Path("bad.pem").write_text("no key")
    with pytest.raises(StageError, match=said):
        make(replace(CONFIG, sign=sign), inputs, tmp_path / "out")


def test_a_signature_without_a_key_says_what_sigstore_said_and_hides_the_token(
    inputs: PackageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", "canary.identity.token")
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers
    monkeypatch.setenv("HOME", str(tmp_path))  # nothing cached
    with pytest.raises(StageError, match="an identity that Sigstore certifies can't sign") as refused:
        make(replace(CONFIG, sign="sigstore"), inputs, tmp_path / "out")
    assert "canary" not in str(refused.value)
    assert not (tmp_path / "out" / "model" / "model.sig").exists()


def test_a_key_is_no_identity(inputs: PackageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, _ = key_pair(tmp_path)
    made = make(replace(CONFIG, sign=str(private)), inputs, tmp_path / "out")
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    [problem] = verify(made.model_dir, trusted=Trusted(None, "ada@example.org", "https://issuer.example")).problems
    assert "not a signature of this folder by ada@example.org" in problem


@pytest.mark.parametrize("option", ["sign", "sbom"])
def test_an_extra_that_is_not_installed_is_named(
    inputs: PackageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    private, _ = key_pair(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    cfg = replace(CONFIG, sign=str(private)) if option == "sign" else replace(CONFIG, sbom=True)
    with pytest.raises(StageError, match=r"pip install 'sft-runner\[s(igning|bom)\]'"):
        make(cfg, inputs, tmp_path / "out")


def test_the_bill_of_materials_is_valid_and_names_model_data_and_libraries(
    inputs: PackageInputs, tmp_path: Path
) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (make(replace(CONFIG, sbom=True), inputs, tmp_path / "out").model_dir / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    model = bom["metadata"]["component"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "speller")
    assert model["hashes"] == [{"alg": "SHA-256", "content": inputs.checkpoint.digest}]
    assert {"adapter/adapter_config.json", "config.json", "model.safetensors"} == {
        f["name"] for f in model["components"]
    }
    found = {(part["type"], part["name"]) for part in bom["components"]}
    base, data = ("machine-learning-model", "base/Qwen/Qwen2.5-1.5B-Instruct"), ("data", "hf://openai/gsm8k:main")
    assert {base, data, ("library", "torch"), ("library", "instructlab-training")} <= found


def test_what_the_hubs_client_puts_beside_a_model_is_no_part_of_it(inputs: PackageInputs, tmp_path: Path) -> None:
    made = make(CONFIG, inputs, tmp_path / "out")
    before = verify(made.model_dir)
    (made.model_dir / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    (made.model_dir / ".cache" / "huggingface" / "download").mkdir(parents=True)
    (made.model_dir / ".cache" / "huggingface" / "download" / "x.lock").touch()
    after = verify(made.model_dir)
    assert (after.problems, after.digest) == ([], before.digest)
    (made.model_dir / ".cache" / "other").touch()
    assert verify(made.model_dir).problems == [f"{made.model_dir}/.cache/other: is not in the record"]


def test_the_card_names_weights_of_the_base_model_that_nothing_read(inputs: PackageInputs, tmp_path: Path) -> None:
    line = "1 stored weights are not read by Glm4MoeForCausalLM, nor saved with a model of it: a"
    made = make(CONFIG, replace(inputs, base=replace(inputs.base, unread_weights=line)), tmp_path / "out")
    assert f"Of the base model {line}." in (made.model_dir / "README.md").read_text(encoding="utf-8")
