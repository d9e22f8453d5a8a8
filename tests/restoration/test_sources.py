"""Files, folders, patterns and lists as inputs: what they name, where it goes, and how images are shared out."""

import os
from pathlib import Path, PurePath

import pytest

from restore_diff.restoration.sources import Naming, PlanError, Shard, find_sources, plan_jobs

PHOTOS = ("a.jpg", "b.png", "sub/c.jpg", "sub/deep/d.jpg")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """photos/ with four images in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in PHOTOS:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "photos/notes.txt").touch()
    return tmp_path / "photos"


def found(*inputs, output="out", recursive=True):
    sources = find_sources([str(text) for text in inputs], output, lambda path: False, recursive)
    return [source.name.as_posix() for source in sources.images], sources


def plan(*inputs, output="out", **options):
    return plan_jobs([str(text) for text in inputs], Path(output), Naming(), lambda path: False, **options)


def test_several_inputs_go_into_one_output_folder(photos):
    assert found("photos/a.jpg", "photos/sub")[0] == ["a.jpg", "c.jpg", "deep/d.jpg"]
    assert found("photos/sub", recursive=False)[0] == ["c.jpg"]


def test_an_image_that_is_named_twice_is_restored_once(photos):
    assert [job.source.name for job in plan("photos/a.jpg", "./photos/a.jpg").jobs] == ["a.jpg"]
    with pytest.raises(PlanError, match="more than one input"):
        (photos / "sub/a.jpg").touch()
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


def test_a_pattern_finds_no_output_no_loop_and_no_text(photos):
    (photos / "loop").symlink_to(photos, target_is_directory=True)
    (photos / "out").mkdir()
    (photos / "out/a.jpg").touch()
    assert found("photos/**", output="photos/out")[0] == list(PHOTOS)


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(photos):
    (photos / "[1].jpg").touch()
    assert found("photos/[1].jpg")[0] == ["[1].jpg"]


@pytest.mark.parametrize("text", ["photos/*.webp", "none/*.jpg", "*.jpg", "photos/**/*.txt"])
def test_a_pattern_without_matches_is_refused(photos, text):
    with pytest.raises(PlanError, match="no image matches"):
        found(text)


@pytest.mark.parametrize(
    "content",
    [
        b"photos/sub/c.jpg\nphotos/a.jpg\n",
        b"\xef\xbb\xbfphotos/sub/c.jpg\r\n\r\nphotos/a.jpg",
        b"photos/sub/c.jpg\0photos/a.jpg\0",
    ],
    ids=["lines", "Windows", "find -print0"],
)
def test_a_list_mirrors_relative_paths_as_they_stand(photos, content):
    (photos.parent / "list.txt").write_bytes(content)
    assert found("@list.txt")[0] == ["photos/sub/c.jpg", "photos/a.jpg"]


def test_a_listed_folder_is_mirrored(photos):
    (photos.parent / "list.txt").write_text("./photos/sub\n")
    assert found("@list.txt")[0] == ["photos/sub/c.jpg", "photos/sub/deep/d.jpg"]


@pytest.mark.skipif(os.name != "posix", reason="paths")
def test_nothing_that_a_list_says_leads_out_of_the_output_folder(photos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.png").touch()
    (tmp_path / "elsewhere/out").mkdir()
    (tmp_path / "elsewhere/out/y.png").touch()
    lines = [
        f"{tmp_path}/elsewhere/x.png",
        "photos/../elsewhere/out/y.png",
        "photos/../photos/../photos/sub",
        "photos/a.jpg",
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    plans = plan("@list.txt", output=tmp_path / "out")
    written = [job.output.relative_to(tmp_path / "out").as_posix() for job in plans.jobs]
    assert written == ["x.png", "y.png", "sub/c.jpg", "sub/deep/d.jpg", "photos/a.jpg"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/photos").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(PlanError, match="outside of"):
        plan("@list.txt", output=tmp_path / "out")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_what_is_listed_and_cannot_be_read_is_told_and_the_rest_restored(photos, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "list.txt").write_text("\n".join(["none.png", "pipe.png", "x" * 5000, "@list.txt", "photos/a.jpg"]))
    names, sources = found("@list.txt")
    assert names == ["photos/a.jpg"]
    assert [reason for _, reason in sources.unreadable] == [
        "no such file or folder",
        "neither a file nor a folder",
        "no such file or folder",
        "no such file or folder",
    ]


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
def test_an_input_that_is_not_there_is_refused(photos, text, message):
    with pytest.raises(PlanError, match=message):
        found("photos", text)


def test_an_input_folder_cannot_be_the_output_folder_however_it_is_named(photos, tmp_path):
    (tmp_path / "list.txt").write_text("photos\n")
    for text in ("photos", "photos/*.jpg", "@list.txt"):
        with pytest.raises(PlanError, match="the output folder is the input folder"):
            found(text, output="photos")


@pytest.mark.skipif(os.name != "posix", reason="bytes in names")
def test_listed_names_that_are_no_text_are_found(photos, tmp_path):
    name = os.fsdecode(b"caf\xe9 \n.jpg")
    (photos / name).touch()
    (tmp_path / "list.txt").write_bytes(os.fsencode(f"photos/{name}") + b"\0")
    assert found("@list.txt")[0] == [f"photos/{name}"]


def test_shards_hold_each_image_once_and_about_as_many_each(tmp_path):
    (tmp_path / "in/x").mkdir(parents=True)
    for k in range(300):
        (tmp_path / f"in/x/{k:03d}.jpg").touch()
    shares = [plan(tmp_path / "in", output=tmp_path / "out", shard=Shard(i, 3)).jobs for i in range(3)]
    whole = plan(tmp_path / "in", output=tmp_path / "out").jobs
    assert sorted(job for share in shares for job in share) == whole
    assert all(75 < len(share) < 125 for share in shares)
    assert all(share == sorted(share) for share in shares)


def test_whose_an_image_is_does_not_depend_on_the_machine_the_order_or_the_other_images(tmp_path):
    """Where the folder is mounted, what else lies in it, and how an accent is composed is not the same everywhere."""
    assert [Shard(k, 8).holds(PurePath("x/a.jpg")) for k in range(8)].index(True) == 6
    assert [Shard(k, 8).holds(PurePath("caf\u00e9.jpg")) for k in range(8)] == [
        Shard(k, 8).holds(PurePath("cafe\u0301.jpg")) for k in range(8)
    ]
    owners = {}
    for root, names in (("one", ["a.jpg", "b.jpg"]), ("two", ["0.jpg", "a.jpg", "b.jpg", "c/d.jpg"])):
        for name in names:
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / root / name).touch()
        for index in range(5):
            for job in plan(tmp_path / root, output=tmp_path / "out", shard=Shard(index, 5)).jobs:
                owners.setdefault(job.source.name, set()).add(index)
    assert all(len(found_by) == 1 for found_by in owners.values())


def test_collisions_are_found_whoever_would_restore_them(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.gif", "a.png"):
        (tmp_path / "in" / name).touch()
    for index in range(2):
        with pytest.raises(PlanError, match="more than one input"):
            plan(tmp_path / "in", output=tmp_path / "out", shard=Shard(index, 2))


def test_what_is_done_counts_for_whose_it_is(tmp_path):
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
        for k in range(20):
            (tmp_path / folder / f"{k}.jpg").touch()
    shares = [plan(tmp_path / "in", output=tmp_path / "out", shard=Shard(index, 2)) for index in range(2)]
    assert sum(len(share.done) for share in shares) == 20 and not any(share.jobs for share in shares)
    assert all(share.folders == {tmp_path / "out"} for share in shares)
