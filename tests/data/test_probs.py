"""The probs file: what is written is read, bad rows are named, two orders become one."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import swap
from sft_judge.data.probs import Probs, average_orders, read_probs, write_probs

pytestmark = pytest.mark.unit


def both_orders(rows=5, num=3, seed=0):
    rng = np.random.default_rng(seed)
    logp = np.full((2 * rows, 3), -np.inf)
    logp[:, :num] = np.log(rng.dirichlet(np.ones(num), 2 * rows))
    ids = np.array([f"id-{row}" for row in range(rows)] * 2, dtype=object)
    return Probs(ids, np.array(["ab"] * rows + ["ba"] * rows, dtype=object), logp, {"model": "m", "rows": 2 * rows})


@pytest.mark.parametrize("num", [2, 3])
def test_what_is_written_is_read(tmp_path, num):
    probs = both_orders(num=num)
    write_probs(tmp_path / "p.parquet", probs)
    again = read_probs(tmp_path / "p.parquet")
    np.testing.assert_array_equal(again.logp, probs.logp)
    assert list(again.ids) == list(probs.ids) and list(again.orders) == list(probs.orders)
    assert again.metadata == probs.metadata and again.num_verdicts == num


def test_a_csv_of_somebody_else_is_read_without_metadata(tmp_path):
    (tmp_path / "p.csv").write_text("id,order,logp_a,logp_b,logp_tie\n7,ab,-0.693147,-0.693147,-inf\n")
    probs = read_probs(tmp_path / "p.csv")
    assert list(probs.ids) == ["7"] and probs.num_verdicts == 2 and probs.metadata == {}


def test_two_orders_become_their_arithmetic_mean_and_one_stays():
    probs = both_orders()
    ids, mean, counts = average_orders(probs)
    assert list(ids) == [f"id-{row}" for row in range(5)] and (counts == 2).all()
    np.testing.assert_allclose(mean, (np.exp(probs.logp[:5]) + np.exp(probs.logp[5:])) / 2)
    single = average_orders(probs.select(np.arange(5, 10)[::-1]))
    np.testing.assert_array_equal(single[1], np.exp(probs.logp[5:][::-1]))
    assert single[0][0] == "id-4" and (single[2] == 1).all()


def test_exchanging_the_responses_exchanges_the_mean_to_the_bit():
    probs = both_orders(rows=200)
    # the exchanged battle: what was shown as ab is now ba, and a is now b
    exchanged = Probs(probs.ids, np.array([order[::-1] for order in probs.orders]), swap(probs.logp))
    exchanged = exchanged.select(np.r_[200:400, 0:200])
    np.testing.assert_array_equal(average_orders(exchanged)[1], swap(average_orders(probs)[1]))


def table(**columns):
    good = {"id": ["x"], "order": ["ab"], "logp_a": [np.log(0.5)], "logp_b": [np.log(0.3)], "logp_tie": [np.log(0.2)]}
    return pa.table({**good, **columns})


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (table(order=["up"]), "order 'up'"),
        (table(logp_a=[0.0]), "sum to 1.5"),
        (table(logp_a=[np.nan]), "sum to nan"),
        (table(logp_a=["much"]), "not a number"),
        (table().drop_columns("logp_tie"), "no column 'logp_tie'"),
        (table().slice(0, 0), "no rows"),
        (pa.concat_tables([table(), table()]), "occurs twice"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(tmp_path, bad, said):
    pq.write_table(bad, tmp_path / "p.parquet")
    with pytest.raises(InputError, match=said):
        read_probs(tmp_path / "p.parquet")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("x,.5,.3,.2\ny,much,.3,.2", "one of p_a, p_b, p_tie is not a number"),
        ("x,.5,.3,.2\ny,.5,.3,.3", "row 2 .id y.: the probabilities of a, b, tie sum to 1.1"),
        ("x,.5,.3,.2\ny,.5,.3,.2\nx,.5,.3,.2", "row 3: id x occurs twice"),
        ("x,.5,.3,.2\ny,1.2,-.3,.1", "row 2 .id y.: a probability is below 0"),
    ],
)
def test_a_bad_row_of_a_strangers_probabilities_is_named_as_it_stands_in_the_file(tmp_path, bad, said):
    (tmp_path / "p.csv").write_text(f"id,p_a,p_b,p_tie\n{bad}\n")
    with pytest.raises(InputError, match=said):
        read_probs(tmp_path / "p.csv")


@pytest.mark.parametrize("name", ["p.parquet", "p.csv"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff\x13 garbage"])
def test_garbage_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError):
        read_probs(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such probs file"):
        read_probs(tmp_path / "p.parquet")


def test_ids_of_csv_are_text(tmp_path):
    (tmp_path / "p.csv").write_text("id,p_a,p_b\n0007,0.5,0.5\n1e5,0.2,0.8\n00017,1,0\n")
    assert list(read_probs(tmp_path / "p.csv").ids[::2]) == ["0007", "1e5", "00017"]


@pytest.mark.parametrize("metadata", [b"{", b"[]", b'"x"', b'{"model": 3}', b'{"judge": "h"}', b'{"folds": [1]}'])
def test_damaged_metadata_is_one_line(metadata, tmp_path):
    table = pa.table(
        {"id": ["x"], "order": ["ab"], **{f"logp_{v}": [float(np.log(1 / 3))] for v in ("a", "b", "tie")}}
    )
    pq.write_table(table.replace_schema_metadata({b"sft_judge": metadata}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match="p.parquet: its metadata"):
        read_probs(tmp_path / "p.parquet")
