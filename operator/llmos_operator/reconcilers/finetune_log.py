"""Part of a pass over a FineTuneJob: read the end of the running pod's log. A log that cannot be read stops nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from llmos.api.names import COMPONENT_TRAIN, CONTAINER_PREPARE, CONTAINER_TRAIN
from llmos_operator.kube.errors import Forbidden, Unavailable
from llmos_operator.planning.finetune_pods import JobPod, PodState
from llmos_operator.planning.finetune_reports import TrainReport
from llmos_operator.planning.finetune_stall import LOG_LINES, Heard, read_log
from llmos_operator.reconcilers.base import Context

LOG_PAUSE: Final = timedelta(seconds=2)


@dataclass(frozen=True)
class LogLook:
    """What was heard; nothing if it was not the time to look, or the log could not be read."""

    heard: Heard | None = None
    report: TrainReport | None = None
    """How far training is, if it is training that was looked at."""
    trouble: str = ""
    """Why it may not be read."""


async def look_at_log(context: Context, pods: Sequence[JobPod], namespace: str) -> LogLook:
    """Read the end of the running pod's log, of a gang its leader's, unless that was done a moment ago."""
    states = (PodState.RUNNING, PodState.STOPPING)
    running = next((pod for pod in reversed(pods) if pod.rank == 0 and pod.state in states), None)
    if running is None:
        return LogLook()
    if not context.looks.may_look(running.uid, context.now(), LOG_PAUSE):
        return LogLook(trouble=context.looks.trouble_of(running.uid))
    log, trouble = await _read(context, running, namespace)
    context.looks.note(running.uid, trouble)
    if log is None:
        return LogLook(trouble=trouble)
    heard = read_log(running.uid, log)
    return LogLook(heard, heard.report if running.component == COMPONENT_TRAIN else None)


async def _read(context: Context, pod: JobPod, namespace: str) -> tuple[str | None, str]:
    container = CONTAINER_TRAIN if pod.component == COMPONENT_TRAIN else CONTAINER_PREPARE
    try:
        return await context.kube.tail_log(pod.name, namespace, container, lines=LOG_LINES), ""
    except Forbidden as error:
        return None, error.message
    except Unavailable:  # It is read again in a moment, and nothing depends on this one.
        return None, ""
