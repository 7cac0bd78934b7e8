"""
Judged candidates to pairs for DPO: which are kept, which rule drops the others, and the card that says so.

A pair's margin is the chosen answer's probability to win less the rejected one's.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.data.candidates import Message
from sft_judge.data.preparing.prompt_groups import text_hash
from sft_judge.ranking.candidate_judging import Entry, exchange_judgement

TIE, DISAGREE, MARGIN = "verdict of tie", "orders that disagree", "margin too small"
PER_PROMPT, LENGTH = "not among the clearest of the prompt", "balance of length"


@dataclass
class Pair:
    """Two different responses of a group, by their place among its responses, with their probabilities to win."""

    entry: Entry
    chosen: int
    rejected: int
    p_chosen: float
    p_rejected: float
    tied: bool  # the judge's verdict is a tie, or neither is more probable
    agree: bool | None  # both orders gave one verdict; None where one alone was shown

    @property
    def margin(self) -> float:
        """0 to 1."""
        return self.p_chosen - self.p_rejected

    @property
    def lot(self) -> int:
        """A number that orders pairs of equal margin, whatever the order of rows."""
        group = self.entry.group
        return text_hash(json.dumps([group.prompts, group.responses[self.chosen], group.responses[self.rejected]]))

    @property
    def longer(self) -> int:
        """1 where the chosen response has more characters, -1 where the rejected one has, 0 where neither."""
        chosen, rejected = (sum(map(len, self.entry.group.responses[place])) for place in (self.chosen, self.rejected))
        return int(np.sign(chosen - rejected))


def judged_pairs(entry: Entry) -> list[Pair]:
    """All pairs that were judged in a group."""
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
    """Which pairs are kept, as `sft-judge preference-pairs --help` has it."""

    min_margin: float
    max_per_prompt: int
    both_orders: bool  # a pair on which the two orders disagree is dropped
    balance_length: bool  # as many pairs whose chosen response is longer as ones whose rejected response is

    def keep(self, groups: list[list[Pair]]) -> tuple[list[Pair], Counter]:
        """The pairs of each prompt that are kept, and how many each rule dropped, the first that applies."""
        chosen, dropped = [], Counter(dict.fromkeys((TIE, DISAGREE, MARGIN, PER_PROMPT, LENGTH), 0))
        for pairs in groups:
            reasons = [self._reason(pair) for pair in pairs]
            dropped.update(reason for reason in reasons if reason)
            good = [pair for pair, reason in zip(pairs, reasons, strict=True) if reason is None]
            good.sort(key=lambda pair: -pair.margin)  # stable: of equals those that the lot names first
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
    """Without the pairs of least margin on the side, chosen longer or shorter, that has more than the other."""
    longer = [pair for pair in pairs if pair.longer > 0]
    shorter = [pair for pair in pairs if pair.longer < 0]
    more, surplus = max(longer, shorter, key=len), abs(len(longer) - len(shorter))
    gone = {id(pair) for pair in sorted(more, key=lambda pair: (pair.margin, pair.lot))[:surplus]}
    return [pair for pair in pairs if id(pair) not in gone]


def pair_row(pair: Pair, conversational: bool) -> dict:
    """
    A row as TRL's preference trainers read it, with `id`, `p_chosen` and `p_rejected` besides.

    No column is called `margin`: TRL's RewardTrainer would take it from the difference of the two rewards.
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
    """`mean_margin`, and `chosen_longer`: the share of pairs of unequal length whose chosen response is the longer."""
    lengths = [pair.longer for pair in pairs if pair.longer]
    longer = float(np.mean(np.array(lengths) > 0)) if lengths else None
    return {"mean_margin": float(np.mean([pair.margin for pair in pairs])), "chosen_longer": longer}


def write_card(path: Path, result: dict) -> None:
    """What the file holds, for people. `result` is what the manifest says."""
    share = result["chosen_longer"]
    lines = [
        "# Preference pairs",
        "",
        f"`prompt`, `chosen`, `rejected` in TRL's {'conversational' if result['conversational'] else 'plain'} format, "
        f"chosen by the judge `{result['model']}` ({result['calibration']}; orders shown: "
        f"{result['swap']}). `p_chosen` "
        "and `p_rejected` are its probabilities that people prefer the one or the other; the rest is that of a tie.",
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
        f"Mean margin (`p_chosen` less `p_rejected`): {result['mean_margin']:.4f}. The chosen answer is the longer in "
        + (
            f"{share:.1%} of the pairs of unequal length."
            if share is not None
            else "no pair: all are of equal length."
        ),
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
