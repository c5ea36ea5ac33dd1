"""The options of the command line. Read before torch is imported, so nothing of that is here."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmos.api.names import CONTROL_PORT, GANG_PORT, JOB_FILE, MODEL_DIR, WORK_DIR


def build_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m llmos_workers.train", description="Train what a FineTuneJob says.")
    parser.add_argument(
        "--job", type=Path, default=Path(JOB_FILE), help="file with metadata and spec of the FineTuneJob"
    )
    parser.add_argument("--model", type=Path, default=Path(MODEL_DIR), help="folder of the base model")
    parser.add_argument("--work", type=Path, default=Path(WORK_DIR), help="the claim of the job")
    parser.add_argument("--base-digest", required=True, help="digest of the base model")
    parser.add_argument("--teacher", type=Path, help="folder of the model that teaches (task distill)")
    parser.add_argument("--teacher-digest", default="", help="digest of that model")
    parser.add_argument("--attempt", type=int, default=1, help="number of the attempt, from 1 on")
    parser.add_argument("--accelerators", type=int, default=1, help="accelerators that the attempt holds")
    parser.add_argument("--trial", type=int, default=0, help="number of the trial of a search; 0 = the job has none")
    parser.add_argument("--store-uri", default="", help="folder of the job in an object store; empty = none")
    parser.add_argument("--parameters", default="{}", metavar="JSON", help="hyperparameters of that trial, by name")
    parser.add_argument("--metrics-port", type=int, default=CONTROL_PORT, help="port of /metrics; 0 = none")
    parser.add_argument("--nodes", type=int, default=1, help="pods that train together")
    parser.add_argument("--rank", type=int, default=0, help="which of them this is; 0 leads")
    parser.add_argument("--processes", type=int, default=1, help="ranks in each pod, one for each accelerator")
    parser.add_argument("--local-rank", type=int, default=0, help="which of the pod's ranks this process is")
    parser.add_argument("--sharded", action="store_true", help="cut the model over all ranks")
    parser.add_argument("--leader", default="127.0.0.1", help="host name of rank 0")
    parser.add_argument("--gang-port", type=int, default=GANG_PORT, help="port of rank 0 where the others come")
    parser.add_argument("--meet-timeout", type=float, default=1800.0, help="longest wait for the others, in seconds")
    parser.add_argument("--silence", type=float, default=30.0, help="silence after which a rank is lost, in seconds")
    return parser
