"""
Judging of groups of candidates round by round with one start of the engine, resumable after a kill.

Finished blocks of each round are stored next to the output. The battles of a later round follow from the judgements of
earlier rounds, so the same command finds the stored blocks again.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sft_judge.core.files import partial_path
from sft_judge.core.progress import Progress
from sft_judge.data.candidates import Group
from sft_judge.data.preparing.language import with_languages
from sft_judge.data.preparing.prompt_groups import text_hash
from sft_judge.inference.engines import usable_engines
from sft_judge.inference.judge import Judge, Judgement, judgements
from sft_judge.inference.scoring import orders_of, score_battles
from sft_judge.inference.shards import Work, add_runtime, blocks
from sft_judge.inference.unscored import class_frequencies, is_finite
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.ranking.tournaments import Contest, default_method, num_battles

logger = logging.getLogger(__name__)


@dataclass
class Entry:
    """
    A group's contest among its distinct responses.

    Distinct texts are numbered in random order, by a hash of the seed, the prompt and the text, whatever the order of
    rows and responses.

    Attributes:
        group: the group.
        contest: its contest.
        texts: the distinct responses `[num]`.
        places: index of each response `[n]` into `texts`.
    """

    group: Group
    contest: Contest
    texts: list[list[str]]
    places: list[int]

    @classmethod
    def of(cls, group: Group, method: str | None, seed: int = 0) -> "Entry":
        """
        Enter a group; the anchor is its reference if there is one, otherwise a random candidate.

        Args:
            group: the group.
            method: round-robin, anchor or knockout; None selects the default.
            seed: seed of the random order.
        """
        texts, places = group.distinct()
        lots = [text_hash(json.dumps([seed, group.prompts, text])) for text in texts]
        order = sorted(range(len(texts)), key=lots.__getitem__)
        texts, places = [texts[one] for one in order], [order.index(one) for one in places]
        anchor = places[-1] if group.has_reference else 0
        return cls(group, Contest(len(texts), method or default_method(len(texts)), anchor), texts, places)

    @property
    def num_battles(self) -> int:
        """Return the number of battles that the contest needs."""
        return num_battles(self.contest.method, self.contest.num)

    def battle(self, pair: tuple[int, int]) -> dict:
        """Return the battle of a pair, its two responses in the order of `shown_pair`."""
        one, two = (self.texts[place] for place in shown_pair(pair))
        group = self.group
        return {"prompt": group.prompts, "response_a": one, "response_b": two, "language": group.language}


def shown_pair(pair: tuple[int, int]) -> tuple[int, int]:
    """
    Return the pair in the order (response_a, response_b).

    In a round robin every candidate is response_a about half of the time, which matters if only one order is judged.
    """
    return pair if sum(pair) % 2 else pair[::-1]


def exchange_judgement(judgement: Judgement) -> Judgement:
    """Return the judgement with a and b swapped."""
    names = {"a": "b", "b": "a", "tie": "tie"}
    return replace(judgement, a=judgement.b, b=judgement.a, verdict=names[judgement.verdict])


class PairJudge:
    """
    Judge that keeps its judgements on disk; its engine starts at the first battle that is not judged yet.

    Args:
        model: judge folder.
        engine: engine that runs the judge.
        dtype: dtype of the weights.
        swap: orders to show; None uses the judge's own setting.
        work: store of finished blocks.
    """

    def __init__(self, model: str, engine: str, dtype: str, swap: str | None, work: Work):
        self.spec = read_spec(model)
        self.swap = swap or self.spec.swap
        self.orders = orders_of(self.swap)
        self.kept, self.calls = 0, 0  # engine calls kept from an earlier run, and made: one battle in one order each
        self._settings, self._work, self._judge, self._round = (model, engine, dtype), work, None, 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._judge is not None:
            self._judge.__exit__(*error)

    def judge(self, battles: list[dict]) -> list[Judgement]:
        """Judge one round's battles and return calibrated judgements in order."""
        scores, battles = [], with_languages(battles) if self.spec.language else battles
        with Progress(f"judge, round {self._round + 1}", len(battles), "battles") as progress:
            for place in blocks(len(battles)):
                file, rows = self._work.block(self._round, place), battles[place]
                if file.is_file():
                    self.kept += len(rows) * len(self.orders)
                else:
                    self._work.save(self._round, place, self._score(rows))
                scores.append(np.load(file))
                progress.add(len(rows))
        self._round += 1
        return judgements(np.concatenate(scores), self.spec, [battle["language"] for battle in battles])

    def _score(self, rows: list[dict]) -> np.ndarray:
        if self._judge is None:
            self._judge = Judge.load(*self._settings)
        self.calls += len(rows) * len(self.orders)
        scores = score_battles(self._judge.engine, self._judge.prompt, rows, self.orders)
        frequencies, _ = class_frequencies(self.spec, symmetric=True)
        return np.where(is_finite(scores).all(axis=1)[:, None, None], scores, np.log(frequencies))


def play_contests(entries: list[Entry], judge: Callable[[list[dict]], list[Judgement]]) -> None:
    """
    Judge all battles that the contests need, round by round.

    Args:
        entries: the contests.
        judge: function from battles to judgements.
    """
    while due := [(entry, pair) for entry in entries for pair in entry.contest.due()]:
        answers = judge([entry.battle(pair) for entry, pair in due])
        for (entry, pair), answer in zip(due, answers, strict=True):
            entry.contest.judged[pair] = answer if shown_pair(pair) == pair else exchange_judgement(answer)


def judge_entries(args, stamp: str, entries: list[Entry]) -> tuple[PairJudge, Work]:
    """
    Play the contests with a stage's arguments, and log the work before and after.

    The finished blocks stay on disk. The stage removes them once its output is written.

    Args:
        args: arguments of the stage.
        stamp: fingerprint of what the judgements depend on.
        entries: the contests.
    """
    engine = usable_engines(str(args.model))[-1] if args.engine == "auto" else args.engine
    work = Work(partial_path(args.output).with_suffix(".judged.partial"), add_runtime(stamp, engine))
    with PairJudge(str(args.model), engine, args.dtype, args.swap, work) as judge:
        battles = sum(entry.num_battles for entry in entries)
        methods = Counter(entry.contest.method for entry in entries).items()
        copies = sum(len(entry.places) - len(entry.texts) for entry in entries)
        logger.info(
            f"{len(entries)} prompts: {', '.join(f'{name} for {count}' for name, count in methods)}; {copies} "
            f"candidates are copies; {battles} battles, {battles * len(judge.orders)} calls (swap {judge.swap})"
        )
        play_contests(entries, judge.judge)
        kept_note = f", {judge.kept} more kept from an earlier run" if judge.kept else ""
        logger.info(f"{judge.calls} calls made{kept_note}")
        return judge, work
