"""The command line in processes of its own: pipes, terminals, interrupts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import FAST, big_log, crossfm_process, interrupted, sample_files

import crossfm


@pytest.fixture(scope="module")
def folder() -> Path:
    return sample_files()


# --- pipes and interrupts -----------------------------------------------------------------------


def test_pipes_get_plain_lines(folder, tmp_path):
    done = crossfm_process("fit", folder / "train.csv", "-t", "rating", "-m", tmp_path / "m", *FAST)
    assert done.returncode == 0
    for text in (done.stdout, done.stderr):
        assert "\x1b" not in text, "a control sequence"
        assert "━" not in text, "a bar"
        assert "\r" not in text
    done = crossfm_process("fit", folder / "train.csv", "-t", "rating", "-m", tmp_path / "m", "-q",
                           *FAST)  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")


def test_json_is_all_of_standard_output(folder, tmp_path):
    done = crossfm_process("fit", folder / "train.csv", "-t", "rating", "-m", tmp_path / "m",
                           "--json", *FAST)  # fmt: skip
    assert json.loads(done.stdout)["model"] == str(tmp_path / "m")
    assert "epoch 3/3" in done.stderr


def test_a_terminal_gets_bars_and_colours(folder, tmp_path):
    """In a pseudo-terminal of 80 columns no line is longer, and epochs stand below each other."""
    import pty

    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "crossfm", "fit", folder / "train.csv", "-t", "rating", "-m",
         tmp_path / "m", *FAST],
        stdin=child, stdout=child, stderr=child, env=environment,
    )  # fmt: skip
    os.close(child)
    seen = b""
    while True:
        try:
            part = os.read(parent, 65_536)
        except OSError:  # the other side was closed
            break
        if not part:
            break
        seen += part
    os.close(parent)
    assert process.wait(60) == 0
    text = seen.decode()
    assert "\x1b[" in text
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert re.search("epoch +train loss", shown)
    assert "━" in shown
    assert max(map(len, re.split(r"[\r\n]+", shown))) <= 80


def test_interrupt_saves_the_last_full_epoch(tmp_path):
    big_log(tmp_path / "log.parquet")
    model = tmp_path / "m.crossfm"
    code, out, said = interrupted(
        ["fit", tmp_path / "log.parquet", "-t", "rating", "-m", model, "--epochs", "5000",
         "--valid", "0", "--json"],
        "epoch 2/5000",
    )  # fmt: skip
    assert code == 130
    told = json.loads(out)
    assert told["stopped"] == "interrupted"
    assert 2 <= told["epochs"] < 5000
    assert f"interrupted: {model} holds the model of epoch {told['best_epoch']}" in said
    assert "Traceback" not in said
    assert len(crossfm.load(model).history_) == told["epochs"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.parquet", "m.crossfm"]


def test_interrupt_before_an_epoch_leaves_the_old_model(tmp_path):
    big_log(tmp_path / "log.parquet")
    model = tmp_path / "m.crossfm"
    model.write_bytes(b"old")
    code, out, said = interrupted(
        ["fit", tmp_path / "log.parquet", "-t", "rating", "-m", model, "--factors", "4000"],
        "features",
    )
    assert code == 130
    assert out == ""
    assert re.match(
        "interrupted: (no epoch was complete|nothing was written)", said.splitlines()[-1]
    )
    assert "Traceback" not in said
    assert model.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.parquet", "m.crossfm"]
