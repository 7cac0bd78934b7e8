"""Preference sets: a prompt, a chosen response and a rejected one, as TRL and RewardBench have them."""

from collections import Counter

from sft_judge.data.importing import conversation as turns
from sft_judge.data.importing.conversation import RowError
from sft_judge.data.importing.labels import CHOSEN_SCORES, Reading, row_scores, scored_verdict

SIDED = ("soft_a", "soft_b", "teacher_a", "teacher_b")  # shares, which chosen and rejected on drawn sides would mix up


def preference_battle(row: dict, reading: Reading) -> dict:
    """
    TRL's preference data, plain or conversational, its prompt stated or shared; RewardBench's columns besides.

    A chat's shared history stands in both responses. Scores no further apart than the tie margin make a tie.
    """
    sided = next((name for name in SIDED if row.get(name) not in (None, "")), None)
    if sided:
        raise RowError(sided, "is of a or b, but chosen and rejected are neither; give response_a and response_b")
    prompts, chosen, rejected = _preference_turns(row, reading.mended)
    scores = row_scores(row, CHOSEN_SCORES)
    is_tie = scores is not None and scored_verdict(scores, reading.tie_margin) == "tie"
    reading.mended["chosen responses scored below the rejected"] += scores is not None and scores[0] < scores[1]
    first = reading.sides.chosen_is_a()
    sides = ("a", "b") if first else ("b", "a")
    battle = {"prompt": prompts, "verdict": "tie" if is_tie else sides[0]}
    for side, turns_, name in zip(sides, (chosen, rejected), ("chosen", "rejected"), strict=True):
        battle[f"response_{side}"] = turns_
        battle[f"model_{side}"] = row.get(f"{name}_model") or row.get(f"{name}-model")
    return battle


def _preference_turns(row: dict, mended: Counter) -> tuple[list[str], list[str], list[str]]:
    """(prompts, chosen, rejected), paired turn by turn."""
    stated = next((row[name] for name in ("prompt", "conversations") if row.get(name) is not None), None)
    chats = [turns.read_messages(row.get(name), name, mended) for name in ("chosen", "rejected")]
    if None in chats:
        texts = [turns.plain_turn(row.get(name), name, mended)[0] for name in ("chosen", "rejected")]
        chats = [turns.dialogue_messages(text) if stated is None else None for text in texts]
        if None in chats:
            stated, *texts = (stated, *texts) if stated is not None else shared_prompt(*texts)
            chats = [[("assistant", text)] for text in texts]
    history = []
    if stated is not None:
        history = turns.read_messages(stated, "prompt", mended)
        history = history or [("user", turns.plain_turn(stated, "prompt", mended)[0])]
    chats = [whole_chat(history, chat, name) for name, chat in zip(("chosen", "rejected"), chats, strict=True)]
    (prompts, chosen), (others, rejected) = (turns.pair_turns(chat, "chosen", mended) for chat in chats)
    if prompts != others:
        raise RowError("rejected", "its prompts are not those of chosen")
    return prompts, chosen, rejected


def whole_chat(history: list[tuple[str, str]], chat: list[tuple[str, str]], field: str) -> list[tuple[str, str]]:
    """A chat with the prompt's messages before it, unless it begins with them itself."""
    spoken = [message for message in history if message[0] != "system"]
    if chat[: len(history)] == history:
        return chat
    if chat[: len(spoken)] == spoken:
        return [*(message for message in history if message[0] == "system"), *chat]
    if chat[0][0] != "assistant":
        raise RowError(field, f"begins with a message of the {chat[0][0]} that is not the prompt's")
    return [*history, *chat]


def shared_prompt(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt and responses of two texts that begin with the same prompt: TRL's `extract_prompt`, on characters."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    end = next((place for place, (one, two) in pairs if one != two), min(len(chosen), len(rejected)))
    end -= end > 0 and chosen[end - 1] == " "
    if not end or not chosen[end:] or not rejected[end:]:
        raise RowError("chosen", "no prompt column, and no beginning shared with rejected that could be the prompt")
    return chosen[:end], chosen[end:], rejected[end:]
