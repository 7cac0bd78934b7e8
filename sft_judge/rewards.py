"""
A judge as TRL's reward function and as its pairwise judge, in this process (`Judge`) or served (`JudgeClient`).

    from sft_judge import Judge
    from sft_judge.rewards import JudgeReward

    GRPOTrainer(model, reward_funcs=JudgeReward(Judge.load("runs/judge")), args=..., train_dataset=...)

A reward needs something to be better than: the other completions of the same prompt, or the dataset's `reference`.
"""

import json

import numpy as np

from sft_judge.client import JudgeClient
from sft_judge.core.errors import InputError
from sft_judge.data.candidates import make_group
from sft_judge.inference.judge import Judge, Judgement
from sft_judge.ranking.candidate_judging import Entry, play_contests

CLIP = 1e-4  # outcomes are kept this far from 0 and 1 before log-odds, which are then within 9.2


def judge_battles(judge: Judge | JudgeClient, battles: list[dict], swap: str | None) -> list[Judgement]:
    """Judgements of battles, in order, by either kind of judge."""
    if isinstance(judge, JudgeClient):
        fields = ("a", "b", "tie", "verdict", "swap_agreement")
        asked = [{name: row[name] for name in ("prompt", "response_a", "response_b")} for row in battles]
        return [Judgement(*(answer[name] for name in fields)) for answer in judge.judge(asked, swap)]
    texts = [[row[name] for row in battles] for name in ("prompt", "response_a", "response_b")]
    return judge.judge(*texts, swap=swap)


class JudgeReward:
    """
    `reward(prompts, completions, **columns) -> list[float]`, for GRPO, RLOO and online DPO.

    A completion's outcome against another is its calibrated probability to win plus half of that of a tie, 0.5 against
    a copy of itself. Its reward is the mean outcome against the other completions of its prompt in the batch, or, in a
    dataset with a column `reference`, the outcome against that answer. `log_odds`: of log(outcome / (1 - outcome)).

    The mean over a group is 0.5 by construction; whether a policy gets better shows against a `reference` alone.
    """

    def __init__(self, judge: Judge | JudgeClient, swap: str | None = None, log_odds: bool = False):
        self.judge, self.swap, self.log_odds = judge, swap, log_odds

    def __call__(self, prompts: list, completions: list, reference: list | None = None, **columns) -> list[float]:
        """Texts or chats, as the trainer has them. Raises `InputError` where nothing is there to compare with."""
        rows: dict[str, list[int]] = {}
        for row, prompt in enumerate(prompts):
            rows.setdefault(json.dumps([prompt, reference and reference[row]]), []).append(row)
        entries = []
        for members in rows.values():
            texts = [completions[row] for row in members] + ([reference[members[0]]] if reference else [])
            if len(texts) == 1:
                raise InputError(
                    "One completion of a prompt in the batch, and none to compare it with. Make the batch of a device "
                    "a multiple of num_generations, or give the dataset a column `reference`."
                )
            group = make_group(prompts[members[0]], texts)
            group.has_reference = bool(reference)
            entries.append(Entry.of(group, "anchor" if reference else "round-robin"))
        play_contests(entries, lambda battles: judge_battles(self.judge, battles, self.swap))
        rewards = np.empty(len(prompts))
        for members, entry in zip(rows.values(), entries, strict=True):
            rewards[members] = self._rewards(entry)
        return rewards.tolist()

    def _rewards(self, entry: Entry) -> np.ndarray:
        """The rewards of a group's completions [n]."""
        places = np.array(entry.places)
        table = entry.contest.outcomes()[np.ix_(places, places)]
        table[places[:, None] == places] = 0.5
        if self.log_odds:
            table = np.log(table.clip(CLIP, 1 - CLIP) / (1 - table).clip(CLIP, 1 - CLIP))
        if entry.group.has_reference:
            return table[:-1, -1]
        return (table.sum(axis=1) - np.diagonal(table)) / (len(table) - 1)


class PairwiseJudge:
    """What TRL called a pairwise judge, until it left the package: `judge(prompts, completions) -> list[int]`."""

    def __init__(self, judge: Judge | JudgeClient):
        self._judge = judge

    def judge(self, prompts: list, completions: list[list], shuffle_order: bool = True) -> list[int]:
        """
        0 or 1 for the better of each two completions, -1 where neither is more probable.

        `shuffle_order`: shown in both orders, which is what a random one was for; else in the order given alone.
        """
        groups = [make_group(prompt, list(two)) for prompt, two in zip(prompts, completions, strict=True)]
        battles = [
            {"prompt": group.prompts, "response_a": group.responses[0], "response_b": group.responses[1]}
            for group in groups
        ]
        answers = judge_battles(self._judge, battles, "both" if shuffle_order else "none")
        return [-1 if answer.a == answer.b else int(answer.b > answer.a) for answer in answers]
