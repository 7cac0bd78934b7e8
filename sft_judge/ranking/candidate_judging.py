"""
Judging of groups of candidates round by round with one start of the engine, resumable after a kill.

Finished blocks of each round are stored next to the output. The battles of a later round follow from the judgements of
earlier rounds, so the same command finds the stored blocks again.
"""

import logging
from collections import Counter

import numpy as np

from sft_judge.core.files import partial_path
from sft_judge.core.progress import Progress
from sft_judge.data.preparing.language import with_languages
from sft_judge.inference.contests import Entry, play_contests
from sft_judge.inference.engines import usable_engines
from sft_judge.inference.judge import Judge, Judgement, judgements
from sft_judge.inference.scoring import orders_of, score_battles
from sft_judge.inference.shards import Work, add_runtime, blocks
from sft_judge.inference.unscored import class_frequencies, is_finite
from sft_judge.modeling.judge_spec import read_spec

logger = logging.getLogger(__name__)


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
