"""Owns lm-eval's model that asks a server of completions for our model: its prompts are those of `load_hf`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sft.adapters.evaluation.lm_eval import rendered
from sft.chat.special_tokens import stops
from sft.chat.template import Renderer

_BATCH_SIZE = 16
_NUM_CONCURRENT = 4
_TIMEOUT_SECONDS = 86_400
"""Requests wait in the server's queue; that the server has ended is noticed otherwise."""


def load(request: Mapping[str, Any]) -> Any:
    """Return a model that sends tokens to ``request["server"]``.

    lm-eval's own model of this kind adds no beginning token and doesn't render a template as training does.
    """
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from lm_eval.models.utils import has_bos_prefix

    server, arguments = request["server"], dict(request["model_args"])
    # The template writes the token that begins a text, if any: training and servers add no other one.
    usual_bos = False if request["apply_chat_template"] else None
    add_bos_token = arguments.pop("add_bos_token", usual_bos)

    class Model(LocalCompletionsAPI):  # type: ignore[misc]
        def tok_encode(
            self,
            string: str | Sequence[str],
            left_truncate_len: int | None = None,
            add_special_tokens: Any = None,
            **_: Any,
        ) -> Any:
            # As huggingface.py:1040@0.4.13 has it; api_models.py:398 adds special tokens to nothing.
            if not isinstance(string, str):
                return [self.tok_encode(text) for text in string]
            special = add_bos_token if add_special_tokens is None else add_special_tokens
            if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
                special = False
            ids = self.tokenizer.encode(string, **({} if special is None else {"add_special_tokens": special}))
            return ids[-left_truncate_len:] if left_truncate_len else ids

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            return rendered(renderer, chat_history, add_generation_prompt=add_generation_prompt)

        def _create_payload(self, *args: Any, generate: bool = False, **kwargs: Any) -> dict[str, Any]:
            payload: dict[str, Any] = super()._create_payload(*args, generate=generate, **kwargs)
            # Two tokens may have the same text, and lm-eval takes the likeliest token by it.
            return payload if generate else {**payload, "return_tokens_as_token_ids": True}

    batch_size = request["batch_size"]
    model = Model(
        base_url=f"{server['address']}/completions",
        model=server["name"],
        tokenizer=request["model_dir"],
        tokenizer_backend="huggingface",
        trust_remote_code=request["trust_remote_code"],
        batch_size=_BATCH_SIZE if batch_size == "auto" else batch_size,
        seed=request["seed"],
        **{
            "max_length": server["max_model_len"],
            "num_concurrent": _NUM_CONCURRENT,
            "timeout": _TIMEOUT_SECONDS,
            **arguments,
        },
    )
    renderer = Renderer(model.tokenizer, stops(model.tokenizer, Path(request["model_dir"])))
    return model
