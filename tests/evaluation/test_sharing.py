"""Several processes score a test set with the same result as one. This file is also the program of each process."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from restore_diff.data.pairs import Pair
from restore_diff.distributed import ALONE, OtherProcessFailed, Processes, in_order, joined
from restore_diff.evaluation.evaluator import Evaluator, Row, Scorer
from restore_diff.evaluation.folders import score_folders
from restore_diff.evaluation.report import per_image_csv

restored_names: list[str] = []


def restore(degraded: torch.Tensor, names: Sequence[str], seed: int) -> torch.Tensor:
    restored_names.extend(names)
    return (degraded * 0.9 + 0.01 * seed).clamp(0, 1)


def score(processes: Processes) -> list[Row]:
    """Rows of five images and two seeds."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(2, 3, 12 + index, 14, generator=generator) for index in range(5)]
    dataset = [Pair(clean, degraded, f"{9 - index}") for index, (clean, degraded) in enumerate(images)]
    return Evaluator(restore, Scorer(("rgb",))).evaluate(dataset, (0, 3), processes=processes)


def csv_without_seconds(rows: list[Row]) -> str:
    return per_image_csv([Row(**{**vars(row), "seconds": 0.0}) for row in rows])


def main(folder: Path) -> None:
    """Score; then let rank 1 fail; then let rank 1 exit."""

    def fail() -> list[Row]:
        raise ValueError("no space left")

    torch.set_num_threads(1)
    with joined() as processes:
        rows = score(processes)
        (folder / f"{processes.rank}.csv").write_text(csv_without_seconds(rows))
        print(*(f"{row.name}/{row.seed}" for row in rows), flush=True)
        print(*restored_names, flush=True)
        for attempt in range(2):
            if processes.rank == 1 and attempt == 1:
                os._exit(7)
            try:
                processes.all_rows(fail if processes.rank == 1 else lambda: rows)
            except (OtherProcessFailed, ValueError) as error:
                print(type(error).__name__, error, flush=True)


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> tuple[Path, list[list[str]], list[int]]:
    """Two processes score five images: folder of their tables, printed lines, exit codes."""
    folder = tmp_path_factory.mktemp("shared")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder)]
    environments = [{**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    processes = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for env in environments]
    printed = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    return folder, printed, [process.returncode for process in processes]


def test_every_process_has_the_rows_of_a_single_process(together):
    rows, (folder, printed, _) = score(ALONE), together
    for rank in range(2):
        assert (folder / f"{rank}.csv").read_text() == csv_without_seconds(rows)
        assert printed[rank][0].split() == [f"{row.name}/{row.seed}" for row in rows]


def test_each_process_restores_only_its_own_images(together):
    _, printed, _ = together
    assert [lines[1].split() for lines in printed] == [["9", "9", "7", "7", "5", "5"], ["8", "8", "6", "6"]]


def test_all_processes_end_when_one_fails_or_exits(together):
    _, printed, exit_codes = together
    assert printed[0][2] == "OtherProcessFailed rank 1: ValueError: no space left"
    assert printed[1][2] == "ValueError no space left"
    assert printed[0][3].startswith("OtherProcessFailed another process ")
    assert exit_codes == [0, 7]


@pytest.mark.parametrize(("num_images", "num_ranks"), [(7, 3), (2, 4), (6, 2), (1, 1)])
def test_shares_cover_the_test_set_once_and_merge_in_its_order(row, num_images, num_ranks):
    rows = [[row(f"{9 - image}", seed, psnr_rgb=30.0) for seed in (0, 1)] for image in range(num_images)]
    positions = [Processes(rank, num_ranks).positions(num_images) for rank in range(num_ranks)]
    shares = [[row for image in processes for row in rows[image]] for processes in positions]
    assert in_order(shares) == [row for of_image in rows for row in of_image]


@pytest.mark.parametrize("world_size", ["", "1"])
def test_a_single_process_has_the_whole_share_and_raises_plain_errors(pairs, monkeypatch, world_size):
    def broken(degraded, names, seed):
        raise KeyError(names[0])

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world_size:
        monkeypatch.setenv("WORLD_SIZE", world_size)
    with joined() as processes, pytest.raises(KeyError, match="d"):
        assert processes is ALONE and processes.is_first
        Evaluator(broken, Scorer(("rgb",))).evaluate(pairs, processes=processes)


def test_finished_images_are_shared_by_position(tmp_path, monkeypatch):
    for side, blue in (("pred", 3), ("target", 4)):
        (tmp_path / side).mkdir()
        for number in range(5):
            Image.new("RGB", (20, 20), (number, 2, blue)).save(tmp_path / side / f"{number}.png")
    monkeypatch.setattr(Processes, "all_rows", lambda self, score: score())
    rows = score_folders(tmp_path / "pred", tmp_path / "target", Scorer(("rgb",)), processes=Processes(1, 2))
    assert [row.name for row in rows] == ["1", "3"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
