"""Deliberate mistakes in tar files as data sets: (file, text that occurs once, mistake, test that fails by it)."""

TESTS = "tests/data/test_shards.py::"

MUTATIONS = [
    (
        "restore_diff/data/members.py",
        "self._place.first + self._position",
        "self._position",
        f"{TESTS}test_every_format_is_read_from_a_tar_file_as_from_a_file",
    ),
    (
        "restore_diff/data/members.py",
        "min(len(view), self._place.length - self._position)",
        "len(view)",
        f"{TESTS}test_copies_are_found_between_files_and_tar_files",
    ),
    (
        "restore_diff/data/members.py",
        "if not place.state.is_of(",
        "if False and not place.state.is_of(",
        f"{TESTS}test_a_tar_file_that_changes_under_a_run_is_never_read_at_the_old_places",
    ),
    (
        "restore_diff/data/members.py",
        "index = _indexes.get(tar.parent) or refresh_index(tar.parent)",
        "index = _indexes.get(tar.parent, {})",
        f"{TESTS}test_a_process_that_was_not_told_of_the_index_reads_it",
    ),
    (
        "restore_diff/data/tar_index.py",
        "(state.st_size, state.st_mtime_ns) == (self.size, self.mtime_ns)",
        "state.st_size == self.size",
        f"{TESTS}test_the_index_is_written_once_and_tar_files_are_read_through_again_where_they_changed",
    ),
    (
        "restore_diff/data/tar_index.py",
        "        _require_end(tar, file, end)\n",
        "",
        f"{TESTS}test_a_header_that_is_damaged_does_not_end_the_list",
    ),
    (
        "restore_diff/data/tar_index.py",
        'rest.strip(b"\\0")',
        'rest[: tarfile.BLOCKSIZE].strip(b"\\0")',
        f"{TESTS}test_a_second_archive_behind_the_first_is_not_overlooked",
    ),
    (
        "restore_diff/data/tar_index.py",
        "if path.exists() and not _is_ours(path):",
        "if False:",
        f"{TESTS}test_a_damaged_index_is_made_again_and_one_of_another_program_is_left_alone",
    ),
    (
        "restore_diff/data/holdout.py",
        "side_and_name(path.name)[1]",
        "path.stem",
        f"{TESTS}test_tar_files_give_the_batches_of_the_same_files_bit_for_bit",
    ),
    (
        "restore_diff/data/shards.py",
        "(dict(sorted(of_side.items())) for",
        "(dict(of_side.items()) for",
        f"{TESTS}test_tar_files_give_the_batches_of_the_same_files_bit_for_bit",
    ),
    (
        "restore_diff/data/decoding.py",
        "open_file(path) if in_tar(path) else path",
        "io.BytesIO(open_file(path).read()) if in_tar(path) else path",
        f"{TESTS}test_of_a_large_image_its_header_and_end_alone_are_read_to_know_its_size",
    ),
    (
        "restore_diff/data/shard_writing.py",
        "members.pop(path), path)",
        "members[path], path)",
        f"{TESTS}test_shards_of_pairs_that_share_a_clean_image_hold_it_once_and_are_the_same_each_time",
    ),
]
