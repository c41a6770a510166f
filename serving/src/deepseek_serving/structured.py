"""Keeps an answer to a JSON schema: before each token, those that would break it are taken away (llguidance finds them).

Without the library, or with a tokenizer that it cannot read, a request for a schema is refused by name; nothing else changes.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from functools import lru_cache
from typing import Any

from deepseek_serving.engine import RequestError, Structure, TokenFilter

log = logging.getLogger(__name__)

# Compact JSON only: with blanks allowed anywhere a small model may write nothing else until its tokens are used up.
_OPTIONS: Any = {"whitespace_flexible": False}

_TOKENIZERS_KEPT = 4


def structure_of(schema: str) -> Structure:
    """The structure for a JSON schema. Raises RequestError when the schema cannot be kept to. Takes a millisecond; a big schema some more."""
    if importlib.util.find_spec("llguidance") is None:
        raise _refusal("Structured output is not part of this installation; leave response_format out.", "unsupported_parameter")
    from llguidance import LLMatcher

    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_OPTIONS)
        fault = LLMatcher.validate_grammar(grammar)
    except ValueError as error:
        fault = str(error)
    if fault and not fault.startswith("WARNING"):
        raise _refusal(f"The JSON schema cannot be kept to: {fault.splitlines()[0][:300]}", "invalid_json_schema")
    return Structure(schema, lambda tokenizer, vocabulary: GrammarFilter(grammar, tokenizer, vocabulary))


class GrammarFilter(TokenFilter):
    """One answer's place in a grammar."""

    def __init__(self, grammar: str, tokenizer: Any, vocabulary: int) -> None:
        import numpy
        from llguidance import LLMatcher

        self._matcher = LLMatcher(_readable(tokenizer, vocabulary), grammar, log_level=0)
        if self._matcher.is_error():
            raise _refusal("The JSON schema cannot be kept to by this model's tokenizer.", "invalid_json_schema")
        self._bits = numpy.zeros((vocabulary + 31) // 32, dtype=numpy.int32)

    def restrict(self, logits: Any) -> Any:
        import numpy
        import torch

        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        allowed = numpy.unpackbits(self._bits.view(numpy.uint8), bitorder="little")[: logits.shape[-1]]
        return logits.masked_fill_(torch.from_numpy(allowed == 0), float("-inf"))

    def accept(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            # The end token, or a limit of the parser; either way nothing more may follow.
            log.debug("a structured answer ends: %s", self._matcher.stop_reason())

    @property
    def finished(self) -> bool:
        return bool(self._matcher.is_stopped())


def _readable(tokenizer: Any, vocabulary: int) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refusal("This model's tokenizer cannot be restricted to a JSON schema.", "unsupported_parameter")
    return _read(_Serialized(backend, vocabulary, tokenizer.eos_token_id))


class _Serialized:
    """A tokenizer as a key of the cache: by its identity, because its JSON may have 10 MB. Holding it keeps the identity its own."""

    def __init__(self, backend: Any, vocabulary: int, end: int | None) -> None:
        self.backend, self.vocabulary, self.end = backend, vocabulary, end

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Serialized) and (self.backend is other.backend, self.vocabulary) == (True, other.vocabulary)

    def __hash__(self) -> int:
        return hash((id(self.backend), self.vocabulary))


@lru_cache(maxsize=_TOKENIZERS_KEPT)
def _read(serialized: _Serialized) -> Any:
    """About a second for 100,000 tokens, once."""
    from llguidance import LLTokenizer

    text = json.loads(serialized.backend.to_str())
    text["truncation"] = text["padding"] = None
    return LLTokenizer(json.dumps(text), n_vocab=serialized.vocabulary, eos_token=serialized.end)


def _refusal(message: str, code: str) -> RequestError:
    return RequestError(message, code=code, param="response_format")
