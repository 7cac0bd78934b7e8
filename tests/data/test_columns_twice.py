"""Two columns of one name are refused wherever a table is read: one of them would be taken in silence."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sft_judge.cli import main
from sft_judge.core.errors import InputError
from sft_judge.data.battles import read_battles
from sft_judge.data.probs import read_probs

pytestmark = pytest.mark.unit

BATTLES = ["id", "prompt", "response_a", "response_b", "verdict", "verdict"]
PROBS = ["id", "order", "logp_a", "logp_b", "logp_tie", "logp_a"]


def write(path, names, values):
    if path.suffix == ".jsonl":
        pairs = zip(names, values, strict=True)
        path.write_text("{" + ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in pairs) + "}\n")
        return path
    if path.suffix == ".csv":
        path.write_text(",".join(names) + "\n" + ",".join(map(str, values)) + "\n")
    else:
        pq.write_table(pa.table([pa.array([value]) for value in values], names=names), path)
    return path


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_import_refuses_a_column_that_stands_twice(ending, tmp_path, capsys):
    source = write(tmp_path / f"s.{ending}", BATTLES, ["1", "p", "x", "y", "a", "b"])
    assert main(["import", str(source), "--output", str(tmp_path / "o.parquet")]) == 2
    assert "column 'verdict' occurs twice" in capsys.readouterr().err
    assert not (tmp_path / "o.parquet").exists()


@pytest.mark.parametrize("begin, end", [("", ""), ("[", "]")])
def test_json_with_a_key_that_stands_twice_is_no_row(begin, end, tmp_path, capsys):
    source = write(tmp_path / "s.jsonl", BATTLES, ["1", "p", "x", "y", "a", "b"])
    source.write_text(begin + source.read_text() + end)
    assert main(["import", str(source), "--output", str(tmp_path / "o.parquet")]) == 2
    assert "'verdict' occurs twice" in capsys.readouterr().err
    if not begin:
        with pytest.raises(InputError, match="row 1: broken JSON .'verdict' occurs twice"):
            read_battles(source)


def test_battles_and_probs_refuse_a_column_that_stands_twice(tmp_path):
    with pytest.raises(InputError, match="column 'verdict' occurs twice"):
        read_battles(write(tmp_path / "b.parquet", BATTLES, ["1", "p", "x", "y", "a", "b"]))
    for ending in ("csv", "parquet"):
        with pytest.raises(InputError, match="column 'logp_a' occurs twice"):
            read_probs(write(tmp_path / f"p.{ending}", PROBS, ["1", "ab", -1.1, -1.1, -1.1, -2.0]))
