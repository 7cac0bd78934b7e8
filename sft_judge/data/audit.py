"""
Audit of a set of battles: statistics without any text of a battle.

Battles are streamed once and counted with Arrow's own operations. Only a few numbers per battle are kept. Win rates
are over labelled rows without ties, with 95 % intervals over prompts (share_interval.py).
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_judge.core.swap_orders import swap
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import FIELDS, BattleFile
from sft_judge.data.injection import PATTERNS, find_injected_rows
from sft_judge.data.preparing.minhash import NEAR_SIMILARITY
from sft_judge.data.preparing.prompt_groups import PromptIndex, normal_prompt
from sft_judge.data.share_interval import LEAST_PROMPTS, share_interval

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
TOTALS = (1536, 2048, 3072, 6144, 8192)  # total budgets, in tokens, for which the share of longer prompts is reported
BINS = 60  # bins of the lengths, on a logarithmic scale
GROUPINGS = ("source", "language", "verdict", "fold")


class Tally:
    """
    Counts collected while N battles are streamed; `audit` computes the statistics.

    Args:
        columns: columns of the file.
        measures: see `audit_battles`.
    """

    def __init__(self, columns: list[str], measures: dict[str, Callable]):
        self.by = {name: Counter() for name in (*GROUPINGS, "turns")}
        self.lengths = {name: [] for name in FIELDS}  # characters, turns together
        self.empty, self.injections = Counter(), Counter()
        self.models: dict[str, int] = {}  # number of each model name
        self.sides = [], []  # numbers of each battle's models, -1 without a name
        self.verdicts, self.prompts, self.battles, self.injected_rows = [], [], [], []
        self.identical = self.num_rows = 0
        self.measures, self.tokens = measures, {name: [] for name in measures}
        self.dealt = PromptIndex() if "fold" in columns else None  # prompts of the battles that have a fold
        self.folds, self.ids = [], []

    def add(self, battles: pa.Table) -> None:
        """Count more battles."""
        battles = battles.combine_chunks()
        texts = {name: _text(battles, name) for name in FIELDS}
        for name in GROUPINGS:
            values = battles[name] if name in battles.column_names else pa.nulls(battles.num_rows, pa.string())
            self.by[name] += _counts(values)
        self.by["turns"] += _counts(pc.list_value_length(battles["prompt"]))
        for name, text in texts.items():
            length = pc.utf8_length(text)
            self.lengths[name].append(length.to_numpy())
            self.empty[name] += _num(pc.or_(pc.equal(length, 0), pc.utf8_is_space(text)))
        self.identical += _num(pc.equal(texts["response_a"], texts["response_b"]))
        self.verdicts.append(pc.fill_null(pc.index_in(battles["verdict"], pa.array(VERDICTS)), -1).to_numpy())
        self._add_hashes(battles, texts)
        self._add_models(battles)
        self._add_injections(battles)
        if self.dealt:
            dealt = battles.filter(pc.is_valid(battles["fold"]))
            self.dealt.add(dealt["prompt"].to_pylist())
            self.folds.append(dealt["fold"].to_numpy())
            self.ids.append(pa.array(dealt["id"].to_pylist(), pa.string()))  # a copy: a slice would keep its batch
        for name, measure in self.measures.items():
            self.tokens[name].append(measure(battles))
        self.num_rows += battles.num_rows

    def _add_hashes(self, battles: pa.Table, texts: dict) -> None:
        prompts = [hash(normal_prompt(turns)) for turns in battles["prompt"].to_pylist()]
        responses = (texts[name].to_pylist() for name in ("response_a", "response_b"))
        self.prompts.append(np.array(prompts))
        self.battles.append(np.array([hash(key) for key in zip(prompts, *responses, strict=True)]))

    def _add_models(self, battles: pa.Table) -> None:
        for name, side in zip(("model_a", "model_b"), self.sides, strict=True):
            names = battles[name].to_pylist() if name in battles.column_names else [None] * battles.num_rows
            numbers = (-1 if each is None else self.models.setdefault(each, len(self.models)) for each in names)
            side.append(np.fromiter(numbers, int, battles.num_rows))

    def _add_injections(self, battles: pa.Table) -> None:
        for name in FIELDS:
            for kind, rows in find_injected_rows(battles, name).items():
                self.injections[kind, name] += len(rows)
                self.injected_rows.append(rows + self.num_rows)

    def audit(self) -> dict:
        """Compute the statistics as a JSON-serialisable dict."""
        lengths = {name: np.concatenate(parts) for name, parts in self.lengths.items()}
        verdicts = np.concatenate(self.verdicts)
        longer = np.sign(lengths["response_b"].astype(int) - lengths["response_a"])  # -1: a is longer, 1: b is
        decided = (verdicts >= 0) & (verdicts < 2)
        uneven = decided & (longer != 0)
        battles = np.unique(np.concatenate(self.battles), return_counts=True)[1]
        prompt = np.unique(np.concatenate(self.prompts), return_inverse=True)[1]  # prompt number of each row
        prompts = np.bincount(prompt)
        return {
            "rows": self.num_rows,
            "rows_by": {name: _sort_counts(counter) for name, counter in self.by.items()},
            "characters": {name: quantiles(values) for name, values in lengths.items()},
            "length_histogram": _histogram(lengths),
            "length_symmetry": _symmetry(lengths["response_a"], lengths["response_b"]),
            "tokens": {name: self._token_facts(parts) for name, parts in self.tokens.items()},
            "empty": {name: self.empty[name] for name in FIELDS},
            "identical_responses": self.identical,
            "duplicates": {
                "different_prompts": len(prompts),
                "rows_sharing_a_prompt": int(prompts[prompts > 1].sum()),
                "rows_repeating_a_row": int((battles - 1).sum()),
            },
            "first_answer_wins": win_rate(verdicts[decided] == 0, prompt[decided]),
            "longer_answer_wins": win_rate((verdicts == (longer > 0))[uneven], prompt[uneven]),
            "models": self._model_facts(verdicts, prompt),
            "hostile_rows": len(self.rows_with_injections()),
            "hostile_text": {
                kind: {name: self.injections[kind, name] for name in FIELDS}
                for kind in PATTERNS
                if any(self.injections[kind, name] for name in FIELDS)
            },
            "leaks": self._leak_facts(),
        }

    def rows_with_injections(self) -> np.ndarray:
        """Return the row numbers, counted from 0, of battles with injected text of any kind."""
        return np.unique(np.concatenate([np.zeros(0, dtype=int), *self.injected_rows]))

    def total_lengths(self) -> np.ndarray:
        """Return the number of characters of all three fields `[N]`."""
        return sum(np.concatenate(parts).astype(int) for parts in self.lengths.values())

    def _token_facts(self, parts: list[np.ndarray]) -> dict:
        counts = np.concatenate(parts)  # [N, 4]
        whole = np.sort(counts[:, 3])
        marks = np.unique(np.geomspace(max(1, whole[0]), max(2, whole[-1]), BINS).astype(int))
        return {
            "quantiles": {name: quantiles(counts[:, place]) for place, name in enumerate((*FIELDS, "whole prompt"))},
            "share_over": {str(total): float((whole > total).mean()) for total in TOTALS},
            "longer": {
                "tokens": marks.tolist(),
                "share": (1 - np.searchsorted(whole, marks, side="right") / len(whole)).tolist(),
            },
        }

    def _model_facts(self, verdicts: np.ndarray, prompt: np.ndarray) -> list[dict]:
        of_a, of_b = (np.concatenate(side) for side in self.sides)
        of_model = np.concatenate([of_a, of_b])
        of_the_other = np.where(verdicts < 0, verdicts, swap(np.arange(3))[verdicts])  # a's win is b's loss
        outcome = np.concatenate([verdicts, of_the_other])
        order = np.argsort(of_model, kind="stable")
        starts = np.searchsorted(of_model[order], np.arange(len(self.models) + 1))
        facts = []
        for name, number in self.models.items():
            rows = order[starts[number] : starts[number + 1]]
            mine, prompts = outcome[rows], prompt[rows % len(prompt)]
            counts = {key: int((mine == place).sum()) for place, key in enumerate(("wins", "losses", "ties"))}
            counts["unlabelled"] = int((mine < 0).sum())
            decided = (mine == 0) | (mine == 1)
            rate = win_rate(mine[decided] == 0, prompts[decided])
            facts.append({"model": name, "battles": len(rows), **counts, "win_rate": rate})
        return sorted(facts, key=lambda row: (-row["battles"], row["model"]))

    def _leak_facts(self) -> dict | None:
        if self.dealt is None:
            return None
        leaks = self.dealt.find_leaks(np.concatenate(self.folds), pa.chunked_array(self.ids))
        return {
            "first_turns_in_two_folds": leaks.first_turns,
            "rows_near_another_fold": int(leaks.leaking.sum()),
            "jaccard_similarity": NEAR_SIMILARITY,
            "different_prompts": leaks.prompts,
            "example_ids": [list(pair) for pair in leaks.pairs],
        }


def audit_battles(file: BattleFile, measures: dict[str, Callable] | None = None, progress=None) -> Tally:
    """
    Count all battles of a file.

    Args:
        file: the battles.
        measures: by name, a function from a table `[N]` of battles to token counts `[N, 4]` of the FIELDS and the
            whole prompt.
        progress: function called with the number of rows after each batch.
    """
    tally = Tally(file.columns, measures or {})
    for battles in file.batches():
        tally.add(battles)
        if progress:
            progress(battles.num_rows)
    return tally


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Compute the QUANTILES of values, by name."""
    return {f"{q:g}": float(value) for q, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}


def win_rate(won: np.ndarray, prompt: np.ndarray) -> dict | None:
    """
    Compute a share with its 95 % interval.

    Args:
        won: True for each battle that counts `[N]`.
        prompt: prompt number of each battle `[N]`.

    Returns:
        `{"value", "low", "high", "n"}`, without ends for fewer than LEAST_PROMPTS prompts; None without battles.
    """
    if not len(won):
        return None
    prompt = np.unique(prompt, return_inverse=True)[1]
    over, under = np.bincount(prompt, won), np.bincount(prompt).astype(float)
    low, high = share_interval(over, under) if len(under) >= LEAST_PROMPTS else (None, None)
    return {"value": float(won.mean()), "low": low, "high": high, "n": len(won)}


def _text(battles: pa.Table, name: str) -> pa.Array:
    return pc.binary_join(battles[name].combine_chunks(), "")


def _num(mask) -> int:
    return pc.sum(mask).as_py() or 0


def _counts(values) -> Counter:
    return Counter({row["values"]: row["counts"] for row in pc.value_counts(values).to_pylist()})


def _sort_counts(counter: Counter) -> dict[str, int]:
    """Sort counts by name: integers in their order, names by falling count; null is called "none" and is last."""
    rank = {
        value: value if isinstance(value, int) else (-count, value)
        for value, count in counter.items()
        if value is not None
    }
    named = {str(value): counter[value] for value in sorted(rank, key=rank.get)}
    return named | ({"none": counter[None]} if None in counter else {})


def _histogram(lengths: dict[str, np.ndarray]) -> dict:
    """Compute `{"edges": [BINS + 1], "counts": {field: [BINS]}}` of characters; empty texts are in the first bin."""
    longest = max(2, *(int(values.max()) for values in lengths.values()))
    edges = np.geomspace(1, longest, BINS + 1)
    edges[-1] = longest
    counts = {name: np.histogram(np.maximum(values, 1), edges)[0].tolist() for name, values in lengths.items()}
    return {"edges": edges.tolist(), "counts": counts}


def _symmetry(a: np.ndarray, b: np.ndarray) -> dict:
    """Compute the two-sample Kolmogorov-Smirnov distance between the lengths of A and B, and its p-value or None."""
    from scipy.stats import ks_2samp

    test = ks_2samp(a, b, method="asymp")
    known = np.isfinite(test.pvalue)  # not finite for a single battle
    return {"ks_distance": float(test.statistic), "p_value": float(test.pvalue) if known else None}
