"""FineTuneJob: what is learned from, how its lines are read, and which of them are left out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmos.api.llmmodel import ModelSource
from llmos.api.meta import ApiModel

ColumnName = Annotated[str, Field(min_length=1, max_length=128)]
"""The name of a field of the dataset's lines."""


class Columns(ApiModel):
    """Which fields of a line hold what, where they differ from the usual names."""

    messages: ColumnName = "messages"
    """chat: the list of messages with role and content."""
    prompt: ColumnName = "prompt"
    """instruction and preference: what is asked."""
    completion: ColumnName = "completion"
    """instruction: the answer that is learned."""
    text: ColumnName = "text"
    """text: the text that is learned; text-label: the text that has a label."""
    tokens: ColumnName = "tokens"
    """tokens-labels: the words, in an array."""
    labels: ColumnName = "labels"
    """tokens-labels: as many labels, in an array."""
    label: ColumnName = "label"
    """text-label: the text's label."""
    anchor: ColumnName = "anchor"
    """pairs: a text, such as a question."""
    positive: ColumnName = "positive"
    """pairs: a text that belongs to it, such as a passage that answers it."""
    chosen: ColumnName = "chosen"
    """preference: the better answer."""
    rejected: ColumnName = "rejected"
    """preference: the worse answer."""


class DatasetFormat(ApiModel):
    """How a line of the dataset is read."""

    type: Literal["chat", "instruction", "text", "preference", "tokens-labels", "text-label", "pairs"] = "chat"
    """chat learns what the assistant says in a conversation; instruction learns the completion of a prompt; text learns
    everything; preference has a prompt, as a text or as messages, and two answers to it; tokens-labels has words and
    their labels, text-label a text and its label: all labels that occur are the labels of the model; pairs has two
    texts that belong together."""
    columns: Columns = Columns()
    """Names of the fields."""


class DatasetValidation(ApiModel):
    """What is done about lines that cannot be learned from."""

    max_error_rate: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of broken lines above which the job ends; below it they are left out and named in the report."""
    overlong: Literal["truncate", "drop", "fail"] = "truncate"
    """What is done with examples longer than hyperparameters.maxLength."""


class NearDedup(ApiModel):
    """Removal of lines that are almost the same, by MinHash."""

    threshold: Annotated[float, Field(ge=0.5, le=1)] = 0.8
    """Jaccard similarity of the sets of word 5-grams from which on two lines count as one."""


class DatasetCleaning(ApiModel):
    """What is removed before anything is learned."""

    exact_dedup: bool = True
    """Learn lines that are the same only once."""
    near_dedup: NearDedup | None = None
    """Learn lines that are almost the same only once. Absent = they are kept."""
    pii: Literal["keep", "redact", "drop", "fail"] = "keep"
    """What is done with personal data that can be found by its form: addresses of mail and network, numbers of
    telephones, bank accounts and cards."""
    decontaminate: bool = True
    """Leave out examples that also stand in an evaluation suite."""


class DatasetSplit(ApiModel):
    """Which examples are never learned, so that they tell how good the result is."""

    eval_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the examples that is held out."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] = 42
    """The same seed holds out the same examples."""


class Dataset(ApiModel):
    """What is learned from: JSON lines, one example each; `.gz` and `.zst` are unpacked."""

    source: ModelSource
    """Where the files are: all `*.jsonl` below it, in order of their names."""
    format: DatasetFormat = DatasetFormat()
    """How a line is read."""
    validation: Annotated[DatasetValidation, Field(alias="validate")] = DatasetValidation()
    """What is done about lines that cannot be learned from."""
    clean: DatasetCleaning = DatasetCleaning()
    """What is removed."""
    split: DatasetSplit = DatasetSplit()
    """Which examples are held out."""
