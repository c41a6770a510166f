"""Turns a request into token ids and pixels, and tokens back into text."""

from __future__ import annotations

from typing import Any

import torch

from deepseek_serving.engine import EngineError, Generation, Picture, PromptSize, RequestError, context_exceeded
from deepseek_serving.engines.batch import Prompt
from deepseek_serving.engines.looking import PictureReader
from deepseek_serving.loading import Loaded


class PromptReader:
    """Reads requests for one model."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._pictures = PictureReader(loaded.processor) if loaded.processor is not None else None

    def read(self, generation: Generation) -> tuple[Prompt, PromptSize]:
        """Tokens and pixels of a request. Raises RequestError."""
        loaded = self._loaded
        pictures = generation.pictures
        if pictures and self._pictures is None:
            message = "This model is served without its vision tower; it takes text only."
            raise RequestError(message, code="images_unsupported", param="messages")
        text = _text(loaded, generation)
        if pictures and self._pictures is not None:
            ids, pixels = self._pictures.read(text, pictures)
        else:
            special = not generation.messages  # a chat template writes its own special tokens
            ids, pixels = torch.tensor(loaded.tokenizer(text, add_special_tokens=special)["input_ids"], dtype=torch.long), {}
        if len(ids) >= loaded.context:
            raise context_exceeded(len(ids), loaded.context)
        if not len(ids):
            raise RequestError("The prompt is empty.", param="prompt")
        image = int(torch.eq(ids, loaded.image_token).sum()) if pictures and loaded.image_token is not None else 0
        return Prompt(ids, pixels), PromptSize(len(ids), image)


def _text(loaded: Loaded, generation: Generation) -> str:
    placeholder = getattr(loaded.tokenizer, "image_token", None)
    texts = [generation.prefix, *(part for message in generation.messages for part in message.parts if isinstance(part, str))]
    if placeholder and any(placeholder in text for text in texts):
        raise RequestError(f"Text may not contain {placeholder}, which stands for a picture.", param="messages")
    if not generation.messages:
        return generation.prefix
    turns: list[dict[str, Any]] = [
        {
            "role": message.role,
            "content": [{"type": "image"} if isinstance(part, Picture) else {"type": "text", "text": part} for part in message.parts],
        }
        for message in generation.messages
    ]
    template = loaded.processor or loaded.tokenizer
    if template.chat_template is None:
        raise RequestError("This model has no chat template; send a text to continue to /v1/completions.", param="messages")
    if loaded.processor is None:
        # Text models' templates expect plain strings.
        turns = [{**turn, "content": "".join(part["text"] for part in turn["content"])} for turn in turns]
    text: str = template.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text


class Detokenizer:
    """Turns tokens into text piece by piece, and holds a piece back while its last character is incomplete."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown_from = 0
        self._shown_to = 0
        self._known = ""

    def push(self, token: int) -> str:
        """The text that became certain with this token; often a word, sometimes nothing."""
        self._ids.append(token)
        return self._advance(final=False)

    def rest(self) -> str:
        """What is left at the end, complete or not."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        # Decoded with the tokens before it, because a tokenizer may drop the blank in front of a text's first word.
        text = self._decode(self._ids[self._shown_from :])
        if len(text) <= len(self._known) or (text.endswith("\ufffd") and not final):
            return ""
        new = text[len(self._known) :]
        self._shown_from, self._shown_to = self._shown_to, len(self._ids)
        self._known = self._decode(self._ids[self._shown_from : self._shown_to])
        return new

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class Words:
    """The text of single tokens, for log-probabilities."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __getitem__(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return self._known[token]


def loaded_or_closed(loaded: Loaded | None) -> Loaded:
    """The model. Raises EngineError once the engine let go of it."""
    if loaded is None:
        raise EngineError("the engine is closed")
    return loaded
