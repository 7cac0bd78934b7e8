"""What a ranking is by and what to mind about it, in sentences for the terminal and the page."""

from sft_judge.audit_page import visible
from sft_judge.bootstrap import FEW_PROMPTS
from sft_judge.evaluate.tables import number
from sft_judge.ranking.fit import PRIOR

MOST_NAMES = 10
BY = {"votes": "the votes", "judge": "a judge's probabilities", "both": "the votes and a judge's probabilities"}
LAW = {
    "bradley-terry": "Bradley-Terry, a tie is half a win of each",
    "davidson": "Davidson's model, a tie is a verdict of its own, and 400 points are odds of ten to one without ties",
}


def notes(ranking: dict, anchor: tuple[str, float] | None, said: list[str]) -> list[str]:
    """What it is by; `said` of the judges' calibration."""
    skipped = ", ".join(f"{count:,} {why}" for why, count in ranking["skipped"].items() if count)
    prompts = "one prompt" if ranking["prompts"] == 1 else f"{ranking['prompts']:,} prompts"
    counted = f"{ranking['battles']:,} of {ranking['rows']:,} battles over {prompts}"
    fixed = f"{visible(anchor[0])} is fixed at {anchor[1]:g}" if anchor else "the mean is 1000"
    found = [
        f"{counted}; skipped: {skipped}." if skipped else f"{counted}.",
        f"By {BY[ranking['from']]}. {LAW[ranking['method']]}. Elo's scale, {fixed}. In brackets: 95 % intervals, "
        "prompts resampled.",
        f"Each model has besides {PRIOR} battles with one of average strength that come out evenly, so that every "
        "rating is finite.",
        *said,
    ]
    if ranking["controls"]:
        equal = ", ".join(control["name"] for control in ranking["controls"])
        found.append(f"Held equal: {equal}. Ratings and predictions are of responses that are alike in it.")
    if ranking["from"] != "votes":
        found.append("That a judge may favour a model is in no interval: hold it against votes where there are any.")
    if ranking.get("reference", {}).get("spearman"):
        spearman, common = number(ranking["reference"]["spearman"], 3), ranking["reference"]["models"]
        found.append(f"Spearman's correlation with the reference: {spearman}, over {common} models.")
    return found


def caveats(ranking: dict, controls: list[str]) -> list[str]:
    """What to mind; `controls` are those that were asked for."""
    found = []
    if ranking["left_out"]:
        found.append(f"left out, as no battle connects them with the others: {names(ranking['left_out'])}")
    if ranking["unbounded"]:
        found.append(
            "won or lost all their battles with the others, so how far they are from these is not known: "
            + names(ranking["unbounded"])
        )
    if ranking["prompts"] == 1:
        found.append("all battles have one prompt, so there are no intervals, and no rank is certain")
    elif ranking["prompts"] < FEW_PROMPTS:
        found.append(f"{ranking['prompts']} prompts: intervals from so few are too narrow")
    unseen = [name for name in controls if name not in [control["name"] for control in ranking["controls"]]]
    if unseen:
        found.append(f"not held equal, as no two responses differ in it: {', '.join(unseen)}")
    if ranking.get("reference", {}).get("missing"):
        found.append(f"not in the reference: {names(ranking['reference']['missing'])}")
    return found


def names(models: list[str]) -> str:
    """Names in a sentence, the first MOST_NAMES."""
    more = f" and {len(models) - MOST_NAMES} more" if len(models) > MOST_NAMES else ""
    return ", ".join(visible(name) for name in sorted(models)[:MOST_NAMES]) + more
