"""
Measure recall and precision of `prepare --dedup near`: the table in docs/explanation/data-rules.md.

    python scripts/dedup_recall.py

Battles are made of random words with frequencies as in a language. Each battle has a copy, in which one word in twelve
(at least one) of the named part is replaced; in half of the copies the responses are exchanged. Each also has four
battles that are not copies: with twice as many words replaced, two other responses, one other response, or another
prompt. Recall is the share of copies that are dropped as duplicates of their original. Precision is the share of these
copies in all battles that are dropped.
"""

import argparse

import numpy as np
from scale import random_words

from sft_judge.data.preparing.duplicates import DuplicateIndex
from sft_judge.data.preparing.prompt_groups import PromptIndex

LENGTHS = ((8, 8), (12, 12), (12, 150), (100, 150), (1000, 150))  # words of a prompt and of a response
PARTS = {"prompt": (0,), "one response": (1,), "both responses": (1, 2), "all": (0, 1, 2)}
ONE_WORD_IN = 12


def change_words(text: list[str], draw: np.random.Generator, words: np.ndarray, times: int = 1) -> list[str]:
    """
    Replace one word in ONE_WORD_IN of a text, at least one.

    Args:
        text: words of the text.
        draw: random generator.
        words: vocabulary.
        times: factor on the number of words to replace.
    """
    text = list(text)
    for place in draw.choice(len(text), times * max(1, len(text) // ONE_WORD_IN), replace=False):
        text[place] = f"{draw.choice(words)}x"  # not in the vocabulary
    return text


def draw_battles(lengths: tuple[int, int], part: str, num: int, seed: int) -> list[list[list[str]]]:
    """
    Draw battles, then as many copies, then four times as many battles that are not copies.

    Args:
        lengths: words of a prompt and of a response.
        part: part that is changed in copies, of PARTS.
        num: number of battles.
        seed: seed of the draw.

    Returns:
        Each battle as three lists of words.
    """
    draw, words = np.random.default_rng(seed), random_words(0, 20_000)
    shares = 1 / (10 + np.arange(len(words)))  # Zipf's law

    def draw_texts(length: int) -> list[list[str]]:
        return draw.choice(words, (num, length), p=shares / shares.sum()).tolist()

    prompts, others = draw_texts(lengths[0]), draw_texts(lengths[0])
    a, b, c, d = (draw_texts(lengths[1]) for _ in range(4))
    battles = [list(texts) for texts in zip(prompts, a, b, strict=True)]
    copies, revised = (
        [
            [change_words(text, draw, words, times) if i in PARTS[part] else text for i, text in enumerate(texts)]
            for texts in battles
        ]
        for times in (1, 2)
    )
    copies = [[x, z, y] if draw.random() < 0.5 else [x, y, z] for x, y, z in copies]
    unlike = ((prompts, c, d), (prompts, a, d), (others, a, b))
    return battles + copies + revised + [list(texts) for three in unlike for texts in zip(*three, strict=True)]


def measure_recall(lengths: tuple[int, int], part: str, num: int, seed: int) -> tuple[float, float]:
    """
    Return recall and precision on the battles of `draw_battles`; precision is NaN if no battle is dropped.

    Args:
        lengths: words of a prompt and of a response.
        part: part that is changed in copies, of PARTS.
        num: number of battles.
        seed: seed of the draw.
    """
    battles = draw_battles(lengths, part, num, seed)
    names = ("prompt", "response_a", "response_b")
    rows = [{name: [" ".join(words)] for name, words in zip(names, texts, strict=True)} for texts in battles]
    prompts, duplicates = PromptIndex(), DuplicateIndex(near=True)
    prompts.add([row["prompt"] for row in rows])
    duplicates.add(rows)
    ids = np.array([f"{place:09}" for place in range(len(rows))], dtype=object)
    stays, _ = duplicates.find_representatives(*np.ones((2, len(rows)), dtype=bool), ids, prompts)
    found = (stays[num : 2 * num] == np.arange(num)).sum()
    left_out = (stays != np.arange(len(rows))).sum()
    return found / num, found / left_out if left_out else np.nan


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--battles", type=int, default=500, help="number of copies per seed (500)")
    parser.add_argument("--seeds", type=int, default=4, help="number of seeds: 0, 1, ... (4)")
    args = parser.parse_args()
    print("| words of prompt, response | changed: " + " | ".join(PARTS) + " |\n| --- |" + " --- |" * len(PARTS))
    for lengths in LENGTHS:
        found = [
            np.mean([measure_recall(lengths, part, args.battles, seed) for seed in range(args.seeds)], axis=0)
            for part in PARTS
        ]
        cells = " | ".join(f"{recall:.3f}, {precision:.3f}" for recall, precision in found)
        print(f"| {lengths[0]}, {lengths[1]} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
