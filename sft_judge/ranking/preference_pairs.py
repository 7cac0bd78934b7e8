"""
Preference pairs for DPO from judged candidates: selection rules, and the card that documents them.

A pair's margin is the chosen answer's probability to win minus the rejected answer's.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.data.candidates import Message
from sft_judge.data.preparing.prompt_groups import text_hash
from sft_judge.inference.contests import Entry, exchange_judgement

TIE, DISAGREE, MARGIN = "verdict of tie", "orders that disagree", "margin too small"
PER_PROMPT, LENGTH = "not among the clearest of the prompt", "balance of length"


@dataclass
class Pair:
    """
    Two different responses of a group, with their probabilities to win.

    Attributes:
        entry: the group's contest.
        chosen: index of the chosen response in the group.
        rejected: index of the rejected response in the group.
        p_chosen: probability that the chosen response wins.
        p_rejected: probability that the rejected response wins.
        tied: the judge's verdict is a tie, or both probabilities are equal.
        agree: both orders gave the same verdict; None if only one order was shown.
    """

    entry: Entry
    chosen: int
    rejected: int
    p_chosen: float
    p_rejected: float
    tied: bool
    agree: bool | None

    @property
    def margin(self) -> float:
        """Return the margin, from 0 to 1."""
        return self.p_chosen - self.p_rejected

    @property
    def lot(self) -> int:
        """Return a hash that orders pairs of equal margin, independent of the order of rows."""
        group = self.entry.group
        return text_hash(json.dumps([group.prompts, group.responses[self.chosen], group.responses[self.rejected]]))

    @property
    def longer(self) -> int:
        """
        Return 1 if the chosen response has more characters, -1 if the rejected one has, 0 if they are equally long.
        """
        chosen, rejected = (sum(map(len, self.entry.group.responses[place])) for place in (self.chosen, self.rejected))
        return int(np.sign(chosen - rejected))


def judged_pairs(entry: Entry) -> list[Pair]:
    """Return all judged pairs of a group."""
    pairs = []
    for (one, two), judgement in entry.contest.judged.items():
        if judgement.b > judgement.a:
            one, two, judgement = two, one, exchange_judgement(judgement)
        places = entry.places.index(one), entry.places.index(two)
        tied = judgement.verdict == "tie" or judgement.a == judgement.b
        pairs.append(Pair(entry, *places, judgement.a, judgement.b, tied, judgement.swap_agreement))
    return pairs


@dataclass
class Rules:
    """
    Rules that select pairs, see `sft-judge preference-pairs --help`.

    Attributes:
        min_margin: minimum margin of a pair.
        max_per_prompt: maximum number of pairs of each prompt.
        both_orders: drop a pair if the two orders disagree.
        balance_length: keep as many pairs whose chosen response is longer as pairs whose rejected response is longer.
    """

    min_margin: float
    max_per_prompt: int
    both_orders: bool
    balance_length: bool

    def keep(self, groups: list[list[Pair]]) -> tuple[list[Pair], Counter]:
        """
        Select pairs of each prompt, and count the pairs dropped by each rule; the first rule that applies counts.
        """
        chosen, dropped = [], Counter(dict.fromkeys((TIE, DISAGREE, MARGIN, PER_PROMPT, LENGTH), 0))
        for pairs in groups:
            reasons = [self._reason(pair) for pair in pairs]
            dropped.update(reason for reason in reasons if reason)
            good = [pair for pair, reason in zip(pairs, reasons, strict=True) if reason is None]
            good.sort(key=lambda pair: -pair.margin)  # stable sort: equal margins keep their order
            chosen += good[: self.max_per_prompt]
            dropped[PER_PROMPT] += len(good[self.max_per_prompt :])
        if self.balance_length:
            balanced = balance(chosen)
            dropped[LENGTH] = len(chosen) - len(balanced)
            chosen = balanced
        assert len(chosen) + dropped.total() == sum(map(len, groups))
        return chosen, dropped

    def _reason(self, pair: Pair) -> str | None:
        if pair.tied:
            return TIE
        if self.both_orders and pair.agree is False:
            return DISAGREE
        return MARGIN if pair.margin < self.min_margin else None


def balance(pairs: list[Pair]) -> list[Pair]:
    """
    Drop the pairs of smallest margin from the larger side (chosen longer or shorter), so that both sides are equal.
    """
    longer = [pair for pair in pairs if pair.longer > 0]
    shorter = [pair for pair in pairs if pair.longer < 0]
    more, surplus = max(longer, shorter, key=len), abs(len(longer) - len(shorter))
    gone = {id(pair) for pair in sorted(more, key=lambda pair: (pair.margin, pair.lot))[:surplus]}
    return [pair for pair in pairs if id(pair) not in gone]


def pair_row(pair: Pair, conversational: bool) -> dict:
    """
    Build a row for TRL's preference trainers, with `id`, `p_chosen` and `p_rejected`.

    No column is named `margin`, because TRL's RewardTrainer would subtract it from the difference of the two rewards.

    Args:
        pair: the pair.
        conversational: use messages instead of plain text.
    """
    group = pair.entry.group
    parts = {"prompt": group.history, "chosen": group.answers[pair.chosen], "rejected": group.answers[pair.rejected]}
    form = _messages if conversational else _plain
    texts = {name: form(part, group.id) for name, part in parts.items()}
    return {"id": group.id, **texts, "p_chosen": pair.p_chosen, "p_rejected": pair.p_rejected}


def _messages(part: list[Message], id_: str) -> list[dict]:
    return [{"role": role, "content": text} for role, text in part]


def _plain(part: list[Message], id_: str) -> str:
    if len(part) != 1:
        raise InputError(f"{id_}: {len(part)} messages, which plain strings cannot hold. Give --conversational.")
    return part[0][1]


def figures(pairs: list[Pair]) -> dict:
    """
    Compute `mean_margin`, and `chosen_longer`: how often the chosen response is longer, among pairs of unequal length.
    """
    lengths = [pair.longer for pair in pairs if pair.longer]
    longer = float(np.mean(np.array(lengths) > 0)) if lengths else None
    return {"mean_margin": float(np.mean([pair.margin for pair in pairs])), "chosen_longer": longer}


def write_card(path: Path, result: dict) -> None:
    """
    Write the dataset card, a README for people.

    Args:
        path: file to write.
        result: entries of the manifest.
    """
    share = result["chosen_longer"]
    lines = [
        "# Preference pairs",
        "",
        f"`prompt`, `chosen`, `rejected` in TRL's {'conversational' if result['conversational'] else 'plain'} format, "
        f"chosen by the judge `{result['model']}` ({result['calibration']}; orders shown: "
        f"{result['swap']}). `p_chosen` "
        "and `p_rejected` are its probabilities that people prefer the chosen or the rejected answer; the rest is the "
        "probability of a tie.",
        "",
        "| | pairs |",
        "| --- | --- |",
        f"| prompts | {result['prompts']} |",
        f"| candidates, copies of others among them | {result['candidates']}, {result['copies']} |",
        f"| pairs judged | {result['judged']} |",
        *(f"| dropped: {what} | {count} |" for what, count in result["dropped"].items()),
        f"| pairs in the file | {result['rows']} |",
        "",
        f"Rules, in this order: {result['rules']}.",
        "",
        f"Mean margin (`p_chosen` minus `p_rejected`): {result['mean_margin']:.4f}. The chosen answer is longer in "
        + (
            f"{share:.1%} of the pairs of unequal length."
            if share is not None
            else "no pair: all are of equal length."
        ),
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
