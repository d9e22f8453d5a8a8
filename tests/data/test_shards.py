"""Tar files as a data set: the same batches as from files, an index that is never wrong, damage told by name."""

import io
import itertools
import json
import os
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restore_diff.commands import shard
from restore_diff.data import archive
from restore_diff.data.images import ImageError, read_rgb_uint8
from restore_diff.data.loading import Batch, TrainingBatches
from restore_diff.data.names import DataError
from restore_diff.data.pairs import PairList, copies_of, find_pairs, hold_out
from restore_diff.data.shard_writing import write_shards

NUM = 12
SIDES = (("degraded", "input"), ("clean", "target"))


def find(folder: Path) -> PairList:
    return find_pairs(str(folder), "train", Path("none"))


def tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def picture(seed: int, size: tuple[int, int] = (16, 18), kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def files(make_images) -> Path:
    """Twelve pairs in folders."""
    names = [f"{number:02d}.png" for number in range(NUM)]
    make_images("pairs/input", names)
    return make_images("pairs/target", names).parent


@pytest.fixture
def shards(files, tmp_path) -> Path:
    """The same pairs in tar files as webdataset writes them, dealt out in turn."""
    for number in range(3):
        keys = [f"{key:02d}" for key in range(number, NUM, 3)]
        sides = [(f"{key}.{side}", f"{folder}/{key}") for key in keys for side, folder in SIDES]
        content = {f"{name}.png": (files / f"{file}.png").read_bytes() for name, file in sides}
        tar(tmp_path / "shards" / f"{number}.tar", content | {f"{keys[0]}.json": b"{}"})
    return tmp_path / "shards"


def batches(pairs: PairList, config, num_held_out=2, **split) -> TrainingBatches:
    return TrainingBatches(
        hold_out(pairs, num_held_out)[0], None, config, batch_size=4, num_micro_batches=1, seed=3, **split
    )


def take(source: TrainingBatches, num: int, step: int = 0) -> list[Batch]:
    return list(itertools.islice(source.iter_from(step), num))


def same(left: list[Batch], right: list[Batch]) -> bool:
    return all(
        torch.equal(a.clean, b.clean) and torch.equal(a.degraded, b.degraded) and a[2:] == b[2:]
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("layout", ["KEY.clean.png", "target/KEY.png"])
@pytest.mark.parametrize("cache_mib", [0, 1])
def test_tar_files_give_the_batches_of_the_same_files_bit_for_bit(files, shards, data_config, layout, cache_mib):
    if layout == "target/KEY.png":
        shutil.rmtree(shards)
        write_shards(find(files), shards, pairs_per_shard=5)
    config = data_config(cache_mib=cache_mib)
    from_files = batches(find(files), config)
    assert same(take(from_files, 6), take(batches(find(shards), config), 6))
    assert from_files.order.fingerprint() == batches(find(shards), config).order.fingerprint()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_processes_and_a_resume_change_nothing(files, shards, data_config):
    expected = take(batches(find(files), data_config()), 5)
    assert same(take(batches(find(shards), data_config(cache_mib=0, num_workers=2)), 5), expected)
    assert same(take(batches(find(shards), data_config()), 2, step=3), expected[3:])
    first, second = (take(batches(find(shards), data_config(), rank=rank, world=2), 1)[0] for rank in (0, 1))
    assert torch.equal(torch.cat([first.clean, second.clean]), expected[0].clean)


def test_a_process_that_was_not_told_of_the_index_reads_it(shards):
    path = find(shards).pairs[5].clean
    expected = read_rgb_uint8(path)
    archive._indexes.clear()
    assert torch.equal(read_rgb_uint8(path), expected)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {}), ("WEBP", {}), ("BMP", {}), ("GIF", {})]
    + [("TIFF", {"compression": kind}) for kind in ("raw", "tiff_lzw", "tiff_deflate")],
)
def test_every_format_is_read_from_a_tar_file_as_from_a_file(tmp_path, kind, options):
    content = picture(1, kind=kind, **options)
    (tmp_path / f"a.{kind}").write_bytes(content)
    tar(tmp_path / "shards" / "0.tar", {f"b.{kind}": picture(2), f"a.{kind}": content})
    inside = find(tmp_path / "shards").pairs[0].clean
    assert torch.equal(read_rgb_uint8(inside), read_rgb_uint8(tmp_path / f"a.{kind}"))


def test_many_threads_read_from_one_tar_file_at_once(files, shards):
    pairs = find(shards).pairs * 8
    expected = [read_rgb_uint8(files / "target" / f"{pair.name}.png") for pair in pairs]
    with ThreadPoolExecutor(8) as pool:
        assert all(map(torch.equal, pool.map(lambda pair: read_rgb_uint8(pair.clean), pairs), expected))


def test_of_a_large_image_its_header_and_end_alone_are_read_to_know_its_size(tmp_path, monkeypatch, data_config):
    tar(tmp_path / "shards" / "0.tar", {"a.bmp": picture(1, (800, 800), "BMP"), "b.bmp": picture(2, (800, 800), "BMP")})
    pairs, num_read, pread = find(tmp_path / "shards"), [], os.pread
    monkeypatch.setattr(os, "pread", lambda *args: num_read.append(args[1]) or pread(*args))
    TrainingBatches(pairs, lambda *_: torch.zeros(0), data_config(cache_mib=0), 1, 1, seed=0)
    assert 0 < sum(num_read) < 2 * 800 * 800 * 3 / 5


def test_the_index_is_written_once_and_tar_files_are_read_through_again_where_they_changed(shards, monkeypatch):
    scanned: list[str] = []
    opened = tarfile.open

    def counted(*args, fileobj, **kwargs):
        scanned.append(Path(fileobj.name).name)
        return opened(*args, fileobj=fileobj, **kwargs)

    monkeypatch.setattr(tarfile, "open", counted)
    expected = find(shards)
    assert sorted(scanned) == ["0.tar", "1.tar", "2.tar"]
    assert find(shards) == expected and len(scanned) == 3
    os.utime(shards / "1.tar", ns=(1, 1))
    assert find(shards) == expected and scanned[3:] == ["1.tar"]
    (shards / "2.tar").rename(shards / "3.tar")
    assert [pair.name for pair in find(shards).pairs] == [pair.name for pair in expected.pairs]
    assert scanned[4:] == ["3.tar"]
    assert list(json.loads((shards / "index.json").read_bytes())["tars"]) == ["0.tar", "1.tar", "3.tar"]


def test_a_damaged_index_is_made_again_and_one_of_another_program_is_left_alone(shards, caplog):
    expected = find(shards)
    index = (shards / "index.json").read_text()
    for damaged in (index[:200], index.replace("[", "[-", 1), index.replace('"size": ', '"size": "x", "y": '), "{}"):
        (shards / "index.json").write_text(damaged)
        assert find(shards) == expected
        assert (shards / "index.json").read_text() == (index if damaged != "{}" else "{}")
    assert "index.json: not written (a file of this name, of another program, is there)" in caplog.text


def test_an_index_that_cannot_be_written_is_kept_in_memory(shards, monkeypatch, caplog):
    def refuse(path, data):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("restore_diff.data.archive.replace_atomically", refuse)
    assert len(find(shards).pairs) == NUM
    assert not (shards / "index.json").exists()
    assert "not written (Permission denied)" in caplog.text


def test_a_tar_file_cut_off_anywhere_is_refused_by_name(shards):
    content = (shards / "1.tar").read_bytes()
    used = len(content.rstrip(b"\0"))
    for length in range(0, used, 509):
        (shards / "1.tar").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"1\.tar: .*make it again"):
            find(shards)


def test_a_header_that_is_damaged_does_not_end_the_list(shards):
    content = bytearray((shards / "1.tar").read_bytes())
    at = content.index(b"04.clean.png")
    content[at : at + 12] = b"04_clean.png"  # the checksum of the header no longer fits
    (shards / "1.tar").write_bytes(content)
    with pytest.raises(DataError, match=f"1\\.tar: cut off, damaged or two archives in one, at byte {at:,}"):
        find(shards)


def test_a_second_archive_behind_the_first_is_not_overlooked(shards):
    (shards / "1.tar").write_bytes((shards / "1.tar").read_bytes() * 2)
    with pytest.raises(DataError, match=r"1\.tar: .*two archives in one"):
        find(shards)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a.clean.png": b"", "a.degraded.png": b"", "b.clean.png": b""}, r"1 images .* no partner \(0\.tar/b\.clean"),
        ({"a.clean.png": b"", "a.gt.png": b"", "a.lq.png": b""}, r"a\.clean\.png and 0\.tar/a\.gt\.png have the same"),
        ({"a.clean.png": b""}, "clean images without the others"),
        ({"a.txt": b""}, "0 images in the tar files"),
        ({"../a.png": b""}, r"0\.tar: \.\./a\.png: the name leads out of the tar file"),
        ({"/a.png": b""}, "the name leads out of the tar file"),
        ({"a.png": b"", "./a.png": b""}, r"0\.tar: \./a\.png is there twice"),
    ],
)
def test_what_does_not_pair_up_is_told_with_tar_file_and_member(tmp_path, files, told):
    tar(tmp_path / "shards" / "0.tar", files)
    with pytest.raises(DataError, match=told):
        find(tmp_path / "shards")


def test_links_and_compressed_tar_files_are_refused(tmp_path):
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as archive:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"0\.tar: a\.png is no plain file"):
        find(tmp_path / "shards")
    with tarfile.open(tmp_path / "shards" / "0.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DataError, match=r"0\.tar: not an uncompressed tar file"):
        find(tmp_path / "shards")


def test_a_damaged_member_is_named_with_its_tar_file_or_skipped(shards, data_config):
    content = bytearray((shards / "2.tar").read_bytes())
    at = content.index(b"05.degraded.png")
    content[at + 512 : at + 1000] = bytes(488)
    (shards / "2.tar").write_bytes(content)
    with pytest.raises(ImageError, match=r"2\.tar/05\.degraded\.png: not an image") as error:
        batches(find(shards), data_config(), num_held_out=0)
    assert "\n" not in str(error.value)
    whole = batches(find(shards), data_config(on_bad="skip"), num_held_out=0)
    names = {name for batch in take(whole, 9) for name in batch.names}
    assert "05" not in names and len(names) == NUM - 1


def test_a_tar_file_that_changes_under_a_run_is_never_read_at_the_old_places(shards):
    path = find(shards).pairs[0].clean
    content = (shards / "0.tar").read_bytes()
    read_rgb_uint8(path)
    (shards / "0.tar").write_bytes(content + bytes(512))
    with pytest.raises(ImageError, match=r"0\.tar/00\.clean\.png: 0\.tar has changed since it was indexed"):
        read_rgb_uint8(path)
    find(shards)
    read_rgb_uint8(path)


def test_photographs_beside_an_archive_are_what_is_trained_on(make_images):
    folder = make_images("photos", ["a.png", "b.png"])
    tar(folder / "backup.tar", {"c.png": picture(1)})
    assert [pair.name for pair in find(folder).pairs] == ["a", "b"]


def test_copies_are_found_between_files_and_tar_files(files, shards):
    inside = [pair.clean for pair in find(shards).pairs]
    assert copies_of([files / "target" / "03.png"], inside) == {inside[3]}


def test_shards_of_pairs_that_share_a_clean_image_hold_it_once_and_are_the_same_each_time(make_images, tmp_path):
    make_images("many/input", ["sub/1_0.png", "sub/1_1.png", "sub/2_0.png"])
    pairs = find(make_images("many/target", ["sub/1.png", "sub/2.png"]).parent)
    assert write_shards(pairs, tmp_path / "one", 2) == 2
    write_shards(pairs, tmp_path / "two", 2)
    assert [(tmp_path / name / "00000.tar").read_bytes() for name in ("one", "two")] == 2 * [
        (tmp_path / "one" / "00000.tar").read_bytes()
    ]
    written = find(tmp_path / "one").pairs
    assert [pair.name for pair in written] == [pair.name for pair in pairs.pairs]
    assert [pair.clean.name for pair in written] == ["1.png", "1.png", "2.png"]


def test_the_command_writes_shards_once_and_overwrites_nothing(files, tmp_path, capsys):
    arguments = ["-i", str(files), "-o", str(tmp_path / "out"), "--pairs-per-shard", "5"]
    assert shard.main(arguments) == 0
    assert f"12 pairs in 3 tar files: data.train={tmp_path / 'out'}" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(f"0000{number}.tar" for number in range(3)),
        "index.json",
    ]
    assert shard.main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_pairs_whose_names_tell_nothing_are_not_written(make_images, tmp_path):
    pairs = find(make_images("pairs/target", ["a.png"]))
    nameless = PairList("odd", (pairs.pairs[0]._replace(name="b"), pairs.pairs[0]._replace(name="b/c")))
    with pytest.raises(DataError, match="cannot be told by name"):
        write_shards(nameless, tmp_path / "out", 2)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".shards-*"))
