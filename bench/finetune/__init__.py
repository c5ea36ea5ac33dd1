"""What fine-tuning costs: `python -m bench.finetune SCENARIO --json OUT`."""
