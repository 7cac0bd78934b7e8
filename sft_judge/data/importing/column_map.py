"""
Column maps: `--map prompt=instruction+input,response_a=response1,verdict=label:0=a,1=b`.

Several columns of a text are joined by an empty line, without empty ones. Several columns of a verdict are votes. A
map may also be a YAML file with the same fields, or the name of a ready map (READY). A field that battles do not have,
such as `domain=topic`, becomes a slice for reports.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

from sft_judge.core.errors import InputError, nearest
from sft_judge.core.files import load_yaml
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import FIELDS, OPTIONAL
from sft_judge.data.columns import SOFT
from sft_judge.data.importing import conversation as turns

TARGETS = ("id", *FIELDS, "verdict", *(name for name in OPTIONAL if name not in (*SOFT, "tie_kind", "fold", "slices")))
READY = {
    # human-annotated test set, 0 is a tie (Wang et al. 2023, https://github.com/WeOpenML/PandaLM)
    "pandalm": "prompt=instruction+input,response_a=response1,response_b=response2,"
    "verdict=annotator1+annotator2+annotator3:0=tie,1=a,2=b",
    # pairwise test set, 2 is a tie (Li et al. 2023, https://github.com/GAIR-NLP/auto-j)
    "autoj": "prompt=prompt,response_a=response 1,response_b=response 2,verdict=label:0=a,1=b,2=tie",
    # no ties (Zeng et al. 2023, https://github.com/princeton-nlp/LLMBar)
    "llmbar": "prompt=input,response_a=output_1,response_b=output_2,verdict=label:1=a,2=b",
}
EMPTY = "rows whose verdict columns are empty, kept without a verdict"
NONE = "none"  # a verdict value that means no verdict
_FORM = "expected FIELD=COLUMN[+COLUMN...], for the verdict with :VALUE=a,VALUE=b,..."


@dataclass(frozen=True)
class ColumnMap:
    """
    Map of columns to the fields of a battle.

    Attributes:
        columns: columns of each field.
        verdicts: verdict of each value of the verdict's columns.
    """

    columns: dict[str, list[str]]
    verdicts: dict[str, str]

    def check(self, where, known: list[str]) -> None:
        """
        Check that a file has all mapped columns.

        Args:
            where: the file, for messages.
            known: its columns.

        Raises:
            InputError: a mapped column is missing.
        """
        for field, names in self.columns.items():
            for name in names:
                if name not in known:
                    shown = ", ".join(map(str, known))[:200]
                    raise InputError(
                        f"{where}: --map takes {field} from {name!r}, but the columns are {shown}."
                        f"{nearest(name, known)}"
                    )

    def read(self, row: dict, mended: Counter, where: str) -> dict:
        """
        Rename the columns of a row to the names of battles.

        Args:
            row: the row.
            mended: counter of repairs.
            where: file and row, for messages.

        Raises:
            InputError: the row has a verdict value that the map does not define.
        """
        mapped = {field: self._value(row, names) for field, names in self.columns.items() if field != "verdict"}
        battle = {name: turns.listed_turns(mapped.pop(name), name, mended) for name in FIELDS}
        extra = {name: mapped.pop(name) for name in [*mapped] if name not in TARGETS}
        slices = [f"{name}: {value}" for name, value in extra.items() if value not in (None, "") and value == value]
        return {**mapped, **battle, **self._verdict(row, where), "slices": slices or None}

    def _value(self, row: dict, names: list[str]):
        if len(names) == 1:
            return row.get(names[0])
        return "\n\n".join(str(row[name]) for name in names if row.get(name) not in (None, ""))

    def _verdict(self, row: dict, where: str) -> dict:
        """
        Return the only verdict, or the most frequent verdict with all shares as soft labels, or null without a vote.
        """
        votes = [row.get(name) for name in self.columns.get("verdict", [])]
        votes = [vote for vote in votes if vote not in (None, "") and vote == vote]
        named = [verdict for vote in votes if (verdict := self._named(vote, where)) is not None]
        if len(named) < 2:
            return {"verdict": named[0] if named else None}
        shares = [named.count(verdict) / len(named) for verdict in VERDICTS]
        most = [verdict for verdict, share in zip(VERDICTS, shares, strict=True) if share == max(shares)]
        return {"verdict": most[0] if len(most) == 1 else "tie", **dict(zip(SOFT, shares, strict=True))}

    def _named(self, value, where: str) -> str | None:
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
        if text not in self.verdicts:
            known = ", ".join(f"{key} ({verdict})" for key, verdict in self.verdicts.items())
            raise InputError(
                f"{where}: a verdict is {text!r}, but the map defines {known}. Add {text}=a, b or tie, or "
                f"{text}=none for no verdict."
            )
        verdict = self.verdicts[text]
        return None if verdict == NONE else verdict


def read_map(text: str) -> ColumnMap:
    """
    Read a column map: the name of a ready map, a YAML file, or the text of `--map`.

    Raises:
        InputError: the text is none of these, names a field that battles do not have, or lacks the prompt or a
            response.
    """
    if text.endswith((".yaml", ".yml")):
        return _checked(_of_yaml(Path(text)), text)
    return _checked(_of_text(READY.get(text, text)), text)


def _of_text(text: str) -> dict:
    fields: dict = {}
    last = None
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if last == "verdict" and name.strip() not in TARGETS and equals:
            _refuse_twice(text, name.strip(), fields["verdict"]["values"])
            fields["verdict"]["values"][name.strip()] = value.strip()
            continue
        if not equals or not name.strip() or not value.strip():
            raise InputError(f"--map {text}: {part!r}, {_FORM}; or one of {', '.join(READY)}, or a .yaml file.")
        last = name.strip()
        _refuse_twice(text, last, fields)
        columns, _, first = value.partition(":") if last == "verdict" else (value, "", "")
        fields[last] = {"columns": [column.strip() for column in columns.split("+")]}
        if last == "verdict":
            key, equals, verdict = first.partition("=")
            fields[last]["values"] = {key.strip(): verdict.strip()} if equals else {}
    return fields


def _refuse_twice(text: str, name: str, known: dict) -> None:
    if name in known:
        raise InputError(f"--map {text}: {name!r} occurs twice, expected once. Join columns with +.")


def _of_yaml(file: Path) -> dict:
    try:
        values = load_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file}: not a map of columns ({' '.join(str(error).split())}).") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: expected `field: column` lines, found {type(values).__name__}.")
    fields = {}
    for name, value in values.items():
        value = value if isinstance(value, dict) else {"columns": value}
        columns = value.get("columns")
        if not isinstance(value.get("values") or {}, dict):
            raise InputError(f"{file}: {name} has the values {value['values']}, expected {{VALUE: a, VALUE: b, ...}}.")
        stated = {str(key): verdict for key, verdict in (value.get("values") or {}).items()}
        fields[str(name)] = {"columns": columns if isinstance(columns, list) else [columns], "values": stated}
    return fields


def _checked(fields: dict, where: str) -> ColumnMap:
    for name, value in fields.items():
        if name not in TARGETS and (hint := nearest(name, TARGETS, cutoff=0.8)):
            raise InputError(f"--map {where}: no field {name!r} of a battle.{hint}")
        if name in OPTIONAL and name not in TARGETS:
            raise InputError(f"--map {where}: {name!r} cannot be mapped. Choose another name for the slice.")
        if not all(isinstance(column, str) and column for column in value["columns"]):
            raise InputError(f"--map {where}: {name} has the columns {value['columns']}, expected names.")
    missing = [name for name in FIELDS if name not in fields]
    if missing:
        raise InputError(f"--map {where}: no column for {missing[0]}; a map needs {', '.join(FIELDS)}.")
    if fields["response_a"]["columns"] == fields["response_b"]["columns"]:
        raise InputError(f"--map {where}: both responses come from {'+'.join(fields['response_a']['columns'])}.")
    verdicts = fields.get("verdict", {}).get("values") or {name: name for name in VERDICTS}
    wrong = [verdict for verdict in verdicts.values() if verdict not in (*VERDICTS, NONE)]
    if wrong:
        raise InputError(f"--map {where}: a verdict is {wrong[0]!r}, expected {', '.join(VERDICTS)} or {NONE}.")
    return ColumnMap({name: value["columns"] for name, value in fields.items()}, verdicts)
