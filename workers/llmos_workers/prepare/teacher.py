"""Whether a teacher speaks of the same tokens as its student.

A student learns how likely the teacher finds each token, by number. So the same numbers have to mean the same tokens;
how texts are cut into tokens may differ, for only the base model's tokenizer cuts them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from llmos_workers.prepare.errors import TeacherMismatchError

Vocabulary = Mapping[str, int]


def check_vocabularies(model: Path, teacher: Path) -> None:
    """Compare the tokens of both models.

    Raises:
        TeacherMismatchError: they differ; it names counts, digests and one token.
    """
    base, other = read_vocabulary(model), read_vocabulary(teacher)
    if base != other:
        raise TeacherMismatchError(
            f"The teacher's vocabulary has {_describe(other)}, that of the base model {_describe(base)}; "
            f"{_find_difference(base, other)}"
        )


def read_vocabulary(folder: Path) -> Vocabulary:
    """Numbers of a model's tokens.

    Raises:
        TeacherMismatchError: its tokenizer cannot be read.
    """
    try:
        vocabulary: dict[str, int] = _load(folder).get_vocab()
    except (OSError, ValueError) as error:
        raise TeacherMismatchError(f"No tokenizer can be read from {folder} ({type(error).__name__})") from error
    return vocabulary


def _load(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _describe(vocabulary: Vocabulary) -> str:
    digest = hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest()
    return f"{len(vocabulary)} tokens (sha256:{digest[:16]})"


def _find_difference(base: Vocabulary, other: Vocabulary) -> str:
    """Say the first number that does not mean the same in both."""
    of_base, of_other = ({number: token for token, number in each.items()} for each in (base, other))
    numbers = of_base.keys() | of_other.keys()
    number = min(number for number in numbers if of_base.get(number) != of_other.get(number))
    return f"token {number} is {of_other.get(number)!r} in the teacher and {of_base.get(number)!r} in the base model"
