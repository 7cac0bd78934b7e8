"""Provenance of the figures, and caveats about each probs file."""

from pathlib import Path

from sft_judge.core.files import content_hash
from sft_judge.core.manifest import git_commit
from sft_judge.core.version import __version__
from sft_judge.data.probs import Probs, describe_unfinished
from sft_judge.evaluation.align import Aligned, JudgeRows
from sft_judge.inference.calibrated import find_judge
from sft_judge.modeling.judge_spec import read_spec


def collect_judge_provenance(
    files: dict[str, Path], aligned: Aligned, battles: Path, truth: Path | None, fold: int | None, seed: int
) -> dict:
    """
    Collect hashes, versions, calibrations, and a `caveat` for each judge whose probs file is questionable.

    Args:
        files: probs file of each judge, by name.
        aligned: judges and battles on the same rows.
        battles: file of the battles.
        truth: file of the true probabilities, if any.
        fold: the evaluated fold, if any.
        seed: seed of the bootstrap.
    """
    battles_hash, judges = content_hash(battles), {}
    for name, path in files.items():
        judge = aligned.judges[name]
        metadata = judge.source.metadata
        entry = {"probs": str(path), "sha256": content_hash(path), "calibration": judge.calibrated.reason}
        entry |= {key: metadata[key] for key in ("model", "engine", "versions", "folds") if metadata.get(key)}
        caveats = _caveats(judge, battles_hash, fold)
        judges[name] = entry | ({"caveat": "; ".join(caveats)} if caveats else {})
    provenance = {"sft_judge": f"{__version__}, commit {git_commit() or 'unknown'}", "battles": str(battles)}
    provenance |= {"battles sha256": battles_hash, "seed": seed}
    provenance |= {"truth": f"{truth}, sha256 {content_hash(truth)}"} if truth else {}
    return provenance | {"judges": judges}


def _caveats(judge: JudgeRows, battles_hash: str, fold: int | None) -> list[str]:
    metadata, notes = judge.source.metadata, []
    if not metadata:
        notes.append("no metadata: the model that made it and its battles are unknown")
    elif metadata.get("battles_sha256") not in (None, battles_hash):
        notes.append("predicted from another file of battles with these ids")
    elif _learnt_in_sample(judge.source):
        notes.append("its teachers' labels are not proven out of fold")
    if _fitted_here(judge.calibrated.calibration, battles_hash, fold):
        notes.append("its calibration was fitted on these very battles")
    left = None if judge.says_verdicts else describe_unfinished(judge.calibrated.orders)
    return notes + ([left] if left else [])


def _fitted_here(calibration: dict | None, battles_hash: str, fold: int | None) -> bool:
    if not calibration or calibration.get("battles_sha256") != battles_hash:
        return False
    return None in (fold, calibration.get("fold")) or fold == calibration["fold"]


def _learnt_in_sample(probs: Probs) -> bool:
    folder = find_judge(probs.metadata, probs.path)
    recipe = read_spec(folder).training.get("recipe", {}) if folder else {}
    return bool(recipe.get("labels") and recipe.get("allow_in_sample"))
