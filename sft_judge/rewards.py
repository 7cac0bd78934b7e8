"""
A judge as a reward function and as a pairwise judge for TRL, in this process (`Judge`) or served (`JudgeClient`).

    from sft_judge import Judge
    from sft_judge.rewards import JudgeReward

    GRPOTrainer(model, reward_funcs=JudgeReward(Judge.load("runs/judge")), args=..., train_dataset=...)

A completion is compared with the other completions of the same prompt, or with the dataset's `reference`.
`compute_score` is for verl.
"""

import json

import numpy as np

from sft_judge.client import AsyncJudgeClient, JudgeClient
from sft_judge.core.errors import InputError
from sft_judge.data.candidates import make_group
from sft_judge.inference.contests import Entry, play_contests, rewards
from sft_judge.inference.judge import Judge, Judgement


def judge_battles(judge: Judge | JudgeClient, battles: list[dict], swap: str | None) -> list[Judgement]:
    """
    Judge battles with either kind of judge.

    Args:
        judge: a loaded judge, or a client of a server.
        battles: the battles.
        swap: `both` or `none`; by default the judge's own policy.

    Returns:
        The judgements, in the order of the battles.
    """
    if isinstance(judge, JudgeClient):
        fields = ("a", "b", "tie", "verdict", "swap_agreement")
        asked = [{name: row[name] for name in ("prompt", "response_a", "response_b")} for row in battles]
        answers = judge.judge(asked, swap)
        wrong = [answer["error"]["message"] for answer in answers if "error" in answer]
        if wrong:
            raise InputError(f"{len(wrong)} of {len(answers)} battles have no judgement: {wrong[0]}")
        return [Judgement(*(answer[name] for name in fields)) for answer in answers]
    texts = [[row[name] for row in battles] for name in ("prompt", "response_a", "response_b")]
    return judge.judge(*texts, swap=swap)


class JudgeReward:
    """
    Reward function `reward(prompts, completions, **columns) -> list[float]` for GRPO, RLOO and online DPO.

    The outcome of a completion against another is its calibrated probability to win plus half the probability of a
    tie; against an identical completion it is 0.5. The reward is the mean outcome against the other completions of the
    prompt in the batch or, if the dataset has a column `reference`, the outcome against this answer.

    Without `reference` the mean over a group is 0.5 by construction (0 with `log_odds`), so only rewards against a
    `reference` show whether a policy improves.

    Args:
        judge: a loaded judge, or a client of a server.
        swap: `both` or `none`; by default the judge's own policy.
        log_odds: use log(outcome / (1 - outcome)) instead of the outcome.
    """

    def __init__(self, judge: Judge | JudgeClient, swap: str | None = None, log_odds: bool = False):
        self.judge, self.swap, self.log_odds = judge, swap, log_odds

    def __call__(self, prompts: list, completions: list, reference: list | None = None, **columns) -> list[float]:
        """
        Compute the rewards.

        Args:
            prompts: texts or chats, as the trainer passes them.
            completions: a text or chat for each prompt.
            reference: an answer to compare with for each prompt, or None.
            columns: further columns of the dataset; not used.

        Raises:
            InputError: a prompt has a single completion in the batch, and there is no `reference`.
        """
        rows: dict[str, list[int]] = {}
        for row, prompt in enumerate(prompts):
            rows.setdefault(json.dumps([prompt, reference and reference[row]]), []).append(row)
        entries = []
        for members in rows.values():
            texts = [completions[row] for row in members] + ([reference[members[0]]] if reference else [])
            if len(texts) == 1:
                raise InputError(
                    "A prompt has a single completion in the batch, and nothing to compare it with. Set the batch "
                    "size per device to a multiple of num_generations, or add a column `reference` to the dataset."
                )
            group = make_group(prompts[members[0]], texts)
            group.has_reference = bool(reference)
            entries.append(Entry.of(group, "anchor" if reference else "round-robin"))
        play_contests(entries, lambda battles: judge_battles(self.judge, battles, self.swap))
        found = np.empty(len(prompts))
        for members, entry in zip(rows.values(), entries, strict=True):
            found[members] = rewards(entry, self.log_odds)
        return found.tolist()


class PairwiseJudge:
    """
    Pairwise judge with the interface that TRL had: `judge(prompts, completions) -> list[int]`.

    Args:
        judge: a loaded judge, or a client of a server.
    """

    def __init__(self, judge: Judge | JudgeClient):
        self._judge = judge

    def judge(self, prompts: list, completions: list[list], shuffle_order: bool = True) -> list[int]:
        """
        Judge pairs of completions.

        Args:
            prompts: texts or chats.
            completions: two completions for each prompt.
            shuffle_order: judge in both orders, which removes the position bias that a random order would average out.
                Otherwise only the given order is used.

        Returns:
            0 or 1 for the better completion of each pair, -1 if both are equally likely.
        """
        groups = [make_group(prompt, list(two)) for prompt, two in zip(prompts, completions, strict=True)]
        battles = [
            {"prompt": group.prompts, "response_a": group.responses[0], "response_b": group.responses[1]}
            for group in groups
        ]
        answers = judge_battles(self._judge, battles, "both" if shuffle_order else "none")
        return [-1 if answer.a == answer.b else int(answer.b > answer.a) for answer in answers]


async def compute_score(
    data_source,
    solution_str: str,
    ground_truth=None,
    extra_info: dict | None = None,
    *,
    url: str,
    api_key: str | None = None,
    timeout: float = 600,
    **others,
) -> float:
    """
    Return the reward of a rollout from a served judge: a reward function for verl.

    In verl's configuration, `reward.custom_reward_function` has the path `pkg://sft_judge.rewards`, the name
    `compute_score` and `reward_kwargs.url`, the server's URL. The server judges `--group-size` rollouts of a prompt
    together (verl's `rollout.n`).

    Args:
        data_source: the data set's name; not used.
        solution_str: the policy's response.
        ground_truth: not used.
        extra_info: the data set's `extra_info`, with `prompt` (a text or messages) or `question`, and optionally
            `reference`, an answer to compare with instead of the group.
        url: URL of the server.
        api_key: API key, or None.
        timeout: time limit in seconds, above the server's `--group-seconds`.
        others: further arguments of verl; not used.

    Returns:
        The reward, from 0 to 1.

    Raises:
        InputError: `extra_info` has no prompt.
    """
    facts = extra_info or {}
    prompt = facts.get("prompt") or facts.get("question")
    if not prompt:
        raise InputError(f"extra_info has {', '.join(facts) or 'nothing'}, expected `prompt` or `question`.")
    label = None if facts.get("reference") is None else {"reference": facts["reference"]}
    async with AsyncJudgeClient(url, api_key, timeout) as client:
        return await client.reward(prompt, solution_str, label)
