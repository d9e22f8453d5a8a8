"""Zip files as a data set: the same batches as from files; damage is reported by name."""

import io
import os
import shutil
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reading import half, names, same, take

from restore_diff.commands import shard
from restore_diff.data import archive
from restore_diff.data.images import ImageError, read_rgb_uint8
from restore_diff.data.loading import TrainingBatches
from restore_diff.data.names import DataError
from restore_diff.data.pairs import PairList, copies_of, find_pairs, hold_out

NUM = 12
SIDES = (("degraded", "input"), ("clean", "target"))


def find(folder: Path) -> PairList:
    return find_pairs(str(folder), "train", Path("none"))


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, content in files.items():
            target.writestr(zipfile.ZipInfo(name), content, compression)
    return path


def picture(seed: int, size: tuple[int, int] = (16, 18), kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def files(make_images) -> Path:
    """Twelve pairs in folders."""
    numbered = [f"{number:02d}.png" for number in range(NUM)]
    make_images("pairs/input", numbered)
    return make_images("pairs/target", numbered).parent


@pytest.fixture
def shards(files, tmp_path) -> Path:
    """The same pairs in three zip files, stored, stored and deflated, under names with the side as last word."""
    for number in range(3):
        keys = [f"{key:02d}" for key in range(number, NUM, 3)]
        sides = [(f"{key}.{side}", f"{folder}/{key}") for key in keys for side, folder in SIDES]
        content = {f"{name}.png": (files / f"{file}.png").read_bytes() for name, file in sides}
        compression = zipfile.ZIP_DEFLATED if number == 2 else zipfile.ZIP_STORED
        write_zip(tmp_path / "shards" / f"{number}.zip", content | {f"{keys[0]}.json": b"{}"}, compression)
    return tmp_path / "shards"


def batches(pairs: PairList, config, num_held_out=2, **split) -> TrainingBatches:
    return TrainingBatches(hold_out(pairs, num_held_out)[0], None, config, 4, 1, seed=3, **split)


@pytest.mark.parametrize("layout", ["KEY.clean.png", "target/KEY.png"])
@pytest.mark.parametrize("cache_mib", [0, 1])
def test_zip_files_give_the_same_batches_as_files(files, shards, data_config, layout, cache_mib):
    if layout == "target/KEY.png":
        shutil.rmtree(shards)
        shard.write_shards(find(files), shards, pairs_per_shard=5)
    config = data_config(cache_mib=cache_mib)
    from_files, from_zips = batches(find(files), config), batches(find(shards), config)
    assert same(take(from_files, 6), take(from_zips, 6))
    assert from_files.order.fingerprint() == from_zips.order.fingerprint()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_processes_and_a_resume_give_the_same_batches(files, shards, data_config):
    expected = take(batches(find(files), data_config()), 5)
    uncached = data_config(cache_mib=0, num_workers=2)
    read_rgb_uint8(find(shards).pairs[0].clean)  # a handle is open before the workers are forked
    assert same(take(batches(find(shards), uncached), 5), expected)
    assert same(take(batches(find(shards), data_config()), 2, step=3), expected[3:])
    first, second = (take(batches(find(shards), data_config(), rank=rank, world=2), 1)[0] for rank in (0, 1))
    assert torch.equal(torch.cat([first.clean, second.clean]), expected[0].clean)


def test_a_spawned_process_reads_the_directory_again(shards):
    path = find(shards).pairs[5].clean
    expected = read_rgb_uint8(path)
    archive._directories.clear()
    assert torch.equal(read_rgb_uint8(path), expected)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_format_is_read_from_a_zip_file(tmp_path, compression):
    kinds = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
    contents = {f"{kind}.{kind.lower()}": picture(1, kind=kind) for kind in kinds}
    tiffs = ("raw", "tiff_lzw", "tiff_deflate")
    contents |= {f"{kind}.tif": picture(1, kind="TIFF", compression=kind) for kind in tiffs}
    write_zip(tmp_path / "shards/0.zip", contents, compression)
    pairs = find(tmp_path / "shards").pairs
    assert len(pairs) == 8
    for pair in pairs:
        (tmp_path / pair.clean.name).write_bytes(contents[pair.clean.name])
        assert torch.equal(read_rgb_uint8(pair.clean), read_rgb_uint8(tmp_path / pair.clean.name))


def test_many_threads_read_from_one_zip_file(files, shards):
    pairs = find(shards).pairs * 8
    expected = [read_rgb_uint8(files / "target" / f"{pair.name}.png") for pair in pairs]
    with ThreadPoolExecutor(8) as pool:
        assert all(map(torch.equal, pool.map(lambda pair: read_rgb_uint8(pair.clean), pairs), expected))


def test_the_start_reads_header_and_end_of_a_large_image_only(tmp_path, monkeypatch, data_config):
    write_zip(tmp_path / "shards/0.zip", {f"{name}.bmp": picture(1, (800, 800), "BMP") for name in "ab"})
    pairs, num_read, read = find(tmp_path / "shards"), [], archive._Handle.read
    monkeypatch.setattr(archive._Handle, "read", lambda *args: num_read.append(args[2]) or read(*args))
    TrainingBatches(pairs, half, data_config(cache_mib=0), 1, 1, seed=0)
    assert 0 < sum(num_read) < 2 * 800 * 800 * 3 / 5


def test_a_zip_file_cut_off_anywhere_is_refused_by_name(shards):
    content = (shards / "1.zip").read_bytes()
    for length in range(0, len(content), 509):
        (shards / "1.zip").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"1\.zip: .*make it again"):
            find(shards)


def test_any_damaged_byte_gives_pairs_or_one_clear_error(shards):
    content = (shards / "1.zip").read_bytes()
    directory = content.index(b"PK\1\2")
    for at in range(directory, len(content), 3):
        (shards / "1.zip").write_bytes(content[:at] + bytes([content[at] ^ 0x81]) + content[at + 1 :])
        try:
            for pair in find(shards).pairs:
                read_rgb_uint8(pair.clean)
        except (DataError, ImageError) as error:
            assert "\n" not in str(error)


def test_two_archives_in_one_file_are_refused(shards):
    (shards / "1.zip").write_bytes((shards / "1.zip").read_bytes() * 2)
    with pytest.raises(DataError, match=r"1\.zip: .*two archives in one"):
        find(shards)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (["a.clean.png", "a.degraded.png", "b.clean.png"], r"1 images .* no partner \(0\.zip/b\.clean"),
        (["a.clean.png", "a.gt.png", "a.lq.png"], r"a\.clean\.png and 0\.zip/a\.gt\.png have the same"),
        (["a.clean.png"], "hold clean images but no degraded ones"),
        (["a.txt"], "0 images in the zip files"),
        (["../a.png"], r"0\.zip: \.\./a\.png is not a name below the zip file"),
        (["/a.png"], "is not a name below the zip file"),
        (["a.png", "./a.png"], r"0\.zip: \./a\.png is there twice"),
    ],
)
def test_names_that_do_not_pair_up_are_reported_with_the_zip_file(tmp_path, contents, message):
    write_zip(tmp_path / "shards/0.zip", dict.fromkeys(contents, b""))
    with pytest.raises(DataError, match=message):
        find(tmp_path / "shards")


def test_encrypted_and_unknown_members_and_tar_files_are_refused(tmp_path):
    path = write_zip(tmp_path / "shards/0.zip", {"a.png": picture(1)}, zipfile.ZIP_LZMA)
    with pytest.raises(DataError, match=r"0\.zip: a\.png is compressed by another method than deflate"):
        find(tmp_path / "shards")
    content = bytearray(write_zip(path, {"a.png": picture(1)}).read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"0\.zip: a\.png is encrypted; make the zip file again"):
        find(tmp_path / "shards")
    path.unlink()
    with tarfile.open(tmp_path / "shards/0.tar", "w"):
        pass
    with pytest.raises(
        DataError, match="tar files are not read; unpack them into FOLDER, then write zip files: restore-diff"
    ):
        find(tmp_path / "shards")


def test_a_damaged_member_is_reported_with_its_zip_file_or_skipped(shards, data_config):
    content = bytearray((shards / "1.zip").read_bytes())
    at = content.index(b"04.degraded.png") + len("04.degraded.png")
    content[at : at + 400] = bytes(400)
    (shards / "1.zip").write_bytes(content)
    with pytest.raises(ImageError, match=r"1\.zip/04\.degraded\.png: not an image") as error:
        batches(find(shards), data_config(), num_held_out=0)
    assert "\n" not in str(error.value)
    found = set(names(take(batches(find(shards), data_config(on_bad="skip"), num_held_out=0), 9)))
    assert "04" not in found and len(found) == NUM - 1


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_zip_file_that_changes_during_a_run_stops_it(shards, is_replaced):
    path = find(shards).pairs[0].clean
    read_rgb_uint8(path)
    os.utime(shards / "0.zip", ns=(1, 1))
    with pytest.raises(ImageError, match=r"0\.zip/00\.clean\.png: 0\.zip has changed since it was listed; start again"):
        read_rgb_uint8(path)
    if is_replaced:
        shutil.copy(shards / "0.zip", shards / "new")
        (shards / "new").replace(shards / "0.zip")
    find(shards)
    read_rgb_uint8(path)


def test_photographs_beside_a_zip_file_are_the_data_set(make_images):
    folder = make_images("photos", ["a.png", "b.png"])
    write_zip(folder / "backup.zip", {"c.png": picture(1)})
    assert [pair.name for pair in find(folder).pairs] == ["a", "b"]


def test_copies_are_found_between_files_and_zip_files(files, shards):
    inside = [pair.clean for pair in find(shards).pairs]
    assert copies_of([files / "target" / "03.png"], inside) == {inside[3]}


def test_shards_store_a_shared_clean_image_once_and_are_reproducible(make_images, tmp_path):
    make_images("many/input", ["sub/1_0.png", "sub/1_1.png", "sub/2_0.png"])
    pairs = find(make_images("many/target", ["sub/1.png", "sub/2.png"]).parent)
    assert [shard.write_shards(pairs, tmp_path / name, 2) for name in ("one", "two")] == [2, 2]
    first, second = ((tmp_path / name / "000000.zip").read_bytes() for name in ("one", "two"))
    assert first == second
    written = find(tmp_path / "one").pairs
    assert [pair.name for pair in written] == [pair.name for pair in pairs.pairs]
    assert [pair.clean.name for pair in written] == ["1.png", "1.png", "2.png"]


def test_the_command_writes_shards_once_and_overwrites_nothing(files, tmp_path, capsys):
    arguments = ["-i", str(files), "-o", str(tmp_path / "out"), "--pairs-per-shard", "5"]
    assert shard.main(arguments) == 0
    assert f"12 pairs in 3 zip files: data.train={tmp_path / 'out'}" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"00000{number}.zip" for number in range(3)]
    assert shard.main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_pairs_that_would_not_be_found_again_are_not_written(make_images, tmp_path):
    pairs = find(make_images("pairs/target", ["a.png"]))
    nameless = PairList("odd", (pairs.pairs[0]._replace(name="b"), pairs.pairs[0]._replace(name="b/c")))
    with pytest.raises(DataError, match="odd would get other names or another order; give each pair a name"):
        shard.write_shards(nameless, tmp_path / "out", 2)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
