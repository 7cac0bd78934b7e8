"""
Break the core in one place at a time, and check that a test fails: `python scripts/mutate.py [NUMBER...]`.

Each mutation replaces a piece of code that occurs once, in a copy of the project, and runs the tests that should
notice, until the first failure. A mutation that no test notices *survives*; the exit status is then 1. `--list`
prints the mutations, `--jobs N` tries several at once. About half a minute each.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sft_judge"
IGNORED = shutil.ignore_patterns("__pycache__", ".venv*", "runs", "site", ".git", ".tokenizers")


@dataclass(frozen=True)
class Mutation:
    """A change of the code: `old`, which occurs once in `file`, becomes `new`; one of `tests` has to fail."""

    file: str
    old: str
    new: str
    tests: str

    def apply(self, package: Path) -> None:
        path = package / self.file
        text = path.read_text(encoding="utf-8")
        assert text.count(self.old) == 1, f"{self.file} has {self.old!r} {text.count(self.old)} times"
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


def mutations() -> list[Mutation]:
    """Return all mutations, by the file that they change."""
    return [Mutation(file, *change) for file, changes in CHANGES.items() for change in changes]


LOSSES, TRAINER = "tests/training/test_losses.py", "tests/training/test_trainer.py"
ORDERS, PROMPT, TRUNCATION = (
    "tests/core/test_swap_orders.py",
    "tests/prompts/test_prompt.py",
    "tests/prompts/test_truncation.py",
)
LABELS, GUARDS, PARITY = (
    "tests/training/test_soft_labels.py",
    "tests/training/test_guards.py",
    "tests/inference/test_parity.py",
)
HEAD, FOLDS = (
    "tests/modeling/test_verdict_head.py",
    "tests/inference/test_out_of_fold.py tests/commands/test_predict.py",
)
LONG_TALKS = "tests/prompts/test_many_turns.py"
CALIBRATION, FITS = "tests/inference/test_calibrated.py", "tests/evaluation/test_calibration_fit.py"
DECISIONS, REWARDS = (
    "tests/inference/serving/test_decisions.py",
    "tests/inference/serving/test_reward_routes.py tests/test_rewards.py",
)
BY_PLACE = "getattr(battle.judgement, verdict) for verdict in VERDICTS[: len(question.verdicts)]"
CHANGES = {
    "training/losses.py": [
        ("return -(targets * F.log_softmax", "return (targets * F.log_softmax", LOSSES),
        ("return kl * temperature**2", "return kl * temperature", LOSSES),
        ("cosine = 1 - F.cosine_similarity", "cosine = F.cosine_similarity", LOSSES),
        ('F.kl_div(student, softened, reduction="none")', "-(softened * student)", LOSSES),
        ("logits = logits - margin[:, None] * targets", "logits = logits + margin[:, None] * targets", LOSSES),
        ("smoothing / targets.shape[-1]", "smoothing / 2", LOSSES),
        ("return (1 - shares.sum(dim=1)) * hard", "return hard", LOSSES),
        ("shares * (1 - entropy /", "shares * (entropy /", LOSSES),
        ("swap(logits[:, 1])", "logits[:, 1]", LOSSES),
        ("(one - other)).sum(dim=-1) / 2", "(one - other)).sum(dim=-1)", LOSSES),
        ("- whole.logsumexp(dim=-1)", "+ whole.logsumexp(dim=-1)", LOSSES),
        ("teachers[:, i], temperature, kind)", "teachers[:, 0], temperature, kind)", LOSSES),
    ],
    "core/swap_orders.py": [
        ("_EXCHANGED_COLUMNS = [1, 0, 2]", "_EXCHANGED_COLUMNS = [0, 1, 2]", ORDERS),
        ('values[:, i] if order == "ab" else swap', 'values[:, i] if order == "ba" else swap', ORDERS),
        (".sum(axis=1) / shown.sum(axis=1)[:, None]", ".sum(axis=1) / shown.shape[1]", ORDERS),
    ],
    "core/verdicts.py": [
        ('VERDICTS = ("a", "b", "tie")', 'VERDICTS = ("b", "a", "tie")', f"{ORDERS} tests/data tests/training")
    ],
    "modeling/verdict_head.py": [
        ("else self.weight[verdicts]", "else self.weight[verdicts.flip(0)]", HEAD),
        ("else self.bias[verdicts]", "else self.bias[verdicts] * 0", HEAD),
        ("answer = hidden[rows, place][:, None]", "answer = hidden[rows, place - 1][:, None]", HEAD),
        ("gradient, ctx.shape, check", "gradient * 2, ctx.shape, check", HEAD),
    ],
    "modeling/temperature_scaling.py": [
        ("dtype=float)) / temperature", "dtype=float)) * temperature", f"{CALIBRATION} {FITS}"),
        ("/ tie_temperature + tie_offset", "/ tie_temperature", f"{CALIBRATION} {FITS}"),
        (
            "scaled[rows] = apply_scaling(probs[rows]",
            "scaled[rows] = apply_scaling(scaled[rows]",
            f"{CALIBRATION} {FITS} tests/commands/test_calibrate.py",
        ),
    ],
    "prompts/prompt.py": [
        ('[:: 1 if order == "ab" else -1]', "[:: 1]", PROMPT),
        ("return max(self.frame(num_prompt, *pair", "return min(self.frame(num_prompt, *pair", "tests/prompts"),
        ("shown = self.shown(last_turns(row, left))", "shown = self.shown(last_turns(row, left + 1))", LONG_TALKS),
        ("escape = self.guard(shape_of(fields)).escape", "escape = str", f"{PROMPT} tests/prompts"),
        (
            'fields["language"] = [language] if language else []',
            'fields["language"] = []',
            "tests/inference/test_languages.py tests/prompts",
        ),
        ("if len(set(ids)) < len(ids):", "if len(set(ids)) < 1:", "tests/prompts"),
    ],
    "prompts/truncation.py": [
        ("return budget.total - 1 - len(", "return budget.total - len(", "tests/prompts"),
        (
            "(budget.prompt, budget.response, budget.response)",
            "(budget.prompt, budget.response, budget.prompt)",
            "tests/prompts",
        ),
        ("row[name][-number:] for", "row[name][:number] for", LONG_TALKS),
        ("for length in reversed(lengths):", "for length in lengths:", TRUNCATION),
        ("(left + 1) // 2", "left // 2", TRUNCATION),
        ("while head > 0 and ids[head] in inside:", "while False:", f"{TRUNCATION} {PROMPT}"),
        ("while tail < len(ids) and ids[tail] in inside:", "while False:", f"{TRUNCATION} {PROMPT}"),
        ("*(marker if marked else ()), *ids[tail:]]", "*ids[tail:]]", f"{TRUNCATION} {PROMPT}"),
    ],
    "inference/parity.py": [
        ("if not parity.max_difference <= tolerance:", "if parity.max_difference > tolerance * 10:", PARITY),
        ("if not parity.max_difference <= tolerance:\n", "if parity.max_difference > tolerance:\n", PARITY),
        ("if not (rise.low <= 0 or rise.value <= tolerance):", "if False:", PARITY),
        ("rise.low <= 0 or rise.value <= tolerance", "rise.low <= 0 and rise.value <= tolerance", PARITY),
        ("targets * (logp - other)", "targets * (other - logp)", PARITY),
    ],
    "inference/out_of_fold.py": [
        ('if fold in judges[owner].training.get("folds_seen", []):', "if False:", FOLDS),
        ("if is_labelled and fold is None:", "if False:", FOLDS),
        ("if is_labelled and fold is not None else judges:", "if fold is not None else judges:", FOLDS),
    ],
    "training/soft_labels.py": [
        ('if int(fold) in model["folds_seen"]:', "if False:", LABELS),
        ('if probs.metadata.get("battles_sha256") != content_hash(battles):', "if False:", LABELS),
        ("np.maximum(labels, MIN_LABEL) for", "labels for", LABELS),
        ("probs[:, :2] + probs[:, 2:] / 2 if", "probs[:, :2] + probs[:, 2:] if", LABELS),
        ("mean[sure[0]] > above and", "mean[sure[0]] > 0 and", LABELS),
    ],
    "training/verdict_trainer.py": [
        ("loss = loss * self.accelerator.num_processes", "loss = loss * 1", "tests/integration/test_engines.py"),
        ('losses = losses * inputs["weight"][:, None]', "losses = losses * 1", TRAINER),
        ("losses = losses + config.agreement_weight", "losses = losses - config.agreement_weight", TRAINER),
        (
            "losses = losses - config.full_vocab_weight",
            "losses = losses + config.full_vocab_weight",
            f"{TRAINER} tests/training/test_full_logits.py",
        ),
        ("(losses + passes[1][0]) / 2", "(losses + passes[1][0])", "tests/training/test_distilling_recipes.py"),
    ],
    "training/guards.py": [
        ("if gain < -2 * gain_error:", "if gain < -200 * gain_error:", GUARDS),
        ("if gain <= 2 * gain_error and hits", "if False and hits", GUARDS),
        ("loss > self.factor * self.mean", "loss > self.mean", GUARDS),
    ],
    "training/adapters.py": [
        ('{"default": True}.get(config.lora_init, config.lora_init)', "True", "tests/training/test_adapters.py"),
        ("(lora.r**0.5 if lora.use_rslora else lora.r)", "lora.r", "tests/training/test_adapters.py"),
    ],
    "inference/contests.py": [
        ("judgement if shown_pair(pair) == pair else exchange_judgement(judgement)", "judgement", REWARDS),
        ("a=judgement.b, b=judgement.a", "a=judgement.a, b=judgement.b", f"{REWARDS} {DECISIONS}"),
        ("table[places[:, None] == places] = 0.5", "table[places[:, None] == places] = 1.0", f"{REWARDS} {DECISIONS}"),
        ("(expit(differences) - won).sum(axis=1)", "(won - expit(differences)).sum(axis=1)", DECISIONS),
        ("- np.diagonal(table)) / (len(table) - 1)", "- np.diagonal(table)) / len(table)", REWARDS),
    ],
    "inference/serving/decisions.py": [
        ("(max(self.probabilities) - chance) / (1 - chance)", "max(self.probabilities)", DECISIONS),
        ('"response_a": "a", "response_b": "b"', '"response_a": "b", "response_b": "a"', DECISIONS),
        ("getattr(battle.judgement, verdict) for verdict in question.verdicts", BY_PLACE, DECISIONS),
        ("if needed > most:", "if needed < 0:", DECISIONS),
    ],
    "inference/serving/groups.py": [
        ("if len(group.responses) == self._settings.group_size:", "if len(group.responses) == 2:", REWARDS),
        ("            del group.responses[number]\n", "            pass\n", REWARDS),
        ("            group.task.cancel()\n", "            pass\n", REWARDS),
        ("numbers = list(group.responses)", "numbers = sorted(group.responses, reverse=True)", REWARDS),
    ],
}


def try_mutation(number: int, mutation: Mutation) -> tuple[int, str]:
    """Apply one mutation in a copy of the project and run its tests; returns its number and what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(ROOT, copy, ignore=IGNORED, symlinks=True)
        mutation.apply(copy / "sft_judge")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-m",
            "not full",
            "-p",
            "no:cacheprovider",
            *mutation.tests.split(),
        ]
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    outcome = {0: "SURVIVED", 1: "caught"}.get(done.returncode, f"error: pytest ended with {done.returncode}")
    by = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return number, f"{outcome}  {by[0][:110] if by else ''}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", type=int, nargs="*", metavar="NUMBER", help="mutations to try (all)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutations at once (1)")
    parser.add_argument("--list", action="store_true", help="print the mutations and exit")
    options = parser.parse_args()
    every = dict(enumerate(mutations()))
    if unknown := set(options.numbers) - set(every):
        parser.error(f"no mutation {min(unknown)}; there are 0 to {max(every)}")
    chosen = {number: every[number] for number in options.numbers or every}
    if options.list:
        for number, one in chosen.items():
            print(f"{number:3} {one.file}: {one.old!r} -> {one.new!r}")
        return 0
    survived = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for number, outcome in pool.map(try_mutation, chosen, chosen.values()):
            survived += not outcome.startswith("caught")
            print(f"{number:3} {every[number].file}: {outcome}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} mutations are caught")
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main())
