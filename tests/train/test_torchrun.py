"""The real command under torchrun, one of whose processes is killed once, and starts anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from shared_trainings import SETTINGS, asked, assert_alike, write_textures

from fullconv.train.run import run

PATIENCE = 240  # seconds
STEPS = "steps=12"
KILLED = """
import os, signal, sys
from fullconv.cli import main
from fullconv.train import loop
real = loop.TrainingState.advance
def advance(state, loss):
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if state.step == 6 and os.environ["RANK"] == "1" and first:
        os.kill(os.getpid(), signal.SIGKILL)
    real(state, loss)
loop.TrainingState.advance = advance
main()
"""


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_process_is_killed_and_started_anew(tmp_path: Path) -> None:
    """What was saved is continued without --resume; the net is that of an untroubled process."""
    data = write_textures(tmp_path / "data")
    run(tmp_path / "alone", asked(data, STEPS))
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    words = [word for each in (*SETTINGS, STEPS, "save_minutes=1e-9") for word in ("--set", each)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--local-addr", "127.0.0.1", "--nproc-per-node", "2", "--max-restarts", "1"]
    command = [*torchrun, str(script), "train", "--data", str(data), "--out", str(tmp_path / "run")]
    command += ["--model", "fcn16s", "--backbone", "shufflenet_v2_x0_5", "--weights", "none"]
    done = subprocess.run(
        [*command, *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr
    assert_alike(tmp_path / "alone" / "fcn16s", tmp_path / "run" / "fcn16s")
    ended = "fullconv: process 1 of 2: another one has ended before the work was done"
    stopped = "continue with: fullconv train --out"  # where torchrun was quicker to stop it
    assert ended in done.stderr or stopped in done.stderr
    assert "fcn16s: 6 of 12 steps are done" in done.stderr
    assert "2 processes make each step together" in done.stderr
    assert "each process handed the others" in done.stderr
    assert done.stderr.count("fcn16s: epoch 6 of 6") == 1  # the first alone speaks
    assert done.stdout.count("report: ") == 1
    record = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert len(record["launch"]) > 8
