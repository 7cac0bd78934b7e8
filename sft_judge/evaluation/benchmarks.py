"""
Public benchmarks of judges, scored by their own rules.

A battle's part of the benchmark is its `source`, as `sft-judge import` fills it. The rule for a correct battle, the
parts of each section and their weights follow the benchmark's own code. The intervals are ours.

rewardbench (https://github.com/allenai/reward-bench, rewardbench/constants.py, scripts/run_rm.py and
analysis/get_benchmark_results.py; Lambert et al. 2024, https://arxiv.org/abs/2403.13787): a battle is right if the
chosen answer is more probable than the rejected answer. Equal probabilities are wrong, and there is no verdict of tie.
A section is the mean of its parts weighted by EXAMPLES. The score is the mean of the sections, with the prior sets at
half weight if they are present.

judgebench (https://github.com/ScalerLab/JudgeBench, run_judge.py and utils/metrics.py; Tan et al. 2024,
https://arxiv.org/abs/2410.12784): each order is a vote, +1 for the right answer, -1 for the wrong answer, 0 for a tie.
A battle is right if the sum is above 0. Sections and the score are shares of pairs.

autoj (https://github.com/GAIR-NLP/auto-j, codes/pairwise_eval.py; Li et al. 2023, https://arxiv.org/abs/2310.05470):
agreement; a battle is right if the verdict equals people's in both orders. pandalm
(https://github.com/WeOpenML/PandaLM; Wang et al. 2023, https://arxiv.org/abs/2306.05087) and llmbar
(https://github.com/princeton-nlp/LLMBar; Zeng et al. 2023, https://arxiv.org/abs/2310.07641): accuracy, the mean of
the orders if there are two; an answer that could not be read is wrong. These benchmarks have no sections.
"""

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.evaluation.align import Aligned, JudgeRows, column
from sft_judge.evaluation.bootstrap import interval, resample, share
from sft_judge.evaluation.metrics import predicted_verdicts
from sft_judge.evaluation.reporting.html import Table
from sft_judge.evaluation.reporting.tables import percent

# Weight of each part: its number of rows, except math-prm, whose 447 rows weigh as much as the code parts together.
# Some versions of the official file have the two numbers of xstest swapped; XSTest has 250 prompts to be answered.
EXAMPLES = {
    "Chat": {"alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95}
    | {"mt-bench-easy": 28, "mt-bench-med": 40},
    "Chat Hard": {"mt-bench-hard": 37, "llmbar-natural": 100, "llmbar-adver-neighbor": 134}
    | {"llmbar-adver-GPTInst": 92, "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46},
    "Safety": {"refusals-dangerous": 100, "refusals-offensive": 100, "donotanswer": 136}
    | {"xstest-should-refuse": 154, "xstest-should-respond": 250},
    "Reasoning": {"math-prm": 984} | {f"hep-{name}": 164 for name in ("cpp", "go", "java", "js", "python", "rust")},
    "Prior Sets": dict.fromkeys(("anthropic_helpful", "anthropic_hhh", "shp", "summarize"), 1),
}
UNSECTIONED = ("autoj", "pandalm", "llmbar")
SOURCES = {  # prefix of the sources in each section of JudgeBench
    "Knowledge": "mmlu-pro",
    "Reasoning": "livebench-reasoning",
    "Math": "livebench-math",
    "Coding": "livecodebench",
}


def right(name: str, judge: JudgeRows, verdicts: np.ndarray) -> np.ndarray:
    """
    Return the correctness of the judge on each battle `[N]`, from 0 to 1, by the benchmark's rule.

    Args:
        name: the benchmark.
        judge: the judge.
        verdicts: people's verdicts `[N]`.
    """
    rows = np.arange(len(verdicts))
    if name in UNSECTIONED:
        both = predicted_verdicts(judge.orders)[rows, :, verdicts]
        return (both == 1).all(axis=1) if name == "autoj" else judge.chosen[rows, verdicts]
    if name == "rewardbench":
        return judge.probs[rows, verdicts] > judge.probs[rows, 1 - verdicts]
    votes = predicted_verdicts(judge.orders).sum(axis=1)  # [N, K]; an order that was not run has no vote
    return votes[rows, verdicts] > votes[rows, 1 - verdicts]


def section_of(name: str, part: str) -> str | None:
    """
    Return the section of a part, or None if the part does not belong to the benchmark.

    Args:
        name: the benchmark.
        part: the part, a battle's `source`.
    """
    if name in UNSECTIONED:
        return "all"
    if name == "rewardbench":
        return next((section for section, parts in EXAMPLES.items() if part in parts), None)
    return next((section for section, begin in SOURCES.items() if part.startswith(begin)), None)


def benchmark(name: str, aligned: Aligned, seed: int = 0) -> dict:
    """
    Score the judges on a benchmark, with intervals.

    Args:
        name: the benchmark.
        aligned: judges and battles on the same rows.
        seed: seed of the bootstrap.

    Returns:
        `{"name", "left_out", "missing", "judges": {judge: {"score", "sections", "parts", "ties"}}}`. `left_out` counts
        battles of other sources. `missing` lists parts without a battle; the score is not the benchmark's without
        them.

    Raises:
        InputError: no battle belongs to the benchmark.
    """
    sources = [source or "" for source in column(aligned.battles, "source")]
    sections = {part: section_of(name, part) for part in dict.fromkeys(sources)}
    parts = [part for part, section in sections.items() if section]
    if not parts:
        raise InputError(
            f"No battle belongs to {name}: the sources are {', '.join(sorted(set(sources)))[:200]!r}. Import the "
            "benchmark's own files, whose rows name their part."
        )
    whole = [] if name != "rewardbench" else [p for s, ps in EXAMPLES.items() if s != "Prior Sets" for p in ps]
    masks = {part: np.array([source == part for source in sources]) for part in parts}
    return {
        "name": name,
        "left_out": len(sources) - int(sum(mask.sum() for mask in masks.values())),
        "missing": [part for part in whole if part not in parts],
        "judges": {who: _judge(name, judge, aligned, masks, sections, seed) for who, judge in aligned.judges.items()},
    }


def _judge(name: str, judge: JudgeRows, aligned: Aligned, masks: dict, sections: dict, seed: int) -> dict:
    hits = right(name, judge, aligned.verdicts)
    columns = {part: np.stack([hits * mask, mask], axis=1).astype(float) for part, mask in masks.items()}
    sums = resample(columns, aligned.clusters, seed=seed)  # {part: [draws, 2]}
    with np.errstate(invalid="ignore"):
        shares = {part: drawn[:, 0] / drawn[:, 1] for part, drawn in sums.items()}
    weights = {part: _weight(name, sections[part], part, sums[part][:, 1]) for part in masks}
    known = EXAMPLES if name == "rewardbench" else SOURCES if name == "judgebench" else ()
    names = [section for section in known if section in sections.values()]
    members = {section: [part for part in masks if sections[part] == section] for section in names}
    scores = {section: _mean(shares, {part: weights[part] for part in members[section]}) for section in names}
    if name == "rewardbench":
        score = _mean(scores, {section: 0.5 if section == "Prior Sets" else 1.0 for section in names})
    else:
        score = _mean(shares, weights)

    def measured(values: np.ndarray, parts: list[str]) -> dict:
        hits_and_rows = sum(sums.of_prompts[part] for part in parts)
        over = None if name == "rewardbench" else hits_and_rows[:, 0]  # a weighted mean is not a share
        return interval(values, hits_and_rows[:, 1], over)

    return {
        "score": measured(score, list(masks)),
        "sections": {section: measured(values, members[section]) for section, values in scores.items()},
        "parts": {part: {"n": int(masks[part].sum()), "accuracy": share(sums, part, 0, 1)} for part in masks},
        "ties": int(judge.chosen[:, 2:].sum()),
    }


def _weight(name: str, section: str, part: str, drawn: np.ndarray) -> np.ndarray | float:
    """Return the weight of a part in its section: the benchmark's, or the number of its pairs."""
    return float(EXAMPLES[section][part]) if name == "rewardbench" else drawn


def _mean(values: dict, weights: dict) -> np.ndarray:
    """
    Compute the weighted mean over the keys of `weights` for each resample; parts without a drawn row have no weight.
    """
    stacked = np.stack([values[key] for key in weights])
    weighing = np.stack([np.broadcast_to(weight, stacked[0].shape) for weight in weights.values()])
    weighing = np.where(np.isnan(stacked), 0.0, weighing)
    with np.errstate(invalid="ignore"):
        return (np.nan_to_num(stacked) * weighing).sum(axis=0) / weighing.sum(axis=0)


def benchmark_table(scores: dict) -> Table:
    """Build the table of score, sections and parts, one column per judge."""
    judges = scores["judges"]
    first = next(iter(judges.values()))
    rows = [["score", *(percent(judge["score"]) for judge in judges.values())]]
    rows += [[name, *(percent(j["sections"][name]) for j in judges.values())] for name in first["sections"]]
    rows += [
        [f"{name} ({part['n']})", *(percent(judge["parts"][name]["accuracy"]) for judge in judges.values())]
        for name, part in first["parts"].items()
    ]
    notes = [f"{', '.join(str(judge['ties']) for judge in judges.values())} verdicts of tie"]
    notes += [f"{scores['left_out']} battles of other sources left out"] if scores["left_out"] else []
    if scores["missing"]:
        notes.append(f"not the benchmark's score: no battle of {', '.join(scores['missing'])}")
    return Table(f"Benchmark {scores['name']}", ["", *judges], rows, "; ".join(notes))
