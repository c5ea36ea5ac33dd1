"""The trainer of a FineTuneJob: one process, one attempt.

    job, prepared dataset, base model
      -> settings        what decides the weights, and nothing else           settings.py   pure
      -> order           which examples make which optimizer step              order.py      pure
      -> loop            evaluate? save? done? told to stop? else one step     loop.py
           step          micro-batches, one loss, clipping, AdamW              step.py
           objective     what a task learns: rows, loss and metrics            objective.py, and one file a task
           checkpoints   snapshot, then an asynchronous atomic write           checkpoints.py, writer.py
      -> result          adapter or model, base and result compared, published result.py, merging.py

All that the next step depends on is in the checkpoint: the weights, the optimizer, the schedule, every random number
generator, and the position in an order of examples that is a pure function of seed and position. So a run that is
killed at any step, however often, computes the same numbers as one that is not; on a processor bit for bit.

The loop is our own, not transformers.Trainer: a step is defined by tokens and not by rows, the loss is normalised by
the tokens of the whole step, and each of the places where Trainer keeps state would have to be replaced to resume
exactly and to write without waiting. Models, schedules, adapters and optimizers are transformers', peft's and
torch's. The losses of tasks are a few lines each, with their source; libraries have them within trainers of their own.
"""
