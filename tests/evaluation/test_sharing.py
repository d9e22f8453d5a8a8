"""Several processes score a test set with the same result as one."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from restore_diff.distributed import WHOLE, Share, in_order, sharing
from restore_diff.evaluation.evaluator import Evaluator, Scorer
from restore_diff.evaluation.folders import score_folders

SCRIPT = Path(__file__).with_name("shared_scoring.py")


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> tuple[Path, list[list[str]], list[int]]:
    """Two processes score five images: folder of their tables, printed lines, exit codes."""
    folder = tmp_path_factory.mktemp("shared")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    return folder, printed, [process.returncode for process in processes]


def test_every_process_has_the_rows_of_a_single_process(together):
    spec = importlib.util.spec_from_file_location("shared_scoring", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows, (folder, printed, _) = module.rows(WHOLE), together
    for rank in range(2):
        assert (folder / f"{rank}.csv").read_text() == module.without_seconds(rows)
        assert printed[rank][0].split()[1:] == [f"{row.name}/{row.seed}" for row in rows]


def test_each_process_restores_only_its_own_images(together):
    _, printed, _ = together
    assert [lines[1].split()[1:] for lines in printed] == [["9", "9", "7", "7", "5", "5"], ["8", "8", "6", "6"]]


def test_all_processes_end_when_one_fails_or_exits(together):
    _, printed, exit_codes = together
    assert printed[0][2] == "OtherRankFailed rank 1: ValueError: no space left"
    assert printed[1][2] == "ValueError no space left"
    assert printed[0][3].startswith("OtherRankFailed another process ")
    assert exit_codes == [0, 7]


@pytest.mark.parametrize(("num_images", "num_ranks"), [(7, 3), (2, 4), (6, 2), (1, 1)])
def test_shares_cover_the_test_set_once_and_merge_in_its_order(row, num_images, num_ranks):
    rows = [[row(f"{9 - image}", seed, psnr_rgb=30.0) for seed in (0, 1)] for image in range(num_images)]
    positions = [Share(rank, num_ranks).positions(num_images) for rank in range(num_ranks)]
    shares = [[row for image in share for row in rows[image]] for share in positions]
    assert in_order(shares) == [row for of_image in rows for row in of_image]


@pytest.mark.parametrize("world_size", [None, "1"])
def test_a_single_process_has_the_whole_share(monkeypatch, world_size):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world_size:
        monkeypatch.setenv("WORLD_SIZE", world_size)
    with sharing() as share:
        assert share is WHOLE and share.is_first


def test_a_single_process_raises_the_error_of_scoring(pairs):
    def broken(degraded, names, seed):
        raise KeyError(names[0])

    with pytest.raises(KeyError, match="d"):
        Evaluator(broken, Scorer(("rgb",))).evaluate(pairs)


def test_finished_images_are_shared_by_position(tmp_path, monkeypatch):
    for side, blue in (("pred", 3), ("target", 4)):
        (tmp_path / side).mkdir()
        for number in range(5):
            Image.new("RGB", (20, 20), (number, 2, blue)).save(tmp_path / side / f"{number}.png")
    monkeypatch.setattr(Share, "all_rows", lambda self, score: score())
    rows = score_folders(tmp_path / "pred", tmp_path / "target", Scorer(("rgb",)), share=Share(1, 2))
    assert [row.name for row in rows] == ["1", "3"]
