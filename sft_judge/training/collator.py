"""Collate battles into one batch of token tensors; each order of a battle is a row of its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100


@dataclass
class VerdictCollator:
    """
    Collate B battles in V orders each into one batch of R = B * V rows.

    An example has `input_ids` [V][T] (prompt and verdict, for each order) and `targets` [V][K]. It may have `teacher`
    [V][N][K], `weight`, `margin`, and `row`, the number of the battle for error messages.

    Rows are padded on the right to [R, T]. If `padding_free`, they are concatenated to [1, sum of T] and separated by
    `position_ids`. `positions` [R] is the last prompt token of each row, which predicts the verdict; `labels` are set
    only at the verdict token after it. `targets` are [B, V, K], `teacher` [B, V, N, K] and the others [B], because
    accelerate counts B examples.

    Args:
        pad_token_id: id of the pad token.
        pad_to_multiple_of: pad the width to a multiple of this number.
        padding_free: concatenate the rows instead of padding them.

    >>> collator = VerdictCollator(pad_token_id=0)
    >>> examples = [{"input_ids": [[5, 6, 1], [7, 2]], "targets": [[1.0, 0.0], [0.0, 1.0]]}]
    >>> collator(examples)["labels"]
    tensor([[-100, -100,    1],
            [-100,    2, -100]])
    >>> VerdictCollator(0, padding_free=True)(examples)["position_ids"]
    tensor([[0, 1, 2, 0, 1]])
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None
    padding_free: bool = False

    def __call__(self, examples: list[dict]) -> dict[str, Tensor]:
        rows = [torch.as_tensor(ids) for example in examples for ids in example["input_ids"]]
        lengths = torch.tensor([len(ids) for ids in rows])
        batch = self._flatten(rows, lengths) if self.padding_free else self._pad(rows, lengths)
        for name in ("targets", "teacher", "margin"):
            if name in examples[0]:
                batch[name] = torch.tensor([example[name] for example in examples])
        batch["weight"] = torch.tensor([example.get("weight", 1.0) for example in examples])
        return batch | {"row": torch.tensor([example.get("row", -1) for example in examples])}

    def _pad(self, rows: list[Tensor], lengths: Tensor) -> dict[str, Tensor]:
        width = int(lengths.max())
        if self.pad_to_multiple_of:
            width += -width % self.pad_to_multiple_of
        input_ids = torch.full((len(rows), width), self.pad_token_id)
        for row, ids in enumerate(rows):
            input_ids[row, : len(ids)] = ids
        place = torch.arange(width)
        return {
            "input_ids": input_ids,
            "attention_mask": (place < lengths[:, None]).long(),
            "labels": torch.where(place == lengths[:, None] - 1, input_ids, IGNORED),
            "positions": lengths - 2,
        }

    def _flatten(self, rows: list[Tensor], lengths: Tensor) -> dict[str, Tensor]:
        input_ids, ends = torch.cat(rows)[None].long(), lengths.cumsum(0)
        labels = torch.full_like(input_ids, IGNORED)
        labels[0, ends - 1] = input_ids[0, ends - 1]
        position_ids = torch.cat([torch.arange(length) for length in lengths.tolist()])[None]
        return {"input_ids": input_ids, "position_ids": position_ids, "labels": labels, "positions": ends - 2}


def repeat_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """
    Repeat all rows of a batch's token tensors: below themselves, or behind themselves if the batch is padding-free.
    """
    flat = "attention_mask" not in batch
    shift = batch["input_ids"].shape[1] if flat else 0
    names = [name for name in ("input_ids", "attention_mask", "position_ids") if name in batch]
    tokens = {name: torch.cat([batch[name], batch[name]], dim=1 if flat else 0) for name in names}
    return tokens | {"positions": torch.cat([batch["positions"], batch["positions"] + shift])}
