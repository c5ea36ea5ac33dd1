"""Draws one FineTuneJob: its conditions, what the dataset gate found, and base and result side by side."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from llmos.api import Condition, DatasetReport, Evaluation, FineTuneJob, Gate, MetricComparison
from llmos.cli.canaries import draw_canaries, list_attached_words
from llmos.cli.gates import describe_gate
from llmos.cli.job_progress import describe_training
from llmos.cli.report import Health, State
from llmos.cli.screen import build_table, draw_mark, draw_problem
from llmos.cli.trials import draw_trials

_BAR_CHARS: Final = 30


def draw_job(job: FineTuneJob, health: Health) -> RenderableType:
    """Everything that is known about the job."""
    title = Text.assemble((health.title, "bold"), "  ", draw_mark(health))
    said = [draw_problem(health)] if health.state is State.PROBLEM else [title, *_message(health)]
    conditions = draw_conditions(job.status.conditions)
    return Group(
        *said, *_draw_warnings(job), "", _draw_facts(job), conditions, *_draw_history(job), *draw_findings(job)
    )


def draw_findings(job: FineTuneJob) -> list[RenderableType]:
    """What was found about the dataset and the result, as far as there is something."""
    report, evaluation = job.status.dataset_report, job.status.evaluation
    parts: list[RenderableType] = [draw_dataset(report)] if report else []
    parts += _draw_metrics(job)
    parts += draw_trials(job)
    parts += draw_evaluation(evaluation, job.spec.evaluate.gates) if evaluation else []
    return parts + draw_canaries(job)


def _draw_metrics(job: FineTuneJob) -> list[RenderableType]:
    """How the losses fell."""
    if not job.status.metrics:
        return []
    table = build_table("ON THE WAY", "STEP", "LOSS", "EVAL_LOSS")
    for each in job.status.metrics:
        table.add_row(str(each.step), "" if each.loss is None else f"{each.loss:.4g}", f"{each.eval_loss:.4g}")
    return [table, ""]


def _message(health: Health) -> list[RenderableType]:
    return [Text(f"  {health.message}")] if health.message else []


def _draw_warnings(job: FineTuneJob) -> list[RenderableType]:
    return [Text(f"  warning: {warning}", style="yellow") for warning in job.status.warnings]


def _draw_history(job: FineTuneJob) -> list[RenderableType]:
    """The last attempts that ended without a result."""
    if not job.status.history:
        return []
    has_trials = any(each.trial is not None for each in job.status.history)
    first = ("TRIAL",) if has_trials else ()
    table = build_table("ENDED ATTEMPTS", *first, "NUMBER", "STAGE", "REASON", "COUNTS AS", "STEP", "STARTED", "ENDED")
    for each in job.status.history:
        trial = (str(each.trial or ""),) if has_trials else ()
        step = "" if each.step is None else str(each.step)
        times = (f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "" for moment in (each.started_at, each.ended_at))
        table.add_row(*trial, str(each.number), each.stage, each.reason, each.counts_as, step, *times)
    return [table, ""]


def _draw_facts(job: FineTuneJob) -> RenderableType:
    table = build_table("", "", "")
    table.show_header = False
    for name, value in _fact_rows(job):
        table.add_row(Text(name, style="dim"), Text(value))
    return Group(table, "")


def _fact_rows(job: FineTuneJob) -> list[tuple[str, str]]:
    spec, status = job.spec, job.status
    rows = [
        ("base", f"{spec.base_model_ref.name} {status.base_digest}".strip()),
        ("method", _say_method(job)),
        ("data", spec.dataset.source.uri),
        ("trains on", _say_place(job)),
        ("progress", describe_training(job) or "not begun"),
    ]
    if status.attempt:
        rows.append(("attempt", f"{status.attempt}{_say_ended(job)}"))
    if checkpoint := status.last_checkpoint:
        rows.append(
            ("checkpoint", f"step {checkpoint.step}, {checkpoint.time:%Y-%m-%d %H:%M:%S} UTC, {checkpoint.uri}")
        )
    if status.start_time and status.completion_time:
        rows.append(("took", str(timedelta(seconds=int((status.completion_time - status.start_time).total_seconds())))))
    attach = list_attached_words(spec.output.attach_to)
    output = status.output
    made = f"{output.digest}{'' if output.model_ref else ', not registered'}" if output else "not made yet"
    rows.append(("result", f"LLMModel {spec.output.name}{f', for {attach}' if attach else ''}, {made}"))
    return rows


def _say_place(job: FineTuneJob) -> str:
    trainer, taken = job.spec.trainer, job.status.accelerator_class
    wanted = trainer.accelerator.class_names
    each = f"{trainer.accelerators_per_node} x {taken or ' or '.join(wanted)}"
    place = f"{trainer.nodes} nodes, {each} each" if trainer.nodes > 1 else each
    others = [name for name in wanted if name != taken] if taken and len(wanted) > 1 else []
    return f"{place} (or {', '.join(others)})" if others else place


def _say_method(job: FineTuneJob) -> str:
    lora = job.spec.method.lora
    shape = f" rank {lora.rank}, alpha {lora.alpha}" if job.spec.method.tuning != "full" else ""
    distill = job.spec.method.distill
    taught = f", taught by {distill.teacher_ref.name} {job.status.teacher_digest}".rstrip() if distill else ""
    return f"{job.spec.method.tuning}{shape}, {job.spec.dataset.format.type}{taught}"


def _say_ended(job: FineTuneJob) -> str:
    ended = say_attempts(job)
    lost = job.status.lost_accelerator_seconds
    return f"; {ended}" * bool(ended) + f"; {lost:.0f} accelerator seconds lost" * bool(lost)


def say_attempts(job: FineTuneJob) -> str:
    """Attempts that ended, by why, beside what is allowed; empty if none did."""
    ended, allowed = job.status.attempts, job.spec.retries
    parts = [
        (ended.preemptions, f"{ended.preemptions} preempted or suspended"),
        (ended.infrastructure, f"{ended.infrastructure} of {allowed.infrastructure} lost with node or pod"),
        (ended.user, f"{ended.user} of {allowed.user} failed by themselves"),
    ]
    return ", ".join(text for count, text in parts if count)


def draw_conditions(conditions: Iterable[Condition]) -> RenderableType:
    """One line for each condition."""
    table = build_table("CONDITIONS", "TYPE", "STATUS", "REASON", "SINCE", "MESSAGE")
    for each in conditions:
        since = f"{each.last_transition_time:%Y-%m-%d %H:%M:%S}"
        table.add_row(each.type, each.status, each.reason, since, Text(each.message))
    return Group(table, "") if table.row_count else Text("CONDITIONS  none: the operator has not looked at it yet\n")


def draw_dataset(report: DatasetReport) -> RenderableType:
    """The report of the dataset gate."""
    table = build_table("DATASET", "WHAT", "COUNT")
    for name, value in _report_rows(report):
        table.add_row(name, value)
    parts: list[RenderableType] = [table, ""]
    if report.lengths:
        parts += [_draw_lengths(report), ""]
    if report.examples:
        named = build_table("LINES WITH PROBLEMS (the first of each kind)", "LINE", "PROBLEM")
        for example in report.examples:
            named.add_row(Text(example.line), Text(example.problem))
        parts += [named, ""]
    return Group(*parts)


def _draw_lengths(report: DatasetReport) -> RenderableType:
    table = build_table("LENGTHS", "TOKENS UP TO", "EXAMPLES", "")
    most = max(bucket.examples for bucket in report.lengths)
    for bucket in report.lengths:
        table.add_row(str(bucket.up_to), str(bucket.examples), "#" * -(-_BAR_CHARS * bucket.examples // most))
    return table


def _report_rows(report: DatasetReport) -> list[tuple[str, str]]:
    left_out = (
        ("broken", report.broken),
        ("duplicates", report.duplicates),
        ("near duplicates", report.near_duplicates),
        ("with personal data", report.personal),
        ("in an evaluation suite", report.contaminated),
        ("longer than maxLength", report.overlong),
    )
    return [
        ("lines read", str(report.lines)),
        *((name, str(count)) for name, count in left_out if count),
        ("examples learned", f"{report.train_examples} ({report.train_tokens} tokens)"),
        ("examples held out", str(report.eval_examples)),
        ("tokens in an example", f"median {report.length_p50}, 99 % {report.length_p99}, most {report.length_max}"),
    ]


def draw_evaluation(evaluation: Evaluation, gates: tuple[Gate, ...]) -> list[RenderableType]:
    """Base and result side by side, and the gates."""
    parts: list[RenderableType] = []
    if evaluation.metrics:
        is_taught = any(each.teacher is not None for each in evaluation.metrics)
        teacher = ("TEACHER",) if is_taught else ()
        table = build_table("EVALUATION", "METRIC", "BASE", "RESULT", "CHANGE", *teacher, "EXAMPLES")
        for each in evaluation.metrics:
            values = [each.name, f"{each.base:.4g}", f"{each.result:.4g}", say_change(each)]
            of_teacher = [_say_teacher(each)] if is_taught else []
            table.add_row(*values, *of_teacher, str(each.examples))
        parts += [table, ""]
    if evaluation.gates:
        parts += [_draw_gates(evaluation, gates), ""]
    return parts


def _say_teacher(metric: MetricComparison) -> str:
    return "" if metric.teacher is None else f"{metric.teacher:.4g}"


def say_change(metric: MetricComparison) -> str:
    """How the result differs from the base, and whether that is better."""
    if metric.result == metric.base:
        return "none"
    is_lower_better = metric.name.endswith(("loss", "_kl"))
    better = "better" if (metric.result < metric.base) is is_lower_better else "worse"
    share = (
        f"{100 * (metric.result / metric.base - 1):+.1f} %" if metric.base else f"{metric.result - metric.base:+.4g}"
    )
    return f"{share}, {better}"


def _draw_gates(evaluation: Evaluation, gates: tuple[Gate, ...]) -> RenderableType:
    table = build_table("GATES", "GATE", "HOLDS", "NUMBERS")
    asked = [describe_gate(gate) for gate in gates]
    fits = [gate.metric for gate in gates] == [verdict.metric for verdict in evaluation.gates]
    for index, verdict in enumerate(evaluation.gates):
        holds = Text("yes", style="green") if verdict.passed else Text("no", style="bold red")
        table.add_row(asked[index] if fits else verdict.metric, holds, Text(verdict.message))
    return table
