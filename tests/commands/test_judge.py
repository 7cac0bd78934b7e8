"""`sft-judge judge`: one battle, lines of them from a pipe or a file, and a loop that asks on a terminal."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest

from sft_judge.cli import main

pytestmark = pytest.mark.unit  # random judges: nothing is trained


def test_one_battle_on_the_terminal_sums_to_one(each_judge, capsys):
    words = [
        "judge",
        "--model",
        str(each_judge),
        "--prompt",
        "Name a prime.",
        "--response-a",
        "7",
        "--response-b",
        "Nine",
    ]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["a"] + answer["b"] + answer["tie"] == pytest.approx(1)
    assert main(words) == 0
    shares = [float(line.split()[1].rstrip("%")) for line in capsys.readouterr().out.splitlines()[:3]]
    np.testing.assert_allclose(shares, [100 * answer[name] for name in ("a", "b", "tie")], atol=0.06)


BATTLE = {"prompt": "Name a prime.", "response_a": "7", "response_b": "Nine"}
TURNS = {"id": "two", "prompt": ["Hi", "Go on"], "response_a": ["Hm", "Yes"], "response_b": ["", "No"], "swap": "none"}


def words(judge, *more) -> list[str]:
    return ["judge", "--model", str(judge), *map(str, more)]


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_lines_are_answered_in_order_and_as_one_battle_is(judge, tmp_path, capsys):
    file = tmp_path / "battles.jsonl"
    file.write_text("\n".join(json.dumps(battle) for battle in [BATTLE, TURNS] * 20))
    capsys.readouterr()
    assert main(words(judge, "--battles", file)) == 0
    answers = lines_of(capsys.readouterr().out)
    assert [answer["id"] for answer in answers] == [None, "two"] * 20
    assert [answer["swap_agreement"] is None for answer in answers] == [False, True] * 20
    flags = [f"--{name.replace('_', '-')}={text}" for name, text in BATTLE.items()]
    assert main(words(judge, *flags, "--json")) == 0
    one = json.loads(capsys.readouterr().out)
    for answer in answers[::2]:
        assert answer["a"] == pytest.approx(one["a"], abs=1e-6) and answer["verdict"] == one["verdict"]
        assert answer["cut"] == {"prompt": 0, "response_a": 0, "response_b": 0}


def test_a_bad_line_gets_an_error_and_the_others_go_on(judge, tmp_path, capsys):
    file = tmp_path / "battles.jsonl"
    bad = [b"{", b"[1]", b"\xff", b'{"prompt": "a"}', b'{"prompt": 1, "response_a": "", "response_b": ""}']
    file.write_bytes(b"\n".join([json.dumps(BATTLE).encode(), b"", *bad, json.dumps(TURNS).encode()]))
    capsys.readouterr()
    assert main(words(judge, "--battles", file)) == 2
    said = capsys.readouterr()
    answers = lines_of(said.out)
    assert ["error" in answer for answer in answers] == [False, *[True] * 5, False]
    assert [answer["error"]["message"].split(":")[0] for answer in answers[1:6]] == [f"line {n}" for n in range(3, 8)]
    assert answers[4]["error"]["param"] == "response_a"
    (line,) = [line for line in said.err.splitlines() if line.startswith("sft-judge: ")]
    assert f"5 of 7 lines of {file} are not battles" in line


@pytest.mark.timeout(120)
def test_a_line_on_standard_input_is_answered_before_the_next_one_comes(judge):
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-m", "sft_judge", *words(judge)], text=True, **pipes) as process:
        for number in range(2):
            process.stdin.write(json.dumps({**BATTLE, "id": str(number)}) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == str(number)
        process.stdin.close()
        assert process.stdout.read() == "" and process.wait() == 0


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--prompt", "a"], "--prompt, --response-a and --response-b, all three"),
        (["--prompt", "a", "--response-a", "b", "--response-b", "c", "--battles", "-"], "several are --battles"),
        (["--battles", "no.jsonl"], "no.jsonl: no such file; expected lines of JSON"),
        (["--battles", "battles.parquet"], "`sft-judge predict` judges a file of battles"),
        ([], "standard input has no battle"),
    ],
)
def test_what_is_no_battle_is_one_line(judge, more, reason, capsys, monkeypatch):
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        capsys.readouterr()
        assert main(words(judge, *more)) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("sft-judge: ")]
    assert said.out == "" and len(lines) == 1 and reason in lines[0]


@pytest.mark.timeout(120)
def test_a_terminal_is_asked_for_battles_until_its_end(judge):
    main_end, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "sft_judge", *words(judge, "--json")]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=subprocess.DEVNULL) as process:
        os.close(terminal)
        shown = b""
        for text in ["Name a prime.", "7", "Nine", "Another?", "", "11", None]:
            while not shown.rstrip(b" ").endswith(b":") or b"\n" not in shown:
                shown += os.read(main_end, 4096)
            answered = shown.count(b'"verdict"')
            os.write(main_end, b"\x04" if text is None else text.encode() + b"\n")
            if text is not None:  # past what the terminal repeats
                while not shown.endswith(b"\n"):
                    shown += os.read(main_end, 1)
        assert process.wait() == 0 and answered == 2
    os.close(main_end)
