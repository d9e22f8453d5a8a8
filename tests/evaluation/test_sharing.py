"""Several processes score a test set as one does."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from restore_diff.distributed import WHOLE, Share, in_order, sharing
from restore_diff.evaluation.evaluator import Evaluator, Scorer
from restore_diff.evaluation.folders import score_folders

SCRIPT = Path(__file__).with_name("shared_scoring.py")


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> tuple[Path, list[list[str]], list[int]]:
    """Two processes that score five images: the folder of their tables, what they printed, how they ended."""
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


def alone():
    spec = importlib.util.spec_from_file_location("shared_scoring", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.rows(WHOLE)


def test_every_process_has_the_rows_of_one_that_scores_alone(together):
    module, rows = alone()
    folder, printed, _ = together
    for rank in range(2):
        assert (folder / f"{rank}.csv").read_text() == module.without_seconds(rows)
        assert printed[rank][0].split()[1:] == [f"{row.name}/{row.seed}" for row in rows]


def test_each_process_restores_its_own_images_only(together):
    _, printed, _ = together
    assert [lines[1].split()[1:] for lines in printed] == [["9", "9", "7", "7", "5", "5"], ["8", "8", "6", "6"]]


def test_where_one_fails_all_end_with_its_message(together):
    _, printed, _ = together
    assert printed[0][2] == "OtherRankFailed rank 1: ValueError: no room on the disk"
    assert printed[1][2] == "ValueError no room on the disk"


def test_where_one_dies_the_others_end(together):
    _, printed, exit_codes = together
    assert printed[0][3] == "OtherRankFailed another process ended before its images were scored"
    assert exit_codes == [0, 7]


@pytest.mark.parametrize(("num_images", "num_ranks"), [(7, 3), (2, 4), (6, 2), (1, 1)])
def test_shares_cover_the_test_set_once_and_come_back_in_its_order(row, num_images, num_ranks):
    rows = [[row(f"{9 - image}", seed, psnr_rgb=30.0) for seed in (0, 1)] for image in range(num_images)]
    positions = [Share(rank, num_ranks).positions(num_images) for rank in range(num_ranks)]
    shares = [[row for image in share for row in rows[image]] for share in positions]
    assert in_order(shares) == [row for of_image in rows for row in of_image]


def test_one_process_has_everything_and_needs_no_network(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with sharing() as share:
        assert share is WHOLE and share.is_first
    monkeypatch.setenv("WORLD_SIZE", "1")
    with sharing() as share:
        assert share is WHOLE


def test_without_other_processes_what_scoring_raises_goes_through(pairs):
    def broken(degraded, names, seed):
        raise KeyError(names[0])

    with pytest.raises(KeyError, match="d"):
        Evaluator(broken, Scorer(("rgb",))).evaluate(pairs)


def test_finished_images_are_shared_too(tmp_path, monkeypatch):
    """By position in the order of names; what another process scores is not read."""
    from PIL import Image

    for number in range(5):
        for side in ("pred", "target"):
            (tmp_path / side).mkdir(exist_ok=True)
            Image.new("RGB", (20, 20), (number, 2, 3 if side == "pred" else 4)).save(tmp_path / side / f"{number}.png")
    mine: list[str] = []
    share = Share(1, 2)
    monkeypatch.setattr(Share, "all_rows", lambda self, score: score())
    score_folders(
        tmp_path / "pred",
        tmp_path / "target",
        Scorer(("rgb",)),
        share=share,
        on_image=lambda row: mine.append(row.name),
    )
    assert mine == ["1", "3"]
