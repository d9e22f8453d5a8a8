"""Inputs (folders, files, patterns, lists), places of outputs, shards, and mistakes found before any work."""

import os
from pathlib import Path, PurePath

import pytest

from restore_diff.restoration import sources
from restore_diff.restoration.sources import Naming, PlanError, Shard, find_sources, plan_jobs, scan_folder

PHOTOS = ["a.jpg", "b.png", "sub/c.jpg", "sub/deep/d.jpg"]
PNG_START = b"\x89PNG\r\n\x1a\n"
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
on_posix = pytest.mark.skipif(os.name != "posix", reason="bytes in names, absolute paths")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos():
    """photos/ with four images in the current folder."""
    return fill("photos", *PHOTOS, "notes.txt")


def fill(folder, *names, content=b""):
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Path(folder)


def link(path, to):
    Path(path).symlink_to(Path(to).absolute(), target_is_directory=True)


def scanned(root, excluded=None, recursive=True):
    """(names of images, numbers of ignored files by kind)"""
    found = scan_folder(root, excluded or root / "out", recursive)
    assert all(path == root / name for path, name in found.images) and not found.unreadable
    return [name.as_posix() for _, name in found.images], dict(found.ignored)


def found(*inputs, output="out", recursive=True):
    result = find_sources(inputs, Path(output), recursive)
    return [source.name.as_posix() for source in result.images], result.unreadable


def plan(*inputs, output="out", extension="auto", suffix="", **options):
    return plan_jobs([str(text) for text in inputs], Path(output), Naming(extension, suffix), **options)


def planned(*inputs, **options):
    result = plan(*inputs, **options)
    return [job.output.relative_to(result.root).as_posix() for job in result.jobs]


def sources_of(jobs):
    return [job.source.name for job in jobs]


# Inputs.


def test_images_are_ordered_by_name_with_files_before_subfolders():
    root = fill("in", "b/2.jpg", "b/1.jpg", "a/z.jpg", "c.jpg", "B.jpg", "a/x/1.tiff")
    assert scanned(root)[0] == ["B.jpg", "c.jpg", "a/z.jpg", "a/x/1.tiff", "b/1.jpg", "b/2.jpg"]
    assert scanned(root, recursive=False)[0] == ["B.jpg", "c.jpg"]


def test_an_image_has_the_ending_of_one_or_begins_like_one():
    root = fill("in", "scan_0001", "photo.jpg_large", content=PNG_START)
    fill(root, "TEXT.JPG", "Thumbs.db", "notes.TXT", "README", content=b"no image")
    names = ["TEXT.JPG", "photo.jpg_large", "scan_0001"]  # a damaged one is not ignored
    assert scanned(root) == (names, {".db": 1, ".txt": 1, "without ending": 1})


def test_hidden_files_and_folders_are_ignored_unless_given():
    root = fill("in", "._a.jpg", ".thumbnails/a.png", "a.jpg", content=PNG_START)
    assert scanned(root) == (["a.jpg"], {"hidden": 1, "hidden folder": 1})
    assert scanned(root / ".thumbnails")[0] == ["a.png"]


def test_links_to_files_are_images_and_links_to_folders_are_not_followed():
    root = fill("in", "a.jpg")
    fill("elsewhere", "b.jpg", content=PNG_START)
    for name, target in {"loop": "in", "out_of_it": "elsewhere", "good.jpg": "elsewhere/b.jpg"}.items():
        link(root / name, target)
    link(root / "gone.jpg", "nothing.jpg")
    link(root / "self.jpg", root / "self.jpg")
    assert scanned(root) == (["a.jpg", "good.jpg"], {"linked folder": 2, "broken link": 2})


@needs_pipes
def test_a_pipe_named_like_an_image_is_never_opened(tmp_path):
    os.mkfifo("pipe.jpg")
    os.mkfifo("pipe")
    Path("null.png").symlink_to(os.devnull)
    assert scanned(tmp_path) == ([], {"special file": 3})


def test_the_output_folder_inside_the_input_is_not_scanned():
    root = fill("in", "a.jpg", "deep/restored/a.jpg", "restored/b.jpg")
    link("link", root / "deep/restored")
    assert scanned(root, excluded=Path("link")) == (["a.jpg", "restored/b.jpg"], {})


def test_unreadable_files_and_folders_do_not_end_the_scan(tmp_path, monkeypatch):
    fill(tmp_path, "a.jpg", "secret", "closed/b.jpg")
    listing = os.scandir

    def refuse(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "scandir", lambda path: (refuse if os.fspath(path).endswith("closed") else listing)(path))
    monkeypatch.setattr(sources, "is_image", refuse)
    result = scan_folder(tmp_path, tmp_path / "out", recursive=True)
    assert [path.name for path, _ in result.images] == ["a.jpg"]
    assert result.unreadable == [(tmp_path / name, "Permission denied") for name in ("secret", "closed")]


def test_several_inputs_go_into_one_output_folder(photos):
    assert found("photos/a.jpg", "photos/sub")[0] == ["a.jpg", "c.jpg", "deep/d.jpg"]
    assert found("photos/sub", recursive=False)[0] == ["c.jpg"]
    assert sources_of(plan("photos/a.jpg", "./photos/a.jpg").jobs) == ["a.jpg"]  # given twice, restored once


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("photos/*.jpg", ["a.jpg"]),
        ("photos/?.*", ["a.jpg", "b.png"]),
        ("photos/**/*.jpg", ["a.jpg", "sub/c.jpg", "sub/deep/d.jpg"]),
        ("photos/**", PHOTOS),
        ("photos/*/*.jpg", ["sub/c.jpg"]),
        ("photos/s*/**/d.*", ["sub/deep/d.jpg"]),
        ("photos/sub/[cd].jpg", ["c.jpg"]),
        ("*/a.jpg", ["photos/a.jpg"]),
    ],
)
def test_a_pattern_is_mirrored_from_its_fixed_part_on(photos, pattern, names):
    assert found(pattern)[0] == names


def test_a_pattern_excludes_outputs_and_loops_and_can_be_the_name_of_a_file(photos):
    link(photos / "loop", photos)
    fill(photos, "out/a.jpg")
    assert found("photos/**", output="photos/out")[0] == PHOTOS
    fill(photos, "[1].jpg")
    assert found("photos/[1].jpg")[0] == ["[1].jpg"]


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


@on_posix
def test_no_listed_path_leads_out_of_the_output_folder(photos, tmp_path):
    fill("elsewhere", "x.png", "out/y.png")
    lines = [
        f"{tmp_path}/elsewhere/x.png",
        "photos/../elsewhere/out/y.png",
        "photos/../photos/../photos/sub",
        "photos/a.jpg",
    ]
    Path("list.txt").write_text("\n".join(lines))
    assert planned("@list.txt") == ["x.png", "y.png", "sub/c.jpg", "sub/deep/d.jpg", "photos/a.jpg"]


@needs_pipes
def test_listed_paths_that_cannot_be_read_are_reported(photos):
    os.mkfifo("pipe.png")
    Path("list.txt").write_text("\n".join(["none.png", "pipe.png", "x" * 5000, "@list.txt", "photos/a.jpg"]))
    names, unreadable = found("@list.txt")
    assert names == ["photos/a.jpg"]
    missing = "no such file or folder"
    assert [reason for _, reason in unreadable] == [missing, "neither a file nor a folder", missing, missing]


@on_posix
def test_names_of_undecodable_bytes_are_planned_and_found_in_lists(photos):
    names = [os.fsdecode(b"caf\xe9 \n.jpg"), "-rf.jpg", "new\nline.jpg", "a .jpg"]
    assert len(planned(fill("in", *names))) == 4
    Path("list.txt").write_bytes(b"in/caf\xe9 \n.jpg\0")
    assert found("@list.txt")[0] == [f"in/{names[0]}"]


# Places of outputs.


@pytest.mark.parametrize(
    ("extension", "suffix", "name", "expected"),
    [
        ("auto", "", "a.JPG", "a.JPG"),
        ("auto", "_restored", "a.tiff", "a_restored.tiff"),
        ("auto", "", "a.gif", "a.png"),
        ("auto", "", "a.jfif", "a.png"),
        ("auto", "", "scan.0001", "scan.0001.png"),
        ("auto", "", "trailing.", "trailing..png"),
        ("png", "", "a.b.jpg", "a.b.png"),
        ("tif", "_x", "no_ending", "no_ending_x.tif"),
        ("webp", "", "a.jpg.jpg", "a.jpg.webp"),
    ],
)
def test_an_output_keeps_the_stem_and_gets_suffix_and_ending(extension, suffix, name, expected):
    assert Naming(extension, suffix).name(name) == expected


def test_kept_endings_are_those_that_can_be_written():
    from restore_diff.data.images import WRITE_FORMATS
    from restore_diff.data.names import SUFFIXES

    assert set(WRITE_FORMATS) == sources.WRITTEN_ENDINGS
    assert set(SUFFIXES) <= sources.IMAGE_ENDINGS


def test_outputs_comparisons_and_uncertainty_mirror_the_input():
    jobs = plan(fill("in", "a.jpg", "x/y z/a.png"), compare=True, uncertainty=True).jobs
    assert [[path.relative_to("out").as_posix() for path in job.written] for job in jobs] == [
        ["a.jpg", "comparisons/a.jpg.png", "uncertainty/a.jpg.png"],
        ["x/y z/a.png", "comparisons/x/y z/a.png", "uncertainty/x/y z/a.png"],
    ]
    assert not Path("out").exists()  # planning writes nothing


def test_a_file_goes_into_a_folder_or_to_the_given_file():
    fill(".", "a.jpg")
    Path("folder.png").mkdir()
    places = {"out": "out/a.jpg", "out.v2": "out.v2/a.jpg", "new/b.png": "new/b.png", "folder.png": "folder.png/a.jpg"}
    for output, place in places.items():
        assert plan("a.jpg", output=output).jobs[0].output == Path(place)


def test_an_image_with_an_output_is_done_unless_overwritten():
    fill("in", "a.jpg", "b.jpg")
    fill("out", "b.jpg")
    Path("out/a.jpg").mkdir()  # not the output: that is a file
    result = plan("in")
    assert (sources_of(result.jobs), sources_of(result.done)) == (["a.jpg"], ["b.jpg"])
    assert planned("in", overwrite=True) == ["a.jpg", "b.jpg"]


def test_a_name_that_becomes_too_long_is_planned():
    assert len(planned(fill("in", "x" * 251 + ".jpg"), suffix="_restored")) == 1


# Mistakes.


@pytest.mark.parametrize(
    ("text", "output", "message"),
    [
        ("none.jpg", "out", "no such file or folder: none.jpg"),
        ("x" * 5000, "out", "no such file or folder"),
        ("@none.txt", "out", "cannot read the list none.txt: No such file"),
        ("@photos", "out", "cannot read the list photos: Is a directory"),
        ("@", "out", "cannot read the list"),
        *((pattern, "out", "no image matches") for pattern in ("photos/*.webp", "none/*.jpg", "*.jpg", "photos/*.txt")),
        *((text, "photos", "output folder is the input folder") for text in ("photos", "photos/*.jpg", "@list.txt")),
        ("photos", "photos/../photos", "output folder is the input folder"),
        ("photos", "linked", "output folder is the input folder"),
        ("photos", "file.txt", "must be a folder"),
        ("photos", "photos/a.jpg", "must be a folder"),
        ("photos/a.jpg", "file.txt", "must be a folder"),
        ("photos", "file.txt/out", "file.txt is a file"),
        ("photos/a.jpg", "file.txt/b.png", "file.txt is a file"),
    ],
)
def test_inputs_and_outputs_that_do_not_fit_are_refused(photos, text, output, message):
    Path("list.txt").write_text("photos\n")
    Path("file.txt").touch()
    link("linked", photos)
    with pytest.raises(PlanError, match=message):
        plan(text, output=output)


def test_suffix_and_ending_are_for_folders_and_suffixes_for_names(photos):
    with pytest.raises(PlanError, match="is a file: leave out"):
        plan("photos/a.jpg", output="b.png", suffix="_x")
    for suffix in ("/../../x", "a/b", "..\\x", "\0"):
        with pytest.raises(PlanError, match="part of a file name"):
            Naming(suffix=suffix)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["a.jpg", "a.png"], {"extension": "png"}),
        (["A.png", "a.png"], {}),
        (["x/a.png", "X/a.png"], {}),
        (["a.gif", "a.PNG"], {}),
        (["caf\u00e9.png", "cafe\u0301.png"], {}),
        (["a.png", "comparisons/a.png"], {"compare": True}),
    ],
)
@pytest.mark.parametrize("index", [0, 1])
def test_outputs_with_the_same_name_are_refused_in_every_shard(names, options, index):
    if len(list(fill("in", *names).rglob("*.*"))) < 2:
        pytest.skip("the inputs are one file on this file system")
    with pytest.raises(PlanError, match="1 outputs would be written by more than one input") as error:
        plan("in", shard=Shard(index, 2), **options)
    assert all(f"in/{name}" in error.value.args[1] for name in names)


def test_a_long_list_of_mistakes_is_cut_and_counted():
    fill("in", *(f"{k}.{ending}" for k in range(13) for ending in ("jpg", "png")))
    with pytest.raises(PlanError) as error:
        plan("in", extension="png")
    assert error.value.args[0].startswith("13 outputs")
    assert len(error.value.args) == 1 + 10 + 1
    assert error.value.args[-1] == "  and 3 more"


def test_an_output_that_is_an_input_is_refused_by_identity():
    fill("in", "a.jpg", "in/a.jpg", "comparisons/a.png")
    Path("out").mkdir()
    link("out/a.jpg", "in/a.jpg")
    for source, output, options in (
        ("in/a.jpg", "in", {}),
        ("in/a.jpg", "in/a.jpg", {}),
        ("in/a.jpg", "out", {}),
        ("in", ".", {}),  # in/in/a.jpg would go to in/a.jpg
        ("in/comparisons", "in", {"compare": True}),
    ):
        for overwrite in (False, True):
            with pytest.raises(PlanError, match="would replace an input"):
                plan(source, output=output, overwrite=overwrite, **options)
    assert planned("in/a.jpg", output="in", suffix="_new") == ["a_new.jpg"]


def test_a_link_in_the_output_folder_cannot_lead_out_of_it():
    fill("in", "a.jpg", "sub/b.jpg")
    Path("elsewhere").mkdir()
    Path("out").mkdir()
    link("out/sub", "elsewhere")
    with pytest.raises(PlanError, match="outside of") as error:
        plan("in")
    assert "out/sub" in error.value.args[1]
    link("linked_out", "elsewhere")
    assert planned("in", output="linked_out") == ["a.jpg", "sub/b.jpg"]  # a link given as output is followed


# Shards.


def test_shards_hold_each_image_once_about_as_many_each_and_count_finished_ones():
    fill("in/x", *(f"{k:03d}.jpg" for k in range(300)))
    fill("out/x", *(f"{k:03d}.jpg" for k in range(20)))
    whole, shares = plan("in"), [plan("in", shard=Shard(index, 3)) for index in range(3)]
    assert sorted(job for share in shares for job in share.jobs) == whole.jobs
    assert sorted(job for share in shares for job in share.done) == whole.done
    assert all(75 < len(share.jobs) + len(share.done) < 125 for share in shares)
    assert all(share.jobs == sorted(share.jobs) and share.folders == {Path("out/x")} for share in shares)


def test_the_shard_of_an_image_depends_on_its_name_only():
    """It is the same for other mount points, other files beside it, and other compositions of accents."""
    assert [Shard(k, 8).holds(PurePath("x/a.jpg")) for k in range(8)].index(True) == 6
    composed, decomposed = PurePath("caf\u00e9.jpg"), PurePath("cafe\u0301.jpg")
    assert all(Shard(k, 8).holds(composed) == Shard(k, 8).holds(decomposed) for k in range(8))
    fill("one", "a.jpg", "b.jpg")
    fill("two", "0.jpg", "a.jpg", "b.jpg", "c/d.jpg")
    shares = [{root: sources_of(plan(root, shard=Shard(k, 5)).jobs) for root in ("one", "two")} for k in range(5)]
    assert all(set(share["one"]) == {"a.jpg", "b.jpg"} & set(share["two"]) for share in shares)
