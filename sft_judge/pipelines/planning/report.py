"""What a pipeline will take, on the terminal: a line a step, folds and seeds together, and the total."""

from pathlib import Path

from sft_judge.evaluation.reporting.html import Table
from sft_judge.evaluation.reporting.tables import print_table
from sft_judge.pipelines.pipeline import Declared, Step
from sft_judge.pipelines.planning.pipeline_cost import Piece, Road, together
from sft_judge.pipelines.planning.training_cost import GPUS, UTILISATION, hours

COLUMNS = ["step", "million tokens", "PFLOP a GPU", "held by", "hours there", "GB on disk", "from"]


def print_road(to_do: list[Step], steps: list[Step], declared: dict[Path, Declared], num_gpus: int) -> None:
    """The table of what the steps `to_do` of all will take, and their total."""
    road = Road(steps, declared, num_gpus)
    pieces = _by_name([piece for piece in map(road.piece, to_do) if piece.flops or piece.disk or piece.said])
    if not pieces:
        return
    print_table(Table("Cost", COLUMNS, [_row(piece) for piece in pieces]))
    print("\n".join(total_lines(pieces, num_gpus)))


def total_lines(pieces: list[Piece], num_gpus: int) -> list[str]:
    """The sums in words, and what they leave out."""
    held = [piece for piece in pieces if piece.flops and piece.gpus]
    lines = [
        f"total: {sum(each.tokens for each in pieces):,} tokens, {sum(each.disk for each in pieces) / 1e9:,.1f} GB "
        "written, beside checkpoints, which go when a training ends"
    ]
    kinds = [gpu for gpu in GPUS if all(gpu in piece.gpus for piece in held)]
    shown = ", ".join(f"{gpu} {sum(hours(piece.flops, gpu) for piece in held):,.1f} h" for gpu in kinds)
    trained = f"trainings on {num_gpus} GPUs each, all else on one" if num_gpus > 1 else "on one GPU"
    if held:
        rate = f"an estimate: FLOPs at {UTILISATION:.0%} of the published rate, {trained}, one step after the other"
        lines.append(f"time, {rate}: {shown or 'no one kind of GPU holds all steps'}")
    homeless = [piece.name for piece in pieces if piece.flops and not piece.gpus]
    if homeless:
        lines.append(f"not in the time, as none of {', '.join(GPUS)} holds it: {', '.join(homeless)}")
    unknown = [f"{piece.name} ({piece.said})" for piece in pieces if piece.said.startswith("not known")]
    lines += [f"not in the total: {', '.join(unknown)}"] if unknown else []
    if any("declared" in piece.said for piece in pieces):
        lines.append(
            "declared: the battles are not there yet, and rows and tokens are those that the pipeline declares"
        )
    lines.append("held: trainings at their peak, with rows as long as the budget; all else by the weights alone")
    return [*lines, "not estimated: work of the CPU (import, prepare, merge, evaluate, ...) and `verify`"]


def _by_name(pieces: list[Piece]) -> list[Piece]:
    """Folds and seeds of a step in one line."""
    names = dict.fromkeys(piece.name for piece in pieces)
    return [together([piece for piece in pieces if piece.name == name]) for name in names]


def _row(piece: Piece) -> list[str]:
    held = least = ""
    if piece.flops or not piece.gpus:
        held = piece.gpus[0] if piece.gpus else "none"
    if piece.flops and piece.gpus:
        least = f"{hours(piece.flops, held):,.1f}"
    name = piece.name if piece.runs == 1 else f"{piece.name}, {piece.runs} runs"
    tokens, flops, disk = piece.tokens / 1e6, piece.flops / 1e15, piece.disk / 1e9
    figures = [f"{tokens:,.1f}" if tokens else "", f"{flops:,.0f}" if flops else ""]
    return [name, *figures, held, least, f"{disk:,.2f}" if disk else "", piece.said]
