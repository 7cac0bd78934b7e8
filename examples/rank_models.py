"""
Rank models by people's votes on their answers, with confidence intervals.

    python examples/rank_models.py votes.parquet

Battles need `model_a` and `model_b`; `sft-judge import` reads Chatbot Arena's files. The command `sft-judge rank` does
the same, writes an HTML report with plots, and can also rank by a judge.
"""

import sys
from pathlib import Path

from sft_judge.data.battles import open_battles
from sft_judge.ranking.comparisons import read_contests
from sft_judge.ranking.ratings import rate_models, split_off


def main():
    contests, left_out = split_off(read_contests(open_battles(Path(sys.argv[1]))))
    ranking = rate_models(contests, "bradley-terry")
    for model in ranking["models"]:
        value, low, high = (model["rating"][name] for name in ("value", "low", "high"))
        known = "unknown" if value is None else f"{value:6.0f}"
        interval = "" if low is None else f"  [{low:.0f}, {high:.0f}]"
        print(f"{model['model']:<30} {known}{interval}  {model['battles']:,.0f} battles")
    for group in left_out:
        print(f"no battles against the other models: {', '.join(group)}")


if __name__ == "__main__":
    main()
