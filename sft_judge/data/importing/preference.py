"""Preference data sets: a prompt, a chosen and a rejected response, as in TRL and RewardBench."""

from collections import Counter

from sft_judge.data.importing import conversation as turns
from sft_judge.data.importing.conversation import RowError
from sft_judge.data.importing.labels import CHOSEN_SCORES, Reading, row_scores, scored_verdict

SIDED = ("soft_a", "soft_b", "teacher_a", "teacher_b")  # shares of a and b, but the side of chosen is random


def preference_battle(row: dict, reading: Reading) -> dict:
    """
    Convert a row of TRL's preference data (standard or conversational, explicit or implicit prompt) or of RewardBench.

    A chat's shared history becomes part of both responses. Scores at most the tie margin apart become a tie.

    Args:
        row: the row.
        reading: settings and counters.

    Raises:
        RowError: the row cannot be a battle.
    """
    sided = next((name for name in SIDED if row.get(name) not in (None, "")), None)
    if sided:
        raise RowError(sided, "refers to a or b, but chosen and rejected are neither; give response_a and response_b")
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
    """Return (prompts, chosen, rejected), paired turn by turn."""
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
        raise RowError("rejected", "its prompts differ from those of chosen")
    return prompts, chosen, rejected


def whole_chat(history: list[tuple[str, str]], chat: list[tuple[str, str]], field: str) -> list[tuple[str, str]]:
    """
    Return a chat with the prompt's messages at its start, added unless the chat begins with them already.

    Args:
        history: messages of the prompt.
        chat: messages of the chat.
        field: field of the chat, for messages.

    Raises:
        RowError: the chat begins with a message that is neither the prompt's nor the assistant's.
    """
    spoken = [message for message in history if message[0] != "system"]
    if chat[: len(history)] == history:
        return chat
    if chat[: len(spoken)] == spoken:
        return [*(message for message in history if message[0] == "system"), *chat]
    if chat[0][0] != "assistant":
        raise RowError(field, f"begins with a message of the {chat[0][0]} that is not the prompt's")
    return [*history, *chat]


def shared_prompt(chosen: str, rejected: str) -> tuple[str, str, str]:
    """
    Split two texts with a common beginning into prompt and responses, like TRL's `extract_prompt` on characters.

    Args:
        chosen: prompt and chosen response.
        rejected: prompt and rejected response.
    """
    pairs = enumerate(zip(chosen, rejected, strict=False))
    end = next((place for place, (one, two) in pairs if one != two), min(len(chosen), len(rejected)))
    end -= end > 0 and chosen[end - 1] == " "
    if not end or not chosen[end:] or not rejected[end:]:
        raise RowError("chosen", "no prompt column, and no common beginning with rejected that could be the prompt")
    return chosen[:end], chosen[end:], rejected[end:]
