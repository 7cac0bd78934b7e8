"""
Public benchmarks of judges, scored by their own rules.

A battle's part of the benchmark is its `source`, as `sft-judge import` fills it. What counts as right, which parts
make a section and what each weighs follow the benchmark's own code; intervals are ours.

rewardbench (https://github.com/allenai/reward-bench, rewardbench/constants.py, scripts/run_rm.py and
analysis/get_benchmark_results.py; Lambert et al. 2024, https://arxiv.org/abs/2403.13787): right is the chosen answer
more probable than the rejected one, equal is wrong, and a verdict of tie is none of its own. A section is the mean of
its parts by EXAMPLES, the score the mean of the sections, prior sets at half weight where they are there.

judgebench (https://github.com/ScalerLab/JudgeBench, run_judge.py and utils/metrics.py; Tan et al. 2024,
https://arxiv.org/abs/2410.12784): each order is a vote, +1 for the right answer, -1 for the wrong one, 0 for a tie;
right is a sum above 0. Sections and the score are shares of pairs.

autoj (https://github.com/GAIR-NLP/auto-j, codes/pairwise_eval.py; Li et al. 2023, https://arxiv.org/abs/2310.05470):
agreement, a battle is right if the verdict is people's in both orders. pandalm (https://github.com/WeOpenML/PandaLM;
Wang et al. 2023, https://arxiv.org/abs/2306.05087) and llmbar (https://github.com/princeton-nlp/LLMBar; Zeng et al.
2023, https://arxiv.org/abs/2310.07641): accuracy, the mean of the orders where there are two, in which an answer that
could not be read is wrong. These have no sections.
"""

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.evaluation.align import Aligned, JudgeRows, column
from sft_judge.evaluation.bootstrap import interval, resample, share
from sft_judge.evaluation.metrics import predicted_verdicts
from sft_judge.evaluation.reporting.html import Table
from sft_judge.evaluation.reporting.tables import percent

# Rows of each part, but for math-prm: its 447 weigh as much as the code. The official file has at times had the two
# numbers of xstest exchanged; XSTest has 250 prompts that should be answered.
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
SOURCES = {  # sections of JudgeBench by how the sources of their pairs begin
    "Knowledge": "mmlu-pro",
    "Reasoning": "livebench-reasoning",
    "Math": "livebench-math",
    "Coding": "livecodebench",
}


def right(name: str, judge: JudgeRows, verdicts: np.ndarray) -> np.ndarray:
    """How right the judge is on each battle [N], from 0 to 1, by the benchmark's rule; `verdicts` [N] are people's."""
    rows = np.arange(len(verdicts))
    if name in UNSECTIONED:
        both = predicted_verdicts(judge.orders)[rows, :, verdicts]
        return (both == 1).all(axis=1) if name == "autoj" else judge.chosen[rows, verdicts]
    if name == "rewardbench":
        return judge.probs[rows, verdicts] > judge.probs[rows, 1 - verdicts]
    votes = predicted_verdicts(judge.orders).sum(axis=1)  # [N, K]; none of an order that was not run
    return votes[rows, verdicts] > votes[rows, 1 - verdicts]


def section_of(name: str, part: str) -> str | None:
    """The section that a part belongs to, None where it is not of the benchmark."""
    if name in UNSECTIONED:
        return "all"
    if name == "rewardbench":
        return next((section for section, parts in EXAMPLES.items() if part in parts), None)
    return next((section for section, begin in SOURCES.items() if part.startswith(begin)), None)


def benchmark(name: str, aligned: Aligned, seed: int = 0) -> dict:
    """
    `{"name", "left_out", "missing", "judges": {judge: {"score", "sections", "parts", "ties"}}}`, with intervals.

    `left_out`: battles of other sources; `missing`: parts of which there is no battle, without which a score is not
    the benchmark's. Raises `InputError` where no battle is of it.
    """
    sources = [source or "" for source in column(aligned.battles, "source")]
    sections = {part: section_of(name, part) for part in dict.fromkeys(sources)}
    parts = [part for part, section in sections.items() if section]
    if not parts:
        raise InputError(
            f"No battle is of {name}: the sources are {', '.join(sorted(set(sources)))[:200]!r}. Import the "
            "benchmark's own files, whose rows say what they are part of."
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
        over = None if name == "rewardbench" else hits_and_rows[:, 0]  # a weighted mean is no share
        return interval(values, hits_and_rows[:, 1], over)

    return {
        "score": measured(score, list(masks)),
        "sections": {section: measured(values, members[section]) for section, values in scores.items()},
        "parts": {part: {"n": int(masks[part].sum()), "accuracy": share(sums, part, 0, 1)} for part in masks},
        "ties": int(judge.chosen[:, 2:].sum()),
    }


def _weight(name: str, section: str, part: str, drawn: np.ndarray) -> np.ndarray | float:
    """What a part weighs in its section: what the benchmark says, or the number of its pairs."""
    return float(EXAMPLES[section][part]) if name == "rewardbench" else drawn


def _mean(values: dict, weights: dict) -> np.ndarray:
    """The weighted mean over the keys of `weights`, draw by draw; a part of which nothing was drawn counts nothing."""
    stacked = np.stack([values[key] for key in weights])
    weighing = np.stack([np.broadcast_to(weight, stacked[0].shape) for weight in weights.values()])
    weighing = np.where(np.isnan(stacked), 0.0, weighing)
    with np.errstate(invalid="ignore"):
        return (np.nan_to_num(stacked) * weighing).sum(axis=0) / weighing.sum(axis=0)


def benchmark_table(scores: dict) -> Table:
    """Score, sections and parts, a column a judge."""
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
