"""A language model in this process: text in, text out, on our own Transformer.

B: batch, T: tokens, V: vocabulary, L: layers, H: heads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from collections.abc import Sequence as Many
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import (
    Architecture,
    GenerationDefaults,
    architecture,
    atomic_directory,
    build,
    load_transformer,
    read_architecture,
    read_generation,
    write_json,
    write_transformer,
)
from ..checkpoint.generation import generation_in_config
from ..errors import CancelledError, TokenizerError, UsageError
from ..generate import Emitted, Engine, Handle, Hypothesis, Runner, Sequence
from ..nn import AttentionRecord, Transformer, TransformerConfig
from ..text import StopText, TextStream, Tokenizer
from ..types import Chunk, Completion, SamplingParams
from .prompts import Chat, build_sequence, check_ids, prompt_ids, resolve_sampling, stop_texts

Ids = Many[int] | Tensor


class LanguageModel:
    """A Transformer with its tokenizer and its generation defaults.

    Any thread may call it; generation of all callers goes through one engine.
    """

    def __init__(
        self,
        transformer: Transformer,
        arch: Architecture,
        tokenizer: Tokenizer | None,
        defaults: GenerationDefaults,
    ) -> None:
        self.transformer = transformer
        self.tokenizer = tokenizer
        """``None`` where the directory holds none: then it is a model of ids."""
        self.architecture = arch
        self.defaults = defaults

    @classmethod
    def from_directory(
        cls,
        directory: Path,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        allow_pickle: bool = False,
    ) -> LanguageModel:
        """Read a Hugging Face directory; `gamut.load` explains the arguments and errors."""
        arch = read_architecture(directory)
        defaults = read_generation(directory, arch.raw)
        tokenizer = _tokenizer_if_any(directory)
        transformer = load_transformer(directory, arch, dtype=dtype, device=device, allow_pickle=allow_pickle)
        return cls(transformer, arch, tokenizer, defaults)

    @classmethod
    def from_config(cls, raw: Mapping[str, Any], tokenizer: Tokenizer | None = None, *, seed: int = 0) -> LanguageModel:
        """A model with fresh weights, of the architecture that the fields of a config.json describe.

        Raises:
            ConfigError: the fields are wrong or ask for something that is not implemented.
        """
        arch = architecture(raw)
        return cls(build(arch, seed=seed), arch, tokenizer, generation_in_config(raw, Path("config")))

    @property
    def config(self) -> TransformerConfig:
        """The shape of the Transformer."""
        return self.transformer.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.transformer.parameters()).device

    @torch.no_grad()
    def logits(
        self,
        ids_BT: Tensor,
        attention_mask: Tensor | None = None,
        decoder_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Unnormalised log-probabilities over the vocabulary, float32 [B, T, V].

        Args:
            ids_BT: what the model reads; the encoder where there is one.
            attention_mask: [B, T], 1 at real tokens and 0 at padding, left or right; positions count real tokens alone.
            decoder_ids: [B, T'], what the decoder has read, for an encoder-decoder, whose logits are then [B, T', V].
            token_type_ids: [B, T], BERT's sentence A (0) and B (1).

        Raises:
            UsageError: `decoder_ids` is missing or out of place, or `token_type_ids` is; or an id is not in the vocabulary.
            ContextOverflow: T is more than the context.
        """
        both = self.config.encoder is not None and self.config.decoder is not None
        if both != (decoder_ids is not None):
            raise UsageError(
                "an encoder-decoder needs decoder_ids: what the decoder has read so far, its start token first"
                if both
                else "decoder_ids are for encoder-decoder models, and this one has a single stack; leave them out"
            )
        if token_type_ids is not None and not (self.config.encoder or self.config.output_stack).token_types:
            raise UsageError("this model has no token types; leave token_type_ids out")
        self._check_ids(ids_BT, decoder_ids)
        _require_mask(attention_mask, ids_BT)
        logits_BTV: Tensor = self.transformer(
            ids_BT.to(self.device),
            None if attention_mask is None else attention_mask.to(self.device),
            decoder_ids_BT=None if decoder_ids is None else decoder_ids.to(self.device),
            token_types_BT=None if token_type_ids is None else token_type_ids.to(self.device),
        )
        return logits_BTV.float()

    def generate(self, prompt: str | Chat, **sampling: Any) -> Completion:
        """Go on from a text, or answer a chat; `SamplingParams` lists the options.

        Raises:
            OptionError: an unknown option, a value out of range, or options that do not go together.
            ContextOverflow: prompt and new tokens are more than the context holds.
            TokenizerError: the model has no tokenizer; use `generate_ids`.
            TemplateError: a chat, and the checkpoint has no template or it refuses the messages.
        """
        return self.generate_many([prompt], **sampling)[0]

    def generate_many(self, prompts: Many[str | Chat], **sampling: Any) -> list[Completion]:
        """A completion for each prompt, in order; they are served together."""
        params = resolve_sampling(sampling, self.defaults)
        tokenizer = self._need_tokenizer()
        handles = self._submit([prompt_ids(tokenizer, prompt) for prompt in prompts], params)
        return [self._completion(handle, params) for handle in handles]

    def generate_ids(self, ids_BT: Tensor, attention_mask: Tensor | None = None, **sampling: Any) -> Tensor:
        """New tokens alone, [B * num_return_sequences, new], padded on the right with the pad id.

        Args:
            ids_BT: prompts, or the encoder's input.
            attention_mask: [B, T], 1 at real tokens and 0 at padding, left or right.
        """
        params = resolve_sampling(sampling, self.defaults)
        _require_ids(ids_BT, least=0)
        _require_mask(attention_mask, ids_BT)
        mask_BT = torch.ones_like(ids_BT) if attention_mask is None else attention_mask
        rows = [ids[mask.bool()].tolist() for ids, mask in zip(ids_BT, mask_BT, strict=True)]
        results = [each.ids for handle in self._submit(rows, params) for each in _wait(handle)]
        pad = self.defaults.pad_id if self.defaults.pad_id is not None else next(iter(self.defaults.eos_ids), 0)
        longest = max(map(len, results))
        return torch.tensor([[*ids, *[pad] * (longest - len(ids))] for ids in results], device=ids_BT.device)

    def stream(self, prompt: str | Chat, **sampling: Any) -> Generator[Chunk]:
        """Like `generate`, a chunk a token as they come; the model starts with the first and stops when the loop is left.

        With beams the chunks come when the search has ended.

        Raises:
            UsageError: also for `num_return_sequences` above 1.
        """
        sequence, chunks = self._prepare_stream(prompt, sampling)

        def run() -> Generator[Chunk]:
            (handle,) = self._engine.submit(sequence)
            try:
                for event in handle:
                    yield chunks.push(event)
                chunks.require_end()
            finally:
                handle.cancel()

        return run()

    def astream(self, prompt: str | Chat, **sampling: Any) -> AsyncGenerator[Chunk]:
        """`stream` for an event loop, which it does not block."""
        sequence, chunks = self._prepare_stream(prompt, sampling)

        async def run() -> AsyncGenerator[Chunk]:
            (handle,) = self._engine.submit(sequence)
            try:
                async for event in handle:
                    yield chunks.push(event)
                chunks.require_end()
            finally:
                handle.cancel()

        return run()

    @torch.no_grad()
    def attention(self, text_or_ids: str | Ids, target: str | Ids | None = None) -> dict[str, Tensor]:
        """Attention weights of one sequence: ``"encoder"``, ``"decoder"`` and ``"cross"`` where the model has them.

        Args:
            text_or_ids: what the model reads.
            target: what an encoder-decoder's decoder reads: a text (the start token is put before it), or ids as they
                are. Without it there are the encoder's weights alone.

        Returns:
            float32 [L, H, T, T] each; [L, H, T', T] for ``"cross"``, T' the target's tokens.
        """
        both = self.config.encoder is not None and self.config.decoder is not None
        if target is not None and not both:
            raise UsageError("a target is for encoder-decoder models, and this one has a single stack; leave it out")
        ids_BT = self._one_row(text_or_ids, special=True)
        record = AttentionRecord()
        if both and target is None:
            self._check_ids(ids_BT)
            self.transformer.encode(ids_BT, record=record)
        else:
            target_BT = None if target is None else self._one_row(target, special=False)
            self._check_ids(ids_BT, target_BT)
            if isinstance(target, str) and target_BT is not None and self.defaults.decoder_start_id is not None:
                start_BT = torch.tensor([[self.defaults.decoder_start_id]], device=self.device)
                target_BT = torch.cat((start_BT, target_BT), dim=1)
            self.transformer(ids_BT, decoder_ids_BT=target_BT, record=record)
        found = {"encoder": record.encoder, "decoder": record.decoder, "cross": record.cross}
        return {name: torch.cat(layers).float() for name, layers in found.items() if layers}

    def save(self, path: str | Path, *, shard_bytes: int = 5 * 10**9) -> None:
        """Write a Hugging Face directory, all of it or nothing; an older checkpoint at `path` is replaced.

        Args:
            path: a new directory, an empty one, or one that holds a checkpoint.
            shard_bytes: weights above this size are split over several files.

        Raises:
            CheckpointError: `path` holds something else, or cannot be written.
        """
        with atomic_directory(Path(path)) as directory:
            write_transformer(directory, self.transformer, self.architecture, shard_bytes=shard_bytes)
            if self.tokenizer is not None:
                self.tokenizer.save(directory)
            if self.defaults.raw is not None:
                write_json(directory / "generation_config.json", dict(self.defaults.raw))

    def close(self) -> None:
        """Stop what is being generated. The model can be used again afterwards."""
        if "_engine" in self.__dict__:
            self.__dict__.pop("_engine").close()

    def __getstate__(self) -> dict[str, Any]:
        # A copy, and a model that is sent to another process, starts an engine of its own.
        return {name: value for name, value in self.__dict__.items() if name != "_engine"}

    @cached_property
    def _engine(self) -> Engine:
        return Engine(Runner(self.transformer))

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError(
                "this model has no tokenizer, so it takes ids alone: use generate_ids and logits, "
                "or put a tokenizer.json into its directory"
            )
        return self.tokenizer

    def _submit(self, rows: list[list[int]], params: SamplingParams) -> list[Handle]:
        build = build_sequence
        sequences = [build(row, params, self.config, self.defaults, self.tokenizer) for row in rows]
        return self._engine.submit(*sequences)

    def _prepare_stream(self, prompt: str | Chat, sampling: Mapping[str, Any]) -> tuple[Sequence, _Chunks]:
        """What is wrong with a stream is told by the call, before the first chunk is asked for."""
        params = resolve_sampling(sampling, self.defaults)
        if (params.num_return_sequences or 1) > 1:
            raise UsageError(
                f"a stream has one answer, and num_return_sequences is {params.num_return_sequences}; use generate"
            )
        tokenizer = self._need_tokenizer()
        ids = prompt_ids(tokenizer, prompt)
        return build_sequence(ids, params, self.config, self.defaults, tokenizer), _Chunks(tokenizer, stop_texts(params))

    def _completion(self, handle: Handle, params: SamplingParams) -> Completion:
        tokenizer, stops = self._need_tokenizer(), stop_texts(params)
        prompt_tokens = len(handle.sequence.prompt_ids)
        first, *others = (_as_completion(each, tokenizer, stops, prompt_tokens) for each in _wait(handle))
        return Completion(first.text, first.ids, first.finish_reason, prompt_tokens, first.logprobs, first.score, tuple(others))

    def _check_ids(self, ids_BT: Tensor, decoder_ids_BT: Tensor | None = None) -> None:
        for tensor in (ids_BT,) if decoder_ids_BT is None else (ids_BT, decoder_ids_BT):
            _require_ids(tensor)
        check_ids(ids_BT.unique().tolist(), (self.config.encoder or self.config.output_stack).vocab_size)
        if decoder_ids_BT is not None:
            check_ids(decoder_ids_BT.unique().tolist(), self.config.vocab_size)

    def _one_row(self, text_or_ids: str | Ids, *, special: bool) -> Tensor:
        if isinstance(text_or_ids, str):
            text_or_ids = self._need_tokenizer().encode(text_or_ids, add_special_tokens=special)
        try:
            ids = torch.as_tensor(text_or_ids, device=self.device)
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(f"expected a text or a list of token ids, got {text_or_ids!r}") from None
        if ids.numel() == 0 or ids.ndim > 2 or (ids.ndim == 2 and len(ids) > 1):
            raise UsageError(f"expected one sequence of at least one token, got ids of shape {list(ids.shape)}")
        return ids.reshape(1, -1)


class _Chunks:
    """Turns the engine's tokens into chunks of text."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        self._text, self._stop = TextStream(tokenizer), StopText(stops)
        self._ended = False

    def push(self, event: Emitted) -> Chunk:
        text = self._stop.push(self._text.push(event.id))
        if event.finish_reason is not None:
            text += self._stop.push(self._text.finish()) + self._stop.finish()
            self._ended = True
        logprob = event.logprob.raw if event.logprob else None
        return Chunk(text, event.id, logprob, event.finish_reason)

    def require_end(self) -> None:
        """Tell a stream that was cut from one that came to its end."""
        if not self._ended:
            raise CancelledError("the model was closed before the answer was complete; ask again")


def _require_ids(ids_BT: Any, *, least: int = 1) -> None:
    """`least`: of tokens in a row."""
    integer = isinstance(ids_BT, Tensor) and ids_BT.dtype in (torch.int64, torch.int32)
    if not integer or ids_BT.ndim != 2 or not len(ids_BT) or ids_BT.shape[1] < least:
        raise UsageError(f"token ids must be an integer tensor of shape [batch, tokens], not empty; got {_described(ids_BT)}")


def _require_mask(mask_BT: Any, ids_BT: Tensor) -> None:
    if mask_BT is None:
        return
    if not isinstance(mask_BT, Tensor) or mask_BT.shape != ids_BT.shape or not ((mask_BT == 0) | (mask_BT == 1)).all():
        raise UsageError(
            f"attention_mask must hold 1 at real tokens and 0 at padding, of shape {list(ids_BT.shape)} as the ids; "
            f"got {_described(mask_BT)}"
        )


def _described(value: Any) -> str:
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _wait(handle: Handle) -> list[Hypothesis]:
    """The results; whoever is interrupted while waiting stops the model."""
    try:
        return handle.result()
    except BaseException:
        handle.cancel()
        raise


def _as_completion(result: Hypothesis, tokenizer: Tokenizer, stops: tuple[str, ...], prompt_tokens: int) -> Completion:
    stop = StopText(stops)
    text = stop.push(tokenizer.decode(list(result.ids))) + stop.finish()
    return Completion(text, result.ids, result.finish_reason, prompt_tokens, result.logprobs, result.score)


def _tokenizer_if_any(directory: Path) -> Tokenizer | None:
    return Tokenizer.load(directory) if (directory / "tokenizer.json").exists() else None
