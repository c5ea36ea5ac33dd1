"""The command line: names, options and help. What a command does stands in the module that it imports when it runs.

`llmos --help` and shell completion must answer at once, so nothing here imports the client, the planner or the resource
models before a command needs them.
"""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from llmos.cli.exits import Command, ExitCode
from llmos.cli.jobs import promote, resume, rollback, suspend, tune
from llmos.cli.keys import keys
from llmos.cli.objects import get, logs
from llmos.cli.options import AsJson, Context, Kubeconfig, Namespace, TimeoutS, find_session
from llmos.cli.session import Target

app = typer.Typer(
    name="llmos",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich alone would double the time of --help
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Serve and tune language models on a Kubernetes cluster: see what runs, what is wrong, what would fit, and
talk to it.

To create and change things use kubectl: llmos shows what kubectl cannot, and starts fine-tunings.

Exit codes: 0 all is well, 1 something is not as it should be, 2 wrong usage, 3 not found, 4 not ready or timed out,
5 the cluster cannot be reached, 130 ended by Ctrl-C.""",
)
app.add_typer(keys)


@app.command(cls=Command)
def status(
    ctx: typer.Context,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Look at all namespaces.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep the screen up to date until Ctrl-C.")] = False,
    interval_s: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between two looks.")] = 2.0,
    as_json: AsJson = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show models, pools, replicas and accelerators, what is wrong with them and what to do.

    Ends with 1 if something is wrong. What LLMOS still works on (a download, a start) is not wrong.

    Examples:

        llmos status -A

        llmos status --json | jq '.health[] | select(.state == "problem")'
    """
    if watch and as_json:
        raise typer.BadParameter("--watch draws a screen; use --json without it", param_hint="--json")
    from llmos.cli.status import run_status  # noqa: PLC0415  (start-up time, here and below)

    session = find_session(ctx)
    with session.connect(Target(namespace, context, kubeconfig)) as client:
        code = run_status(
            session, client, all_namespaces=all_namespaces, watch=watch, interval_s=interval_s, as_json=as_json
        )
    raise typer.Exit(code)


@app.command(cls=Command)
def plan(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An LLMModel of the cluster, a model's folder, or its config.json.")
    ],
    accelerator: Annotated[
        str | None,
        typer.Option("--accelerator", "-a", help="AcceleratorClass, a well-known name such as nvidia-h100, or cpu."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Memory of one accelerator instead of a class, for example 80Gi.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, max=256, help="Accelerators of one replica.")] = 1,
    context_length: Annotated[
        int | None,
        typer.Option("--context-length", min=16, help="Tokens of prompt and answer; by default the longest that fits."),
    ] = None,
    tensor: Annotated[int | None, typer.Option(min=1, max=64, help="Tensor parallel size; by default planned.")] = None,
    pipeline: Annotated[
        int | None, typer.Option(min=1, max=64, help="Pipeline parallel size; by default planned.")
    ] = None,
    engine_args: Annotated[
        list[str] | None,
        typer.Option("--engine-arg", metavar="NAME=VALUE", help="As in spec.engine.args: max-num-seqs=64. Repeatable."),
    ] = None,
    weights_gib: Annotated[
        float | None, typer.Option("--weights-gib", min=0, help="Size of the weights, if it is not the checkpoint's.")
    ] = None,
    as_json: AsJson = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Say whether a model fits an accelerator, with the numbers, before anything exists.

    Plans exactly as the operator does. Needs no cluster for a config.json and a well-known accelerator or --memory.
    Ends with 1 if the model does not fit.

    Examples:

        llmos plan smollm2 --accelerator nvidia-l4

        llmos plan ./Llama-3.3-70B/config.json --accelerator nvidia-h100 --count 2

        llmos plan ./model --memory 24Gi --context-length 8192 --engine-arg kv-cache-dtype=fp8
    """
    if accelerator is None and memory is None:
        raise typer.BadParameter("name one, or give --memory", param_hint="--accelerator")
    from llmos.cli.plan_text import draw_verdict  # noqa: PLC0415
    from llmos.cli.planning import Wish, answer  # noqa: PLC0415

    arguments = tuple(_parse_engine_arg(text) for text in engine_args or ())
    wish = Wish(model, accelerator, memory, count, context_length, tensor, pipeline, arguments, weights_gib)
    session = find_session(ctx)
    verdict = answer(wish, lambda: session.connect(Target(namespace, context, kubeconfig)))
    print(json.dumps(verdict.as_json(), indent=2) if as_json else draw_verdict(verdict))
    raise typer.Exit(ExitCode.OK if verdict.fits else ExitCode.PROBLEM)


def _parse_engine_arg(text: str) -> tuple[str, bool | str]:
    name, _, value = text.removeprefix("--").partition("=")
    return name, True if value in ("", "true") else value


@app.command(cls=Command)
def chat(
    ctx: typer.Context,
    pool: Annotated[str | None, typer.Argument(metavar="POOL", help="InferencePool; not needed with --url.")] = None,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The question; without one a conversation begins.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Address of an OpenAI-compatible server instead of a pool.")
    ] = None,
    gateway: Annotated[
        str | None,
        typer.Option("--gateway", help="Address of the gateway; by default LLMOS_GATEWAY_URL or OPENAI_BASE_URL."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="API key for the gateway; by default LLMOS_API_KEY or OPENAI_API_KEY."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Served name; by default the first of the pool.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="Instructions that precede the conversation.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer in tokens.")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, max=2, help="0 always picks the likeliest token.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the pool is ready, and show progress.")] = False,
    timeout_s: TimeoutS = 900.0,
    as_json: AsJson = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Talk to a pool; the answer streams.

    Through the gateway if one is named, which also wakes a pool that sleeps; else through the Kubernetes API server,
    and nothing needs to be forwarded or exposed. A gateway that only the environment names gives way to --wait and to
    options that name a cluster. Ctrl-C stops the answer. Without a prompt a conversation begins; a prompt may also come
    through a pipe.

    Examples:

        llmos chat smollm2 "What is the capital of France?"

        git diff | llmos chat coder --system "Review this change." --max-tokens 400

        llmos chat --gateway https://llm.example.com --key sk-llmos-... smollm2 "Hello"

        llmos chat --url http://localhost:8000
    """
    if url and pool and prompt is None:
        pool, prompt = None, pool
    if bool(url) == bool(pool):
        raise typer.BadParameter("name a pool or give --url, one of them", param_hint="POOL")
    from llmos.cli import chat as chatting  # noqa: PLC0415

    session = find_session(ctx)
    target = Target(namespace, context, kubeconfig)
    entrance = None if url else chatting.find_gateway(session, gateway, key, gives_way=wait or target != Target())
    if gateway and (url or wait):
        raise typer.BadParameter("--gateway goes with neither --url nor --wait: it holds requests itself")
    prompt = session.read_pipe() if prompt is None else prompt
    if prompt is not None and not prompt.strip():
        raise typer.BadParameter("it is empty", param_hint="PROMPT")
    if prompt is None and as_json:
        raise typer.BadParameter("a conversation cannot be JSON; give a prompt", param_hint="--json")
    options: Any = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
    if entrance:
        options["model"] = model or (f"{namespace}/{pool}" if namespace else pool)
    with chatting.connect(session, url, entrance, target) as connected:
        talk = chatting.find_talk(connected, pool, wait_s=timeout_s if wait else None)
        if prompt is None:
            chatting.converse(talk, session, system=system, options=options)
        else:
            chatting.answer_once(talk, prompt, system=system, options=options, as_json=as_json)


@app.command(cls=Command)
def wait(
    ctx: typer.Context,
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="model, pool, job or accelerator; KIND/NAME is the same.")
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the object.", show_default=False)] = "",
    timeout_s: TimeoutS = 900.0,
    as_json: AsJson = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Wait until an object is ready, or a job has succeeded, and show what holds it up.

    Unlike kubectl wait it ends at once with 4 when nothing will change until somebody acts, and says what to do.

    Examples:

        llmos wait pool smollm2 --timeout 600 && llmos chat smollm2 "Hello"

        llmos wait job/support --timeout 86400
    """
    from llmos.cli.kinds import parse_kind  # noqa: PLC0415
    from llmos.cli.waiting import run_wait  # noqa: PLC0415

    if not name:
        kind, _, name = kind.partition("/")
    if not name:
        raise typer.BadParameter(f"which {kind}? Say its name, too", param_hint="NAME")
    found = parse_kind(kind)
    if found is None:
        raise typer.BadParameter(f"{kind!r} is none of model, pool, job, accelerator", param_hint="KIND")
    session = find_session(ctx)
    with session.connect(Target(namespace, context, kubeconfig)) as client:
        run_wait(session, client, found, name, timeout_s=timeout_s, as_json=as_json)


@app.command(cls=Command)
def why(
    ctx: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="POOL|job/NAME", help="InferencePool with spec.scaling, or a FineTuneJob.")
    ],
    samples: Annotated[
        Path | None,
        typer.Option("--samples", metavar="FILE", help="Write the decisions of the last minutes there, for replay."),
    ] = None,
    operator_namespace: Annotated[
        str | None,
        typer.Option("--operator-namespace", help="Where the operator runs, for --samples; by default it is searched."),
    ] = None,
    as_json: AsJson = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Say why a pool has as many replicas as it has, or what a FineTuneJob does or waits for.

    Of a pool: what was seen, what each target asks for, and what bounded it. Ends with 1 if there is no room for more
    replicas or figures are missing, and with 4 before the first decision. Of a job: what holds it up and what to do,
    its steps, attempts and gates. Ends with 1 if there is a problem, and with 4 before the operator has looked.

    Examples:

        llmos why assistant

        llmos why assistant --samples samples.jsonl && llmos replay samples.jsonl

        llmos why job/support
    """
    from llmos.cli.kinds import BadReferenceError, Kind, parse_reference  # noqa: PLC0415
    from llmos.cli.why import run_why, save_samples  # noqa: PLC0415
    from llmos.cli.why_job import run_why_job  # noqa: PLC0415

    try:
        kind, name = parse_reference(target, [Kind.POOL, Kind.JOB], default=Kind.POOL)
    except BadReferenceError as error:
        raise typer.BadParameter(str(error), param_hint="POOL|job/NAME") from error
    if samples is not None and kind is Kind.JOB:
        raise typer.BadParameter("only of pools are decisions recorded", param_hint="--samples")
    session = find_session(ctx)
    with session.connect(Target(namespace, context, kubeconfig)) as client:
        if samples is not None:
            count = save_samples(client, name, samples, operator_namespace=operator_namespace)
            print(
                json.dumps({"file": str(samples), "decisions": count}) if as_json else f"{samples}: {count} decisions"
            )
            return
        explain = run_why_job if kind is Kind.JOB else run_why
        code = explain(client, name, now=session.now(), as_json=as_json)
    raise typer.Exit(code)


@app.command(cls=Command)
def doctor(
    ctx: typer.Context,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this Tenant; by default all.")] = None,
    as_json: AsJson = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Go through the isolation checklist of every Tenant and its pools: what was found, and what to do about problems.

    The operator looks, and writes what it found into the condition IsolationReady; this prints it. Ends with 1 if there
    is a problem, and with 4 if the operator has not looked yet. Needs the right to read Tenants.

    Examples:

        llmos doctor

        llmos doctor --tenant research --json | jq '.[].checks[] | select(.ok | not)'
    """
    from llmos.cli.doctor import run_doctor  # noqa: PLC0415

    with find_session(ctx).connect(Target(None, context, kubeconfig)) as client:
        code = run_doctor(client, tenant, as_json=as_json)
    raise typer.Exit(code)


@app.command(cls=Command)
def replay(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Written by llmos why POOL --samples FILE."),
    ],
    show_all: Annotated[bool, typer.Option("--all", help="Show every second, not only changes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run recorded samples through the very function that the operator decides with. Needs no cluster.

    A replay begins like an operator that has just restarted: delays begin anew with the first line.
    """
    from llmos.cli.replaying import run_replay  # noqa: PLC0415

    run_replay(file, show_all=show_all, as_json=as_json)


@app.command(cls=Command)
def version(as_json: AsJson = False) -> None:
    """Print the version of this program and of the API that it speaks."""
    from llmos.api.names import API_VERSION  # noqa: PLC0415

    facts = {"llmos": metadata.version("llmos"), "api": API_VERSION, "python": platform.python_version()}
    print(json.dumps(facts, indent=2) if as_json else "\n".join(f"{name:<8}{value}" for name, value in facts.items()))


for command in (tune, get, logs, suspend, resume, promote, rollback):
    app.command(cls=Command)(command)
