"""Validation photographs are out of training for good, and the test set has no part in it."""

from pathlib import Path

from restore_diff.data.names import PairPath
from restore_diff.data.pairs import PairList, hold_out


def pairs(num_clean: int, versions: int = 3) -> PairList:
    paths = [
        PairPath(Path(f"{i}_{v}.png"), Path(f"{i}.png"), f"{i}_{v}") for i in range(num_clean) for v in range(versions)
    ]
    return PairList("toy", tuple(paths), ("rgb",), ("a note",))


def test_all_versions_of_a_held_out_photograph_leave_training():
    training, validation = hold_out(pairs(40), 8)
    assert validation is not None
    held = {pair.clean for pair in validation.pairs}
    assert len(held) == len(validation.pairs) == 8
    assert len(training.pairs) == 3 * 32
    assert held.isdisjoint(pair.clean for pair in training.pairs)


def test_at_most_a_fifth_is_held_out_and_nothing_where_nothing_can_be_spared():
    assert len(hold_out(pairs(11), 8)[0].pairs) == 3 * 9
    for few in (pairs(4), pairs(1, versions=1)):
        assert hold_out(few, 8) == (few, None)
    assert hold_out(pairs(40), 0) == (pairs(40), None)


def test_the_choice_does_not_depend_on_order_or_on_new_photographs_of_other_names():
    first = hold_out(pairs(40), 4)[1]
    listed = pairs(40)
    reversed_list = PairList("toy", tuple(reversed(listed.pairs)))
    second = hold_out(reversed_list, 4)[1]
    assert first is not None and second is not None
    assert {pair.clean for pair in first.pairs} == {pair.clean for pair in second.pairs}


def test_of_equal_names_in_several_folders_the_first_paths_are_chosen():
    paths = [Path(f"{folder:02}/1.png") for folder in range(40)]
    listed = PairList("toy", tuple(PairPath(None, path, str(path)) for path in paths))
    _, validation = hold_out(listed, 4)
    assert validation is not None and [pair.clean for pair in validation.pairs] == paths[:4]
