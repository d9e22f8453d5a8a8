"""Inputs: folders and their images, files, patterns and lists; places in the output; shards."""

import os
from pathlib import Path, PurePath

import pytest

from restore_diff.restoration.sources import Naming, PlanError, Shard, find_sources, plan_jobs, scan_folder

PHOTOS = ("a.jpg", "b.png", "sub/c.jpg", "sub/deep/d.jpg")
PNG_START = b"\x89PNG\r\n\x1a\n"
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")


def starts_like_png(path):
    return path.read_bytes().startswith(PNG_START)


def touch(*paths, content=b""):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def scanned(root, excluded=None, recursive=True):
    """(names of images, numbers of ignored files by kind)"""
    found = scan_folder(root, excluded or root / "out", starts_like_png, recursive)
    assert all(path == root / name for path, name in found.images) and not found.unreadable
    return [name.as_posix() for _, name in found.images], dict(found.ignored)


def test_images_are_ordered_by_name_with_files_before_subfolders(tmp_path):
    touch(*(tmp_path / name for name in ("b/2.jpg", "b/1.jpg", "a/z.jpg", "c.jpg", "B.jpg", "a/x/1.tiff")))
    assert scanned(tmp_path)[0] == ["B.jpg", "c.jpg", "a/z.jpg", "a/x/1.tiff", "b/1.jpg", "b/2.jpg"]
    assert scanned(tmp_path, recursive=False)[0] == ["B.jpg", "c.jpg"]


def test_the_content_decides_for_files_without_an_image_ending(tmp_path):
    touch(tmp_path / "scan_0001", tmp_path / "photo.jpg_large", content=PNG_START)
    touch(*(tmp_path / name for name in ("Thumbs.db", "notes.TXT", "README")), content=b"no image")
    assert scanned(tmp_path) == (["photo.jpg_large", "scan_0001"], {".db": 1, ".txt": 1, "without ending": 1})


def test_a_damaged_file_with_an_image_ending_is_not_ignored(tmp_path):
    touch(tmp_path / "empty.png")
    touch(tmp_path / "TEXT.JPG", content=b"hello")
    assert scanned(tmp_path)[0] == ["TEXT.JPG", "empty.png"]


def test_hidden_files_and_folders_are_ignored_unless_given(tmp_path):
    touch(*(tmp_path / name for name in ("._a.jpg", ".thumbnails/a.png", "a.jpg")), content=PNG_START)
    assert scanned(tmp_path) == (["a.jpg"], {"hidden": 1, "hidden folder": 1})
    assert scanned(tmp_path / ".thumbnails")[0] == ["a.png"]


def test_links_to_folders_are_not_followed_so_that_loops_end(tmp_path):
    touch(tmp_path / "in/a.jpg", tmp_path / "elsewhere/b.jpg")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in/out_of_it").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert scanned(tmp_path / "in") == (["a.jpg"], {"linked folder": 2})


def test_a_link_to_a_file_is_an_image_and_a_broken_one_is_ignored(tmp_path):
    touch(tmp_path / "elsewhere/b.jpg", content=PNG_START)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.jpg").symlink_to(tmp_path / "elsewhere/b.jpg")
    (tmp_path / "in/gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "in/self.jpg").symlink_to(tmp_path / "in/self.jpg")
    assert scanned(tmp_path / "in") == (["good.jpg"], {"broken link": 2})


@needs_pipes
def test_a_pipe_named_like_an_image_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null.png").symlink_to(os.devnull)
    assert scanned(tmp_path) == ([], {"special file": 3})


def test_the_output_folder_inside_the_input_is_not_scanned(tmp_path):
    touch(*(tmp_path / "in" / name for name in ("a.jpg", "deep/restored/a.jpg", "restored/b.jpg")))
    (tmp_path / "link").symlink_to(tmp_path / "in/deep/restored", target_is_directory=True)
    assert scanned(tmp_path / "in", excluded=tmp_path / "link") == (["a.jpg", "restored/b.jpg"], {})


def test_unreadable_files_and_folders_do_not_end_the_scan(tmp_path, monkeypatch):
    touch(tmp_path / "a.jpg", tmp_path / "secret", tmp_path / "closed/b.jpg")
    listing = os.scandir

    def refuse(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "scandir", lambda path: (refuse if os.fspath(path).endswith("closed") else listing)(path))
    found = scan_folder(tmp_path, tmp_path / "out", refuse, recursive=True)
    assert [path.name for path, _ in found.images] == ["a.jpg"]
    assert found.unreadable == [(tmp_path / name, "Permission denied") for name in ("secret", "closed")]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """photos/ with four images in the current folder."""
    monkeypatch.chdir(tmp_path)
    touch(*(tmp_path / "photos" / name for name in (*PHOTOS, "notes.txt")))
    return tmp_path / "photos"


def found(*inputs, output="out", recursive=True):
    sources = find_sources([str(text) for text in inputs], output, lambda path: False, recursive)
    return [source.name.as_posix() for source in sources.images], sources.unreadable


def plan(*inputs, output="out", **options):
    return plan_jobs([str(text) for text in inputs], Path(output), Naming(), lambda path: False, **options)


def test_several_inputs_go_into_one_output_folder(photos):
    assert found("photos/a.jpg", "photos/sub")[0] == ["a.jpg", "c.jpg", "deep/d.jpg"]
    assert found("photos/sub", recursive=False)[0] == ["c.jpg"]


def test_an_image_given_twice_is_restored_once(photos):
    assert [job.source.name for job in plan("photos/a.jpg", "./photos/a.jpg").jobs] == ["a.jpg"]
    touch(photos / "sub/a.jpg")
    with pytest.raises(PlanError, match="more than one input"):
        plan("photos/a.jpg", "photos/sub/a.jpg")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("photos/*.jpg", ["a.jpg"]),
        ("photos/?.*", ["a.jpg", "b.png"]),
        ("photos/**/*.jpg", ["a.jpg", "sub/c.jpg", "sub/deep/d.jpg"]),
        ("photos/**", ["a.jpg", "b.png", "sub/c.jpg", "sub/deep/d.jpg"]),
        ("photos/*/*.jpg", ["sub/c.jpg"]),
        ("photos/s*/**/d.*", ["sub/deep/d.jpg"]),
        ("photos/sub/[cd].jpg", ["c.jpg"]),
        ("*/a.jpg", ["photos/a.jpg"]),
    ],
)
def test_a_pattern_is_mirrored_from_its_fixed_part_on(photos, pattern, names):
    assert found(pattern)[0] == names


def test_a_pattern_excludes_outputs_loops_and_other_files(photos):
    (photos / "loop").symlink_to(photos, target_is_directory=True)
    touch(photos / "out/a.jpg")
    assert found("photos/**", output="photos/out")[0] == list(PHOTOS)


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(photos):
    touch(photos / "[1].jpg")
    assert found("photos/[1].jpg")[0] == ["[1].jpg"]


@pytest.mark.parametrize("text", ["photos/*.webp", "none/*.jpg", "*.jpg", "photos/**/*.txt"])
def test_a_pattern_without_matches_is_refused(photos, text):
    with pytest.raises(PlanError, match="no image matches"):
        found(text)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"photos/sub/c.jpg\nphotos/a.jpg\n", ["photos/sub/c.jpg", "photos/a.jpg"]),
        (b"\xef\xbb\xbfphotos/sub/c.jpg\r\n\r\nphotos/a.jpg", ["photos/sub/c.jpg", "photos/a.jpg"]),
        (b"photos/sub/c.jpg\0photos/a.jpg\0", ["photos/sub/c.jpg", "photos/a.jpg"]),
        (b"./photos/sub\n", ["photos/sub/c.jpg", "photos/sub/deep/d.jpg"]),
    ],
    ids=["lines", "Windows", "find -print0", "folder"],
)
def test_relative_paths_of_a_list_are_mirrored(photos, content, names):
    Path("list.txt").write_bytes(content)
    assert found("@list.txt")[0] == names


@pytest.mark.skipif(os.name != "posix", reason="paths")
def test_no_listed_path_leads_out_of_the_output_folder(photos, tmp_path):
    touch(tmp_path / "elsewhere/x.png", tmp_path / "elsewhere/out/y.png")
    lines = [
        f"{tmp_path}/elsewhere/x.png",
        "photos/../elsewhere/out/y.png",
        "photos/../photos/../photos/sub",
        "photos/a.jpg",
    ]
    Path("list.txt").write_text("\n".join(lines))
    written = [job.output.relative_to("out").as_posix() for job in plan("@list.txt").jobs]
    assert written == ["x.png", "y.png", "sub/c.jpg", "sub/deep/d.jpg", "photos/a.jpg"]
    Path("out").mkdir()
    Path("out/photos").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(PlanError, match="outside of"):
        plan("@list.txt")


@needs_pipes
def test_listed_paths_that_cannot_be_read_are_reported(photos):
    os.mkfifo("pipe.png")
    Path("list.txt").write_text("\n".join(["none.png", "pipe.png", "x" * 5000, "@list.txt", "photos/a.jpg"]))
    names, unreadable = found("@list.txt")
    assert names == ["photos/a.jpg"]
    missing = "no such file or folder"
    assert [reason for _, reason in unreadable] == [missing, "neither a file nor a folder", missing, missing]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@none.txt", "cannot read the list none.txt: No such file"),
        ("@photos", "cannot read the list photos: Is a directory"),
        ("@", "cannot read the list"),
        ("none.jpg", "no such file or folder: none.jpg"),
        ("x" * 5000, "no such file or folder"),
    ],
)
def test_a_missing_input_is_refused(photos, text, message):
    with pytest.raises(PlanError, match=message):
        found("photos", text)


@pytest.mark.parametrize("text", ["photos", "photos/*.jpg", "@list.txt"])
def test_the_input_folder_cannot_be_the_output_folder(photos, text):
    Path("list.txt").write_text("photos\n")
    with pytest.raises(PlanError, match="the output folder is the input folder"):
        found(text, output="photos")


@pytest.mark.skipif(os.name != "posix", reason="bytes in names")
def test_listed_names_of_undecodable_bytes_are_found(photos):
    name = os.fsdecode(b"caf\xe9 \n.jpg")
    touch(photos / name)
    Path("list.txt").write_bytes(os.fsencode(f"photos/{name}") + b"\0")
    assert found("@list.txt")[0] == [f"photos/{name}"]


def test_shards_hold_each_image_once_and_about_as_many_each(tmp_path):
    touch(*(tmp_path / f"in/x/{k:03d}.jpg" for k in range(300)))
    shares = [plan(tmp_path / "in", output=tmp_path / "out", shard=Shard(i, 3)).jobs for i in range(3)]
    whole = plan(tmp_path / "in", output=tmp_path / "out").jobs
    assert sorted(job for share in shares for job in share) == whole
    assert all(75 < len(share) < 125 for share in shares)
    assert all(share == sorted(share) for share in shares)


def test_the_shard_of_an_image_depends_on_its_name_only(tmp_path):
    """It is the same for other mount points, other files beside it, and other compositions of accents."""
    assert [Shard(k, 8).holds(PurePath("x/a.jpg")) for k in range(8)].index(True) == 6
    composed, decomposed = PurePath("caf\u00e9.jpg"), PurePath("cafe\u0301.jpg")
    assert all(Shard(k, 8).holds(composed) == Shard(k, 8).holds(decomposed) for k in range(8))
    owners = {}
    for root, names in (("one", ["a.jpg", "b.jpg"]), ("two", ["0.jpg", "a.jpg", "b.jpg", "c/d.jpg"])):
        touch(*(tmp_path / root / name for name in names))
        for index in range(5):
            for job in plan(tmp_path / root, output=tmp_path / "out", shard=Shard(index, 5)).jobs:
                owners.setdefault(job.source.name, set()).add(index)
    assert all(len(indices) == 1 for indices in owners.values())


@pytest.mark.parametrize("index", [0, 1])
def test_collisions_are_found_in_every_shard(tmp_path, index):
    touch(tmp_path / "in/a.gif", tmp_path / "in/a.png")
    with pytest.raises(PlanError, match="more than one input"):
        plan(tmp_path / "in", output=tmp_path / "out", shard=Shard(index, 2))


def test_finished_images_are_counted_in_their_shard(tmp_path):
    touch(*(tmp_path / folder / f"{k}.jpg" for folder in ("in", "out") for k in range(20)))
    shares = [plan(tmp_path / "in", output=tmp_path / "out", shard=Shard(index, 2)) for index in range(2)]
    assert sum(len(share.done) for share in shares) == 20 and not any(share.jobs for share in shares)
    assert all(share.folders == {tmp_path / "out"} for share in shares)
