"""Entries of axolotl's `datasets`: where rows are, and how they become conversations."""

from __future__ import annotations

from typing import Any

from sft.importing import data_readers
from sft.importing.hugging_face import METHOD
from sft.importing.rows import Found, Kind, Source, Table, absent, by, differs, each, is_off, missing, other, taken

_OWN_TEMPLATE = "rows become turns of a chat, which the model's own chat template writes; no text of Alpaca's is added"
_ROLES = {"role": "from", "content": "value"}


def _path(value: Any, source: Source) -> Found:
    return data_readers.place(value, source, source.item.get("name"), source.item.get("revision"))


def _type(value: Any, source: Source) -> Found:
    ours = f"{source.prefix}format"
    if isinstance(value, dict):
        return missing(f"{ours}=prompt_completion takes two columns by name; a format of text is not filled in")
    name = str(value).partition(".")[0].partition(":")[0]
    if name == "chat_template":
        field = source.item.get("field_messages", "messages")
        mapping = source.item.get("message_property_mappings")
        names = (
            mapping
            if isinstance(mapping, dict)
            else {
                "role": source.item.get("message_field_role", "role"),
                "content": source.item.get("message_field_content", "content"),
            }
        )
        sharegpt = names.get("role") == "from"
        settings = {ours: "conversations" if sharegpt else "messages"}
        if (isinstance(field, str) and field not in ("messages", "conversations")) or (
            isinstance(field, str) and (field == "conversations") != sharegpt
        ):
            settings[f"{source.prefix}columns.messages"] = field
        return taken(settings)
    if name == "sharegpt":
        return taken({ours: "conversations"})
    if name == "alpaca" and str(value) in ("alpaca", "alpaca:chat", "alpaca:chatml"):
        return other({ours: "alpaca"}, _OWN_TEMPLATE)
    if is_raw(value):
        return _raw(ours)
    return missing(
        f"{ours} has messages, conversations, alpaca, prompt_completion and text; auto looks at the first row"
    )


def _raw(ours: str) -> Found:
    return other({ours: "text"}, data_readers.RAW)


def is_raw(kind: Any) -> bool:
    """Return whether an entry's `type` is of raw text."""
    return str(kind).partition(".")[0].partition(":")[0] in ("completion", "pretrain")


def _field(value: Any, source: Source) -> Found:
    if not is_raw(source.item.get("type")):
        return missing("dataset.columns names columns, of completion this one")
    return taken({f"{source.prefix}columns.text": value})


def pretraining(value: Any, source: Source) -> Found:
    """Read raw text that is streamed there: of a list its first entry, as there."""
    first = value[0] if isinstance(value, list) and value else value
    entry = {"path": first} if isinstance(first, str) else first
    if not isinstance(entry, dict):
        return missing("dataset.uri, with dataset.format=text")
    at = source.at(entry, "dataset.")
    place = _path(entry.get("path"), at)
    found = data_readers.raw_text(place.settings.get("dataset.uri"), entry.get("text_column") or "text")
    split = data_readers.split_name(entry["split"], at) if entry.get("split") else taken()
    left = sorted(set(entry) - {"path", "name", "revision", "data_files", "ds_type", "split", "type", "text_column"})
    left = [key for key in left if not is_off(entry[key])]
    notes = [found.note, *filter(None, (place.note, split.note)), *([f"but for {', '.join(left)}"] if left else [])]
    notes += ["the first entry only, as there"] if isinstance(value, list) and len(value) > 1 else []
    return Found(found.kind, {**found.settings, **split.settings} if found.settings else {}, "; ".join(notes))


def tests(value: Any, source: Source) -> Found:
    """Read sets that are evaluated and not trained."""
    strategies = (source.get("eval_strategy"), source.get("evaluation_strategy"))  # where nothing is said, each epoch
    return data_readers.held_out_sets(value, ENTRY, source, are_validated=not {"no", False} & {*strategies})


def _property(value: Any, _: Source) -> Found:
    if value in ("role", "content", "from", "value"):
        return taken({}, "says which format it is")
    return missing("fields of a turn are role and content, or from and value: rename them")


def _roles_to_train(value: Any, _: Source) -> Found:
    if value in (["assistant"], ["gpt"], ["assistant", "gpt"], ["gpt", "assistant"], "assistant"):
        return taken({"training.train_on": "all_turns"})
    if value == [] or value == "all":
        return other({"training.train_on": "everything"}, "every token but the first")
    return missing("training.train_on is all_turns of the assistant, the last_turn, or everything")


def _on_eos(value: Any, _: Source) -> Found:
    if value == "last":
        return missing("each turn's terminator counts; training.train_on=last_turn is the last turn alone")
    if value in ("turn", "all"):
        return taken({}, "a turn that counts does so with its terminator")
    return missing("a turn's terminator always counts with it")


ENTRY: Table = {
    "path": by("dataset.uri", _path),
    "field": by("dataset.columns.text", _field, "the column of a completion"),
    "name": differs("in the dataset's uri, after the colon", "dataset.uri"),
    "data_files": differs("with the dataset's path", "dataset.uri"),
    "revision": differs("in the dataset's uri, after @", "dataset.uri"),
    "ds_type": differs("the kind of a file is seen by its ending"),
    "split": by("dataset.split", data_readers.split_name),
    "type": by("dataset.format", _type, _OWN_TEMPLATE, Kind.DIFFERS),
    **each("field_messages", differs("column of the conversation", "dataset.columns.messages")),
    **each(
        "message_property_mappings.role message_property_mappings.content message_field_role message_field_content",
        by("dataset.format", _property),
    ),
    **each("roles_to_train", by("training.train_on", _roles_to_train)),
    **each("train_on_eos train_on_eot", by("training.train_on", _on_eos)),
    **each("conversation chat_template", differs("the model's own chat template; model.chat_template=FILE is another")),
    "chat_template_jinja": absent("model.chat_template is a file, of all data"),
    "field_thinking": differs("reasoning_content, reasoning, or thinking of a turn: what auto knows"),
    "template_thinking_key": differs("what the model's template calls it"),
    "field_tools": differs("tools"),
    "split_thinking": differs("reasoning between <think> and </think> is known; training.train_on_reasoning"),
    **each(
        "roles roles.user roles.assistant roles.system roles.tool", differs("the names that ShareGPT has are known")
    ),
    "drop_system_message": absent("a system turn stays; dataset.ignore_fields leaves out columns"),
    "trust_remote_code": absent("code that comes with a dataset never runs"),
    **each("shards shards_idx preprocess_shards", absent("dataset.max_samples takes a seeded part of the rows")),
    **each(
        "message_field_training message_field_training_detail",
        absent("a turn with weight: 0 does not count for the loss"),
    ),
    **each("message_property_mappings", differs("role and content, or from and value")),
    **each("field_chosen field_rejected", absent(METHOD)),
    **each(
        "input_format input_transform field_human field_model logprobs_field temperature text_column skip "
        "step_separator max_completion_length train_on_last_step_only",
        absent("dataset.format has messages, conversations, alpaca, prompt_completion and text"),
    ),
    **each("length sequence_length min_input_id max_input_id seed", absent("random tokens are no conversation")),
}
