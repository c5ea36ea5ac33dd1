"""Which of the accelerator classes that somebody names will do, in their order, and why others will not. Pure.

A class that does not exist, that cannot be read, or on which the model does not fit, is left out and named; that is an
error only where none is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from llmos.api import AcceleratorClass, Reason
from llmos_operator.planning.failures import Failure, build_failure


@dataclass(frozen=True)
class LeftOut:
    """A class that will not do."""

    name: str
    failure: Failure


@dataclass(frozen=True)
class Choice:
    """Classes to choose among."""

    usable: tuple[AcceleratorClass, ...] = ()
    """The preferred one first."""
    left_out: tuple[LeftOut, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes that will do, the preferred one first."""
        return tuple(each.metadata.name for each in self.usable)

    @property
    def refusal(self) -> Failure | None:
        """Why none will do, in the words of the preferred one; None if one will."""
        if self.usable or not self.left_out:
            return None
        return join_refusals({each.name: each.failure for each in self.left_out})

    def find(self, name: str) -> AcceleratorClass | None:
        """Return the class of this name, if it will do."""
        return next((each for each in self.usable if each.metadata.name == name), None)


def choose_classes(
    names: Iterable[str],
    known: Iterable[AcceleratorClass],
    judge: Callable[[AcceleratorClass], Failure | None],
    unreadable: Mapping[str, Failure] | None = None,
) -> Choice:
    """Return which classes will do.

    Args:
        names: the classes that were asked for, the preferred one first.
        known: those of them that exist.
        judge: says why one will not do; None if it will.
        unreadable: why others of them cannot be read, by name.
    """
    found = {each.metadata.name: each for each in known}
    usable: list[AcceleratorClass] = []
    left_out: list[LeftOut] = []
    refused = unreadable or {}
    for name in names:
        accelerator = found.get(name)
        if accelerator is None:
            left_out.append(LeftOut(name, refused.get(name) or refuse_unknown(name)))
        elif failure := judge(accelerator):
            left_out.append(LeftOut(name, failure))
        else:
            usable.append(accelerator)
    return Choice(tuple(usable), tuple(left_out))


def join_refusals(failures: Mapping[str, Failure]) -> Failure:
    """Return why none of some classes will do: the reason of the preferred one, which comes first, and all words.

    What is wrong on each class, as with the model, is said once.
    """
    first, *others = failures.items()
    told = [first[1].message]
    told += [f"Alternative {name}: {each.message}" for name, each in others if each.message != told[0]]
    return Failure(first[1].reason, " ".join(told))


def refuse_unknown(name: str) -> Failure:
    """Return that there is no such class."""
    return build_failure(Reason.AcceleratorClassNotFound, f"There is no AcceleratorClass {name}.")
