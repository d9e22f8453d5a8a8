"""Places of outputs, and mistakes found before any work."""

import os

import pytest

from restore_diff.restoration.sources import Naming, PlanError, plan_jobs


def plan(source, output, extension="auto", suffix="", **options):
    return plan_jobs([str(source)], output, Naming(extension, suffix), lambda path: False, **options)


def planned(*arguments, **options):
    result = plan(*arguments, **options)
    return [job.output.relative_to(result.root).as_posix() for job in result.jobs]


def fill(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content of " + os.fsencode(name))
    return folder


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


def test_a_tree_is_mirrored(tmp_path):
    source = fill(tmp_path / "in", "a.jpg", "x/a.jpg", "x/y z/b.png")
    assert planned(source, tmp_path / "out") == ["a.jpg", "x/a.jpg", "x/y z/b.png"]
    assert not (tmp_path / "out").exists()  # planning writes nothing


def test_a_file_goes_into_a_folder_or_to_the_given_file(tmp_path):
    source = fill(tmp_path, "a.jpg") / "a.jpg"
    assert plan(source, tmp_path / "out").jobs[0].output == tmp_path / "out/a.jpg"
    assert plan(source, tmp_path / "out.v2").jobs[0].output == tmp_path / "out.v2/a.jpg"
    assert plan(source, tmp_path / "new/b.png").jobs[0].output == tmp_path / "new/b.png"
    (tmp_path / "folder.png").mkdir()
    assert plan(source, tmp_path / "folder.png").jobs[0].output == tmp_path / "folder.png/a.jpg"


def test_an_image_with_an_output_is_done_unless_overwritten(tmp_path):
    source = fill(tmp_path / "in", "a.jpg", "b.jpg")
    fill(tmp_path / "out", "b.jpg")
    result = plan(source, tmp_path / "out")
    assert [job.source.name for job in result.jobs] == ["a.jpg"]
    assert [job.source.name for job in result.done] == ["b.jpg"]
    assert planned(source, tmp_path / "out", overwrite=True) == ["a.jpg", "b.jpg"]


def test_a_folder_named_like_an_output_is_not_the_output(tmp_path):
    source = fill(tmp_path / "in", "a.jpg")
    (tmp_path / "out/a.jpg").mkdir(parents=True)
    assert planned(source, tmp_path / "out") == ["a.jpg"]


def test_comparisons_mirror_the_outputs_in_their_own_folder(tmp_path):
    source = fill(tmp_path / "in", "a.jpg", "x/a.png")
    jobs = plan(source, tmp_path / "out", compare=True).jobs
    assert [job.comparison for job in jobs] == [
        tmp_path / "out/comparisons/a.jpg.png",
        tmp_path / "out/comparisons/x/a.png",
    ]
    both = plan(source, tmp_path / "out", compare=True, uncertainty=True).jobs[0]
    assert both.written == [both.output, both.comparison, tmp_path / "out/uncertainty/a.jpg.png"]


@pytest.mark.parametrize(
    ("names", "extension"),
    [
        (("a.jpg", "a.png"), "png"),
        (("A.png", "a.png"), "auto"),
        (("x/a.png", "X/a.png"), "auto"),
        (("a.gif", "a.PNG"), "auto"),
        (("caf\u00e9.png", "cafe\u0301.png"), "auto"),
    ],
)
def test_outputs_with_the_same_name_are_refused(tmp_path, names, extension):
    source = fill(tmp_path / "in", *names)
    if len(list(source.rglob("*.*"))) < 2:
        pytest.skip("the inputs are one file on this file system")
    with pytest.raises(PlanError, match="1 outputs would be written by more than one input") as error:
        plan(source, tmp_path / "out", extension)
    assert all(str(source / name) in error.value.args[1] for name in names)


def test_a_comparison_that_would_replace_an_output_is_refused(tmp_path):
    source = fill(tmp_path / "in", "a.png", "comparisons/a.png")
    with pytest.raises(PlanError, match="more than one input"):
        plan(source, tmp_path / "out", compare=True)


def test_a_long_list_of_mistakes_is_cut_and_counted(tmp_path):
    source = fill(tmp_path / "in", *(f"{k}.{ending}" for k in range(13) for ending in ("jpg", "png")))
    with pytest.raises(PlanError) as error:
        plan(source, tmp_path / "out", "png")
    assert error.value.args[0].startswith("13 outputs")
    assert len(error.value.args) == 1 + 10 + 1
    assert error.value.args[-1] == "  and 3 more"


@pytest.mark.parametrize("name", ["in", "in/../in", "linked"])
def test_the_input_folder_as_output_is_refused(tmp_path, name):
    source = fill(tmp_path / "in", "a.jpg")
    (tmp_path / "linked").symlink_to(source, target_is_directory=True)
    with pytest.raises(PlanError, match="is the input folder"):
        plan(source, tmp_path / name, suffix="_restored")


def test_an_output_that_is_an_input_is_refused_by_identity(tmp_path):
    photo = fill(tmp_path / "in", "a.jpg", "in/a.jpg") / "a.jpg"
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.jpg").symlink_to(photo)
    for source, output, overwrite in (
        (photo, tmp_path / "in", False),
        (photo, tmp_path / "in", True),
        (photo, photo, False),
        (photo, photo, True),
        (tmp_path / "in", tmp_path, True),  # in/in/a.jpg would go to in/a.jpg
        (photo, tmp_path / "out", True),
    ):
        with pytest.raises(PlanError, match="would replace an input"):
            plan(source, output, overwrite=overwrite)
    assert plan(photo, tmp_path / "in", suffix="_new").jobs[0].output == tmp_path / "in/a_new.jpg"


def test_a_comparison_that_would_replace_an_input_is_refused(tmp_path):
    source = fill(tmp_path / "comparisons", "a.png")
    with pytest.raises(PlanError, match="would replace an input"):
        plan(source, tmp_path, compare=True)


def test_an_output_folder_inside_the_input_is_not_an_input(tmp_path):
    source = fill(tmp_path / "in", "a.jpg", "restored/a.jpg")
    result = plan(source, source / "restored")
    assert [job.source.name for job in result.done] == ["a.jpg"]
    assert not result.jobs


def test_a_link_in_the_output_folder_cannot_lead_out_of_it(tmp_path):
    source = fill(tmp_path / "in", "a.jpg", "sub/b.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(PlanError, match="outside of") as error:
        plan(source, tmp_path / "out")
    assert str(tmp_path / "out/sub") in error.value.args[1]
    (tmp_path / "linked_out").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert planned(source, tmp_path / "linked_out") == ["a.jpg", "sub/b.jpg"]  # a link given as output is followed


@pytest.mark.parametrize("suffix", ["/../../x", "a/b", "..\\x", "\0"])
def test_a_suffix_cannot_lead_out_of_the_output_folder(suffix):
    with pytest.raises(PlanError, match="part of a file name"):
        Naming(suffix=suffix)


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("missing", "out", "no such file or folder"),
        ("in", "file.txt", "must be a folder"),
        ("in", "in/a.jpg", "must be a folder"),
        ("in/a.jpg", "file.txt", "must be a folder"),
        ("in", "file.txt/out", "file.txt is a file"),
        ("in/a.jpg", "file.txt/b.png", "file.txt is a file"),
    ],
)
def test_inputs_and_outputs_that_do_not_fit_are_refused(tmp_path, source, output, message):
    fill(tmp_path, "in/a.jpg", "file.txt")
    with pytest.raises(PlanError, match=message):
        plan(tmp_path / source, tmp_path / output)


def test_an_output_file_excludes_suffix_and_ending(tmp_path):
    source = fill(tmp_path, "a.jpg") / "a.jpg"
    with pytest.raises(PlanError, match="is a file: leave out"):
        plan(source, tmp_path / "b.png", suffix="_x")


def test_a_name_that_becomes_too_long_is_planned(tmp_path):
    source = fill(tmp_path / "in", "x" * 251 + ".jpg")
    assert len(plan(source, tmp_path / "out", suffix="_restored").jobs) == 1


@pytest.mark.skipif(os.name != "posix", reason="bytes in names")
def test_names_of_undecodable_bytes_are_planned(tmp_path):
    source = fill(tmp_path / "in", os.fsdecode(b"caf\xe9.jpg"), "-rf.jpg", "new\nline.jpg", "a .jpg")
    assert len(plan(source, tmp_path / "out").jobs) == 4
