"""What is left of a training's models."""

from __future__ import annotations

from pathlib import Path

from sft.stages.trained_models import publish


def test_the_tokens_at_which_the_base_model_stops_go_along_with_every_model(tmp_path: Path) -> None:
    base, made = tmp_path / "base", tmp_path / "work" / "hf_format"
    for folder in (base, made / "samples_10", made / "samples_20" / "adapter"):
        folder.mkdir(parents=True)
    (base / "generation_config.json").write_text('{"eos_token_id": [1, 106]}')
    for processor in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        (base / processor).write_text("{}")  # without them transformers can't load what takes images, too
    publish(made / "samples_20", made, base, tmp_path)
    for model in ("model", "checkpoints/samples_10"):
        assert (tmp_path / model / "generation_config.json").read_text() == '{"eos_token_id": [1, 106]}'
        assert len(list((tmp_path / model).glob("*processor_config.json"))) == 3
    assert (tmp_path / "adapter").is_dir()
    assert not list(made.iterdir())


def test_a_trained_models_tokenizer_is_the_base_models_to_the_byte(tmp_path: Path) -> None:
    base, made = tmp_path / "base", tmp_path / "work" / "hf_format" / "samples_20"
    given = {
        "tokenizer.json": "its own",
        "tokenizer_config.json": "without extra tokens",
        "additional_chat_templates/tool_use.jinja": "{{ tools }}",
    }
    saved = {"tokenizer_config.json": "with extra tokens", "special_tokens_map.json": "{}", "config.json": "trained"}
    for folder, files in ((base, {**given, "config.json": "base"}), (made, saved)):
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    publish(made, made.parent, base, tmp_path)
    model = tmp_path / "model"
    files = {str(file.relative_to(model)): file.read_text() for file in model.rglob("*") if file.is_file()}
    assert files == {**given, "config.json": "trained"}


def test_weights_can_be_read_by_whoever_can_read_the_rest_of_a_model(tmp_path: Path) -> None:
    made = tmp_path / "work" / "hf_format"
    for folder in (made / "samples_20", made / "samples_20" / "adapter"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "config.json").chmod(0o644)
        (folder / "model.safetensors").write_bytes(b"")
        (folder / "model.safetensors").chmod(0o600)
    publish(made / "samples_20", made, tmp_path, tmp_path)
    for folder in ("model", "adapter"):
        assert (tmp_path / folder / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_chosen_model_that_lies_apart_leaves_all_others_among_those_on_the_way(tmp_path: Path) -> None:
    made, chosen = tmp_path / "work" / "hf_format", tmp_path / "work" / "chosen" / "hf_format" / "samples_10"
    for folder in (made / "samples_10", made / "samples_20", chosen):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(str(folder.relative_to(tmp_path)))
    publish(chosen, made, tmp_path / "base", tmp_path)
    assert sorted(model.name for model in (tmp_path / "checkpoints").iterdir()) == ["samples_10", "samples_20"]
    assert (tmp_path / "model" / "config.json").read_text() == "work/chosen/hf_format/samples_10"
