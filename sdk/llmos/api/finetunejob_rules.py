"""Which fields of a FineTuneJob go together: rules of its spec, as the API server checks them."""

from __future__ import annotations

from typing import Final

from llmos.api.meta import Rule

_FORMATS: Final = {
    "causal-lm": ["chat", "instruction", "text"],
    "dpo": ["preference"],
    "distill": ["chat", "instruction", "text"],
    "token-classification": ["tokens-labels"],
    "sequence-classification": ["text-label"],
    "embedding": ["pairs"],
}
_METRICS: Final = {
    "causal-lm": ["loss", "exact_match"],
    "dpo": ["loss", "reward_accuracy", "reward_margin"],
    "distill": ["loss", "exact_match", "kl"],
    "token-classification": ["loss", "accuracy", "f1"],
    "sequence-classification": ["loss", "accuracy", "f1"],
    "embedding": ["loss", "recall_at_1"],
}

_HELD_OUT: Final = {
    task: [f"eval_{metric}" for metric in metrics if metric != "exact_match"] for task, metrics in _METRICS.items()
}

TASK_RULES: Final = (
    Rule(
        f"!has(self.earlyStopping) || self.earlyStopping.metric in {_HELD_OUT}[self.method.task]",
        "earlyStopping has a metric that the task has not: causal-lm has eval_loss, distill also eval_kl, dpo has "
        "eval_loss, eval_reward_accuracy and eval_reward_margin, classification has eval_loss, eval_accuracy and "
        "eval_f1, embedding has eval_loss and eval_recall_at_1",
        field_path=".earlyStopping.metric",
    ),
    Rule(
        f"self.dataset.format.type in {_FORMATS}[self.method.task]",
        "the task does not learn from this format: causal-lm and distill take chat, instruction or text, dpo takes "
        "preference, token-classification takes tokens-labels, sequence-classification takes text-label, embedding "
        "takes pairs",
        field_path=".dataset.format.type",
    ),
    Rule(
        "!has(self.evaluate.suites) || self.evaluate.suites.all(suite, "
        f"!has(suite.format) || suite.format.type in {_FORMATS}[self.method.task])",
        "a suite has a format that the task does not learn from: causal-lm takes chat, instruction or text, and each "
        "other task has one format",
        field_path=".evaluate.suites",
    ),
    Rule(
        "!has(self.evaluate.suites) || self.evaluate.suites.all(suite, "
        f"suite.metrics.all(metric, metric in {_METRICS}[self.method.task]))",
        "a suite has a metric that the task has not: causal-lm has loss and exact_match, distill these and kl, dpo "
        "has loss, reward_accuracy and reward_margin, classification has loss, accuracy and f1, embedding has loss "
        "and recall_at_1",
        field_path=".evaluate.suites",
    ),
)
OUTPUT_RULES: Final = (
    Rule(
        "!has(self.output.attachTo) || size(self.output.attachTo) == 0 || "
        "(self.method.tuning != 'full' && (!has(self.output.kind) || self.output.kind == 'adapter'))",
        "only adapters are attached to pools: for tuning full and output.kind merged, name the result in a pool's "
        "modelRef",
        field_path=".output.attachTo",
    ),
    Rule(
        "!has(self.output.attachTo) || size(self.output.attachTo) == 0 || "
        "self.method.task in ['causal-lm', 'dpo', 'distill']",
        "classifiers and embeddings are not served beside a model that speaks: leave attachTo out; "
        "docs/how-to/fine-tune.md says what serves them",
        field_path=".output.attachTo",
    ),
    Rule(
        "self.method.tuning != 'full' || !has(self.output.kind)",
        "output.kind is for adapters: tuning full makes a whole model anyway, leave it out",
        field_path=".output.kind",
    ),
    Rule(
        "self.method.tuning != 'qlora' || !has(self.output.kind) || self.output.kind == 'adapter'",
        "a whole model would be asked unquantized, which may not fit what qlora is used for: leave output.kind out, "
        "or set method.tuning to lora",
        field_path=".output.kind",
    ),
)
