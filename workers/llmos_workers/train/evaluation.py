"""How good a model is at examples: the loss of what it should say, and whether it says it.

    loss         sum of -log p over the learned tokens of all examples / number of these tokens
    exact_match  share of the prompts whose greedy answer equals the dataset's, both normalised

Normalised: case folded, punctuation removed, runs of space become one, and none is left around it. Answers end at the
first special token, or at the length of the longest expected answer of their batch and a few tokens.

Examples are batched in an order that depends on their lengths only, so the same model gives the same numbers again.
Without gradients, but not in torch's inference mode: shares that are put together in it can be learned from no more.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from transformers import GenerationConfig

from llmos_workers.pulse import Activity
from llmos_workers.train.dataset import Answer, Examples
from llmos_workers.train.gang import Gang
from llmos_workers.train.model import Device, find_padding
from llmos_workers.train.order import plan_micro_batches
from llmos_workers.train.step import LossFunction, compute_loss_sum

EXTRA_TOKENS: Final = 8
"""More than the expected answer has: an answer that goes on is wrong, and need not be finished."""
ANSWERS_AT_ONCE: Final = 32
Tick = Callable[[], None]
"""Called between batches; may raise to end the evaluation."""


@dataclass(frozen=True)
class Asked:
    """What a model made of some examples. None where there is nothing to judge by."""

    value: float | None
    examples: int


def compute_loss(model: Any, examples: Examples, chosen: Sequence[int], asking: Asking) -> Asked:
    """Mean loss for each learned token, or whatever else a task learns."""
    totals, learned = compute_losses(model, examples, chosen, asking)
    return Asked(compute_mean_loss(totals, learned), len(chosen))


def compute_losses(
    model: Any, examples: Examples, chosen: Sequence[int], asking: Asking, gang: Gang | None = None
) -> tuple[list[float], int]:
    """The sum of the losses of each batch, and how many tokens were learned, of the batches that are this rank's."""
    gang = gang or Gang()
    batches = plan_micro_batches(list(chosen), examples.widths, asking.max_tokens, full=asking.fills_batches)
    own = batches[gang.rank :: gang.size]
    totals, learned = [], 0
    with torch.no_grad(), asking.device.autocast():
        for batch in own:
            tensors = examples.build_micro_batch(batch, asking.padding)
            if tensors.learned or gang.is_sharded:
                totals.append(float(asking.loss(model, tensors.to(asking.device.device))))
                learned += tensors.learned
            asking.tick()
        if gang.is_sharded and len(own) * gang.size < len(batches):
            # The others compute once more, and need this rank's share of each layer for it.
            asking.loss(model, examples.build_micro_batch(batches[-1][:1], asking.padding).to(asking.device.device))
            asking.tick()
    return totals, learned


def compute_mean_loss(totals: Iterable[float], learned: int) -> float | None:
    """Mean for each learned token, the same in whatever order the batches are; None where there is none."""
    return math.fsum(totals) / learned if learned else None


def compute_exact_match(model: Any, examples: Examples, chosen: Sequence[int], asking: Asking) -> Asked:
    """Share of the prompts that are answered with the very words."""
    found = (examples.read_answer(example) for example in chosen)
    answers = [answer for answer in found if answer is not None]
    if not answers:
        return Asked(None, 0)
    right = 0
    with torch.no_grad(), asking.device.autocast():
        for batch in _batch_answers(answers, asking.max_tokens):
            said = _answer(model, batch, asking)
            right += sum(
                normalise(one) == normalise(answer.completion) for one, answer in zip(said, batch, strict=True)
            )
            asking.tick()
    return Asked(right / len(answers), len(answers))


@dataclass(frozen=True)
class Asking:
    """How models are asked."""

    tokenizer: Any
    device: Device
    max_tokens: int
    tick: Tick
    activity: Activity = field(default_factory=Activity)
    loss: LossFunction = compute_loss_sum
    fills_batches: bool = False
    """The loss compares the examples of a micro-batch with each other."""

    @property
    def padding(self) -> int:
        """What rows are filled with."""
        return find_padding(self.tokenizer)


def normalise(text: str) -> str:
    """What counts of an answer."""
    folded = unicodedata.normalize("NFC", text).casefold()
    return " ".join("".join(char for char in folded if not unicodedata.category(char).startswith("P")).split())


def _batch_answers(answers: Sequence[Answer], max_tokens: int) -> list[list[Answer]]:
    lengths = np.array([len(answer.prompt_ids) for answer in answers], dtype=np.int64)
    # A prompt may be as long as maxLength; a batch of one is always possible.
    batches = plan_micro_batches(list(range(len(answers))), lengths, max(max_tokens, int(lengths.max())))
    return [
        [answers[number] for number in batch[at : at + ANSWERS_AT_ONCE]]
        for batch in batches
        for at in range(0, len(batch), ANSWERS_AT_ONCE)
    ]


def _answer(model: Any, batch: Sequence[Answer], asking: Asking) -> list[str]:
    tokenizer = asking.tokenizer
    longest = max(len(answer.prompt_ids) for answer in batch)
    expected = max(len(tokenizer(answer.completion, add_special_tokens=False)["input_ids"]) for answer in batch)
    ids = torch.tensor([[asking.padding] * (longest - len(one.prompt_ids)) + list(one.prompt_ids) for one in batch])
    mask = torch.tensor([[0] * (longest - len(one.prompt_ids)) + [1] * len(one.prompt_ids) for one in batch])
    answered = model.generate(
        input_ids=ids.to(asking.device.device),
        attention_mask=mask.to(asking.device.device),
        generation_config=_build_generation(model, expected + EXTRA_TOKENS, asking),
    )
    ends = _find_ends(model, tokenizer)
    return [_decode(tokenizer, row[longest:].tolist(), ends) for row in answered.cpu()]


def _build_generation(model: Any, new_tokens: int, asking: Asking) -> Any:
    return GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=sorted(_find_ends(model, asking.tokenizer)) or None,
        pad_token_id=asking.padding,
    )


def _find_ends(model: Any, tokenizer: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    return {*tokenizer.all_special_ids, *([] if ends is None else [ends] if isinstance(ends, int) else ends)}


def _decode(tokenizer: Any, tokens: list[int], ends: set[int]) -> str:
    stop = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
    return str(tokenizer.decode(tokens[:stop], skip_special_tokens=True))
