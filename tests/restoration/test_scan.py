"""What counts as an image in a folder, and that the walk ends and stays inside."""

import os

import pytest

from restore_diff.restoration.sources import scan_folder

PNG_START = b"\x89PNG\r\n\x1a\n"


def starts_like_png(path):
    return path.read_bytes().startswith(PNG_START)


def touch(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def scanned(root, excluded=None, recursive=True):
    scan = scan_folder(root, excluded or root / "out", starts_like_png, recursive)
    return [name.as_posix() for _, name in scan.images], dict(scan.ignored), scan.unreadable


def test_images_are_found_in_the_order_of_their_names_files_before_subfolders(tmp_path):
    for name in ("b/2.jpg", "b/1.jpg", "a/z.jpg", "c.jpg", "B.jpg", "a/x/1.tiff"):
        touch(tmp_path / name)
    assert scanned(tmp_path)[0] == ["B.jpg", "c.jpg", "a/z.jpg", "a/x/1.tiff", "b/1.jpg", "b/2.jpg"]


def test_the_content_decides_for_files_without_the_ending_of_an_image(tmp_path):
    touch(tmp_path / "scan_0001", PNG_START)
    touch(tmp_path / "photo.jpg_large", PNG_START)
    touch(tmp_path / "Thumbs.db", b"no image")
    touch(tmp_path / "notes.TXT", b"no image")
    touch(tmp_path / "README", b"no image")
    assert scanned(tmp_path) == (
        ["photo.jpg_large", "scan_0001"],
        {".db": 1, ".txt": 1, "without ending": 1},
        [],
    )


def test_a_damaged_file_with_the_ending_of_an_image_is_not_ignored(tmp_path):
    touch(tmp_path / "empty.png")
    touch(tmp_path / "TEXT.JPG", b"hello")
    assert scanned(tmp_path)[0] == ["TEXT.JPG", "empty.png"]


def test_hidden_files_and_folders_are_ignored_and_counted(tmp_path):
    touch(tmp_path / "._a.jpg", PNG_START)
    touch(tmp_path / ".thumbnails/a.png", PNG_START)
    touch(tmp_path / "a.jpg", PNG_START)
    assert scanned(tmp_path) == (["a.jpg"], {"hidden": 1, "hidden folder": 1}, [])


def test_a_hidden_input_folder_is_read_when_it_is_named(tmp_path):
    touch(tmp_path / ".camera/a.jpg")
    assert scanned(tmp_path / ".camera")[0] == ["a.jpg"]


def test_links_to_folders_are_not_followed_so_that_loops_end(tmp_path):
    touch(tmp_path / "in/a.jpg")
    touch(tmp_path / "elsewhere/b.jpg")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in/out_of_it").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert scanned(tmp_path / "in") == (["a.jpg"], {"linked folder": 2}, [])


def test_a_link_to_a_file_is_an_image_and_a_broken_one_is_ignored(tmp_path):
    original = touch(tmp_path / "elsewhere/b.jpg", PNG_START)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.jpg").symlink_to(original)
    (tmp_path / "in/gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "in/self.jpg").symlink_to(tmp_path / "in/self.jpg")
    assert scanned(tmp_path / "in") == (["good.jpg"], {"broken link": 2}, [])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_named_like_an_image_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null.png").symlink_to(os.devnull)
    assert scanned(tmp_path) == ([], {"special file": 3}, [])


def test_the_output_folder_inside_the_input_is_not_scanned(tmp_path):
    touch(tmp_path / "in/a.jpg")
    touch(tmp_path / "in/deep/restored/a.jpg")
    touch(tmp_path / "in/restored/b.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "in/deep/restored", target_is_directory=True)
    names, ignored, _ = scanned(tmp_path / "in", excluded=tmp_path / "link")
    assert names == ["a.jpg", "restored/b.jpg"]
    assert not ignored


def test_without_recursion_only_the_folder_itself_is_read(tmp_path):
    touch(tmp_path / "a.jpg")
    touch(tmp_path / "sub/b.jpg")
    assert scanned(tmp_path, recursive=False)[0] == ["a.jpg"]


def test_what_cannot_be_read_is_reported_and_does_not_end_the_scan(tmp_path):
    touch(tmp_path / "a.jpg")
    touch(tmp_path / "secret")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    scan = scan_folder(tmp_path, tmp_path / "out", refuse, recursive=True)
    assert [path.name for path, _ in scan.images] == ["a.jpg"]
    assert scan.unreadable == [(tmp_path / "secret", "Permission denied")]


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    touch(tmp_path / "closed/a.jpg")
    touch(tmp_path / "open/b.jpg")
    listing = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    names, _, unreadable = scanned(tmp_path)
    assert names == ["open/b.jpg"]
    assert unreadable == [(tmp_path / "closed", "Permission denied")]
