"""The commands `tune`, `suspend` and `resume`: names, options, help. tune_run.py and tuning.py do it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from llmos.cli.options import AsJson, Context, Kubeconfig, Namespace, find_session
from llmos.cli.session import Target

Job = Annotated[str, typer.Argument(metavar="job/NAME", help="FineTuneJob; its NAME alone is the same.")]
Pool = Annotated[
    str | None, typer.Option("--pool", metavar="POOL", help="Only in this pool; by default in all that it says.")
]


def tune(
    ctx: typer.Context,
    base: Annotated[str, typer.Option("--base", help="LLMModel to start from.")],
    data: Annotated[
        str,
        typer.Option("--data", metavar="URI", help="JSON lines: hf://, s3://, gs://, https://, pvc://CLAIM/path ..."),
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the job, and of the LLMModel that it makes.")],
    class_name: Annotated[
        str | None,
        typer.Option("--class", help="AcceleratorClass, or cpu; by default the cluster's only one, or cpu."),
    ] = None,
    format_: Annotated[
        Literal["chat", "instruction", "text"] | None,
        typer.Option("--format", help="How a line is read: messages, prompt and completion, or text; by default chat."),
    ] = None,
    method: Annotated[
        Literal["lora", "qlora", "full"],
        typer.Option(
            "--method",
            help="lora makes a small adapter, qlora one on a base model of four bits, full a whole model.",
        ),
    ] = "lora",
    attach: Annotated[
        list[str] | None, typer.Option("--attach", metavar="POOL", help="Pool that serves the adapter. Repeatable.")
    ] = None,
    replaces: Annotated[
        str | None,
        typer.Option(
            "--replaces",
            metavar="NAME",
            help="Name of an adapter whose place the result takes in these pools, at first as a canary.",
        ),
    ] = None,
    weight: Annotated[
        int | None,
        typer.Option("--weight", min=1, max=100, help="Per cent of its requests at first; by default 10."),
    ] = None,
    promote_after: Annotated[
        str | None,
        typer.Option("--promote-after", metavar="DURATION", help="Until it takes all: 90s, 30m, 2h; by default 30m."),
    ] = None,
    gates: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="GATE",
            help="Condition of the result: eval_loss<=0.95xbase, qa_exact_match>=0.8. Repeatable.",
        ),
    ] = None,
    suites: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            metavar="NAME[=URI]",
            help="Questions for base and result, by default the held-out ones: gives NAME_loss and NAME_exact_match. "
            "Repeatable.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", help="Name of the LLMModel that is made, if not the job's.")
    ] = None,
    secret: Annotated[
        str | None, typer.Option("--secret", help="Secret with the credentials of the data's source.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option("--epochs", min=0, help="How often each example is learned; by default once.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Optimizer steps, instead of epochs.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="By default 2e-4 for lora, 2e-5 for full.")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=16, help="Tokens of one optimizer step; by default 16384.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=16, help="Longest example in tokens; by default 2048.")
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Rank of the adapter; by default 16.")] = None,
    alpha: Annotated[int | None, typer.Option("--alpha", min=1, help="Scale of the adapter; by default 32.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Of order and first weights; by default 42.")
    ] = None,
    eval_fraction: Annotated[
        float | None, typer.Option("--eval-fraction", min=0, help="Share of the examples held out; by default 0.05.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", min=1, help="Stop after so many evaluations without a better one.")
    ] = None,
    pii: Annotated[
        Literal["keep", "redact", "drop", "fail"] | None,
        typer.Option("--pii", help="What is done with personal data in the examples; by default it is kept."),
    ] = None,
    near_dedup: Annotated[
        float | None,
        typer.Option("--near-dedup", metavar="SIMILARITY", help="Learn lines this similar only once, for example 0.8."),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", min=1, help="Pods that train together; several share a ReadWriteMany claim."),
    ] = None,
    accelerators: Annotated[
        int | None, typer.Option("--accelerators", min=1, help="Accelerators of each node; by default 1.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", metavar="LLMMODEL", help="Larger model of the same family to learn from, too."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Softens what the teacher says; by default 2.")
    ] = None,
    teacher_share: Annotated[
        float | None,
        typer.Option("--teacher-share", help="Share of the teacher in the loss, up to 1; by default 0.5."),
    ] = None,
    tries: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="NAME=VALUES",
            help="Hyperparameter to search for: learning-rate=1e-5..3e-3:log, rank=8,16,32. Repeatable.",
        ),
    ] = None,
    search: Annotated[
        Literal["asha", "tpe", "random", "grid"] | None,
        typer.Option("--search", help="How values of --try are chosen; by default asha, which stops what is behind."),
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Trials at most; by default 16.")] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, help="Trials at the same time; by default 1.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", metavar="HOURS", help="Accelerator hours of all trials together; by default no limit."
        ),
    ] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", help="Size of the claim for data and checkpoints; by default 20Gi.")
    ] = None,
    storage_class: Annotated[
        str | None, typer.Option("--storage-class", help="StorageClass of that claim; by default the cluster's.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Memory of the training container; by default planned.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the FineTuneJob as YAML and make nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Watch it until it has ended.")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0, help="Longest watch in seconds.")] = 604800.0,
    as_json: AsJson = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Train a model on your data, and have the result tested, registered and served.

    Makes a FineTuneJob after checking all that it refers to, then shows its progress. Ctrl-C leaves it running in the
    cluster. Ends with 4 if the job fails or does not end in time. What has no option here can be set in the YAML of
    --dry-run.

    Examples:

        llmos tune --base smollm2 --data https://example.com/support.jsonl --name support --class cpu

        llmos tune --base smollm2 --data pvc://data/qa --name qa --attach chat --gate 'eval_loss<=0.95xbase'

        llmos tune --base smollm2 --data pvc://data/qa --name qa --teacher smollm2-large --try rank=8,16 --search grid

        llmos tune --base smollm2 --data hf://org/data --name qa --dry-run | kubectl apply -f -
    """
    from llmos.cli.tune_run import Watching, print_manifest, run_tune  # noqa: PLC0415  (start-up time)
    from llmos.cli.tuning import BadWishError, TuneWish, build_job, choose_class  # noqa: PLC0415

    wish = TuneWish(
        name=name,
        base=base,
        data=data,
        format=format_,
        method=method,
        output=output,
        secret=secret,
        attach=tuple(attach or ()),
        replaces=replaces,
        weight=weight,
        promote_after=promote_after,
        gates=tuple(gates or ()),
        suites=tuple(suites or ()),
        epochs=epochs,
        max_steps=max_steps,
        learning_rate=learning_rate,
        batch_tokens=batch_tokens,
        max_length=max_length,
        seed=seed,
        rank=rank,
        alpha=alpha,
        eval_fraction=eval_fraction,
        pii=pii,
        near_dedup=near_dedup,
        patience=patience,
        nodes=nodes,
        accelerators=accelerators,
        teacher=teacher,
        temperature=temperature,
        teacher_share=teacher_share,
        tries=tuple(tries or ()),
        search=search,
        trials=trials,
        parallel=parallel,
        budget=budget,
        storage=storage,
        storage_class=storage_class,
        memory=memory,
    )
    session = find_session(ctx)
    target = Target(namespace, context, kubeconfig)
    try:
        job = build_job(wish, class_name or "cpu")
        if dry_run and class_name:
            print_manifest(job, as_json=as_json)
            return
        with session.connect(target) as client:
            job = build_job(wish, class_name or choose_class(client))
            if dry_run:
                print_manifest(job, as_json=as_json)
            else:
                run_tune(session, client, job, Watching(timeout_s if wait else None, as_json))
    except BadWishError as error:
        raise typer.BadParameter(str(error), param_hint=error.option) from error


def suspend(
    ctx: typer.Context,
    job: Job,
    as_json: AsJson = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Have a FineTuneJob save a checkpoint, give its accelerators back, and wait.

    Examples:

        llmos suspend job/support
    """
    _set_suspend(ctx, job, Target(namespace, context, kubeconfig), suspend=True, as_json=as_json)


def resume(
    ctx: typer.Context,
    job: Job,
    as_json: AsJson = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Have a suspended FineTuneJob go on from its last checkpoint.

    Examples:

        llmos resume job/support
    """
    _set_suspend(ctx, job, Target(namespace, context, kubeconfig), suspend=False, as_json=as_json)


def promote(
    ctx: typer.Context,
    job: Job,
    pool: Pool = None,
    as_json: AsJson = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Have the result of a FineTuneJob take all requests for the name that it replaces, without waiting any longer.

    Examples:

        llmos promote job/support-v2
    """
    from llmos.cli.canaries import run_promote  # noqa: PLC0415  (start-up time)

    name = _read_job(job)
    with find_session(ctx).connect(Target(namespace, context, kubeconfig)) as client:
        run_promote(client, name, pool, as_json=as_json)


def rollback(
    ctx: typer.Context,
    job: Job,
    pool: Pool = None,
    as_json: AsJson = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Take the result of a FineTuneJob out of the pools where it replaces another adapter, promoted or not.

    Examples:

        llmos rollback job/support-v2
    """
    from llmos.cli.canaries import run_rollback  # noqa: PLC0415  (start-up time)

    name = _read_job(job)
    with find_session(ctx).connect(Target(namespace, context, kubeconfig)) as client:
        run_rollback(client, name, pool, as_json=as_json)


def _read_job(job: str) -> str:
    from llmos.cli.kinds import BadReferenceError, Kind, parse_reference  # noqa: PLC0415  (start-up time)

    try:
        return parse_reference(job, [Kind.JOB], default=Kind.JOB)[1]
    except BadReferenceError as error:
        raise typer.BadParameter(str(error), param_hint="job/NAME") from error


def _set_suspend(ctx: typer.Context, job: str, target: Target, *, suspend: bool, as_json: bool) -> None:
    from llmos.cli.kinds import BadReferenceError, Kind, parse_reference  # noqa: PLC0415  (start-up time)
    from llmos.cli.tune_run import run_suspend  # noqa: PLC0415

    try:
        _kind, name = parse_reference(job, [Kind.JOB], default=Kind.JOB)
    except BadReferenceError as error:
        raise typer.BadParameter(
            f"{error}; pools are stopped with kubectl scale ipool/NAME --replicas=0", param_hint="job/NAME"
        ) from error
    with find_session(ctx).connect(target) as client:
        run_suspend(client, name, suspend=suspend, as_json=as_json)
