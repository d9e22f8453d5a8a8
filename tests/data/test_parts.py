"""Cards that join cards and folders with weights and rendered weather; held-out photographs."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from reading import take

from restore_diff.data.cards import load_card
from restore_diff.data.loading import PairedImageDataset, TrainingBatches
from restore_diff.data.names import DataError, PairPath
from restore_diff.data.pairs import PairList, find_pairs, hold_out

HEAD = "name: {}\ntask: all_weather\nsource: somewhere.org/{}\nlicence: mine\ncitation: none\nprotocols: [rgb]\n"
WET = "train: {num_pairs: 3, layouts: [{degraded: wet/input, clean: wet/gt}]}\n"


@pytest.fixture
def write_card(tmp_path, monkeypatch):
    """write_card("name", text) makes a card in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets").mkdir()

    def write(name: str, text: str) -> Path:
        path = tmp_path / "datasets" / f"{name}.yaml"
        path.write_text(HEAD.format(name, name) + text)
        return path

    return write


@pytest.fixture
def mixture(write_card, make_images) -> PairList:
    """Three real pairs with weight 2, five photographs in rain, and the same five in snow."""
    for folder in ("wet/input", "wet/gt"):
        make_images(folder, ["0.png", "1.png", "2.png"])
    make_images("photos", [f"{i}.png" for i in range(5)])
    write_card("wet", WET)
    folders = [f"{{folder: photos, weather: {weather}}}" for weather in ("rain", "snow")]
    write_card("mixed", parts("{card: wet, weight: 2}", *folders))
    return find_pairs("mixed", "train", Path())


def parts(*written: str) -> str:
    return f"train: {{parts: [{', '.join(written)}]}}\n"


def refusal(source: str) -> str:
    with pytest.raises(DataError) as caught:
        find_pairs(source, "train", Path())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_card_joins_cards_and_folders_each_with_its_weather(mixture):
    assert Counter((pair.name.split("/")[0], pair.weather, pair.part) for pair in mixture.pairs) == {
        ("wet", None, 0): 3,
        ("photos-rain", "rain", 1): 5,
        ("photos-snow", "snow", 2): 5,
    }
    assert len({pair.name for pair in mixture.pairs}) == 13 and mixture.weights == (2, 1, 1)


def test_a_part_that_joins_others_divides_its_weight_among_them(mixture, write_card):
    write_card("outer", parts("{card: mixed, weight: 6}", "{card: wet, weight: 2}", "{card: wet}"))
    outer = find_pairs("outer", "train", Path())
    assert outer.weights == (3, 1.5, 1.5, 2, 1)
    assert Counter(pair.part for pair in outer.pairs) == {0: 3, 1: 5, 2: 5, 3: 3, 4: 3}
    assert {pair.name.rsplit("/", 1)[0] for pair in outer.pairs if pair.part >= 3} == {"wet", "wet~2"}


def test_a_split_of_photographs_sets_its_weather(write_card, make_images):
    make_images("dry", ["a.png"])
    write_card("clean", "train: {num_pairs: 1, weather: haze, layouts: [{clean: dry}]}\n")
    assert [pair.weather for pair in find_pairs("clean", "train", Path()).pairs] == ["haze"]


def test_every_missing_part_is_reported_with_its_source(write_card):
    write_card("wet", WET)
    write_card("mixed", parts("{card: wet}", "{folder: photos, weather: rain}", "{card: wett}"))
    assert refusal("mixed") == (
        "mixed: 3 of its 3 parts cannot be used: wet: not found below .; expected wet/input and wet/gt; from "
        "somewhere.org/wet; photos: no such folder; put clean photographs there; wett: no such card; did you mean wet?"
    )


def test_a_circle_of_cards_is_refused(write_card):
    write_card("a", parts("{card: b}"))
    write_card("b", parts("{card: a}"))
    assert "cards join each other in a circle: a -> b -> a" in refusal("a")


def test_weather_is_not_rendered_on_a_part_with_degraded_images(mixture, write_card):
    write_card("wrong", parts("{card: wet, weather: rain}", "{folder: wet, weather: rain}"))
    reason = "wet has degraded images of its own: rain is rendered on clean ones alone"
    assert refusal("wrong") == f"wrong: 2 of its 2 parts cannot be used: {reason}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (parts("{card: a, wheight: 2}"), "train.parts.0.wheight: unknown key; did you mean weight?"),
        (parts("{card: a, weight: 0}"), "train.parts.0.weight: Input should be greater than 0"),
        (parts("{weight: 1}"), "train.parts.0: a part is either a card or a folder"),
        (parts("{card: a, folder: b}"), "train.parts.0: a part is either a card or a folder"),
        ("train: {num_pairs: 1}\n", "train: a split has either layouts or parts"),
        ("train: {layouts: [{clean: a}]}\n", "train: num_pairs is missing"),
        ("train: {num_pairs: 1, parts: [{card: a}]}\n", "train: num_pairs and weather belong to layouts"),
        ("train: {num_pairs: 1, weather: rain, layouts: [{clean: a, degraded: b}]}\n", "train: weather is rendered on"),
        ("train: {num_pairs: 1, layouts: [{clean: a, degradde: b}]}\n", "train.layouts.0.degradde: unknown key; did"),
        ("trian: {}\n", "trian: unknown key; did you mean train?"),
    ],
)
def test_mistakes_in_parts_are_reported_with_file_and_key(write_card, text, message):
    path = write_card("card", text)
    with pytest.raises(DataError) as caught:
        load_card(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_the_cards_of_the_documentation_are_valid(write_card):
    text = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text()
    whole, joined = (block.partition("```")[0] for block in text.split("```yaml\n")[1:])
    path = write_card("documented", joined)
    assert [part.weight for part in load_card(path).train.parts] == [1, 0.5, 2]  # type: ignore[union-attr]
    path.write_text(whole)
    assert load_card(path).test.weather == "rain"  # type: ignore[union-attr]


def test_the_weather_card_runs_after_a_bare_install():
    train, test = (find_pairs("weather", split, Path("none")) for split in ("train", "test"))
    kinds = ("rain", "haze", "snow", "raindrop")
    assert train.weights == (1, 1, 1, 1) and Counter(p.weather for p in train.pairs) == dict.fromkeys(kinds, 11)
    assert Counter(p.weather for p in test.pairs) == dict.fromkeys(kinds, 3)


def test_a_pair_is_rendered_with_its_own_weather(mixture, data_config):
    levels = {"rain": 0.2, "snow": 0.8}

    def render(clean, seeds, weathers):
        return torch.stack([torch.full_like(image, levels[w]) for image, w in zip(clean, weathers, strict=True)])

    for batch in take(TrainingBatches(mixture, render, data_config(), 8, 1, seed=0), 6):
        for degraded, name in zip(batch.degraded, batch.names, strict=True):  # type: ignore[arg-type]
            part = name.split("/")[0]
            assert part == "wet" or bool((degraded == levels[part.removeprefix("photos-")]).all())
    images = PairedImageDataset(mixture, render, seed=0)
    assert [round(float(images[i].degraded.mean()), 1) for i in (3, 12)] == [0.2, 0.8]  # type: ignore[union-attr]


def versions(num_clean: int, num_versions: int = 3) -> PairList:
    """Pairs of several degraded versions of each clean image."""
    each = [(i, v) for i in range(num_clean) for v in range(num_versions)]
    pairs = [PairPath(Path(f"{i}_{v}.png"), Path(f"{i}.png"), f"{i}_{v}") for i, v in each]
    return PairList("toy", tuple(pairs), ("rgb",), ("a note",))


def listed(*num: int, folder: str = "part{}") -> PairList:
    """Parts of so many photographs each."""
    each = [(part, i) for part, count in enumerate(num) for i in range(count)]
    pairs = [PairPath(None, Path(f"{folder.format(part)}/{i}.png"), f"{part}/{i}", "rain", part) for part, i in each]
    return PairList("toy", tuple(pairs), weights=(1.0,) * len(num))


def held_out(pairs: PairList, num_clean: int) -> tuple[PairList, PairList]:
    training, validation = hold_out(pairs, num_clean)
    assert validation is not None
    assert {pair.clean for pair in validation.pairs}.isdisjoint(pair.clean for pair in training.pairs)
    return training, validation


def test_all_versions_of_a_held_out_photograph_leave_training():
    training, validation = held_out(versions(40), 8)
    assert len({pair.clean for pair in validation.pairs}) == len(validation.pairs) == 8
    assert len(training.pairs) == 3 * 32


def test_at_most_a_fifth_is_held_out():
    assert len(held_out(versions(11), 8)[0].pairs) == 3 * 9
    for pairs, num_clean in ((versions(4), 8), (versions(1, 1), 8), (versions(40), 0)):
        assert hold_out(pairs, num_clean) == (pairs, None)


def test_the_held_out_choice_depends_on_names_only():
    pairs = versions(40)
    reverse = PairList("toy", tuple(reversed(pairs.pairs)))
    first, second = ({pair.clean for pair in held_out(one, 4)[1].pairs} for one in (pairs, reverse))
    assert first == second
    paths = [Path(f"{folder:02}/1.png") for folder in range(40)]  # equal names: the first paths
    equal = PairList("toy", tuple(PairPath(None, path, str(path)) for path in paths))
    assert [pair.clean for pair in held_out(equal, 4)[1].pairs] == paths[:4]


def test_each_part_gives_and_validates_up_to_a_fifth_of_its_own(monkeypatch):
    monkeypatch.setattr("restore_diff.data.pairs.copies_of", lambda files, among: set(files))  # there are no files
    training, validation = held_out(listed(100, 10, 4), 8)
    assert Counter(pair.part for pair in validation.pairs) == {0: 6, 1: 2}
    assert Counter(pair.part for pair in training.pairs) == {0: 94, 1: 8, 2: 4}
    assert Counter(pair.part for pair in hold_out(listed(10, 90, folder="same"), 30)[0].pairs)[0] == 8
    training, validation = held_out(listed(20, 20, 20, folder="same"), 4)
    assert not validation.weights and training.weights == (1, 1, 1)
    assert len({pair.clean for pair in validation.pairs}) == 4 and len(validation.pairs) == 12
    assert len(training.pairs) == 48


def test_a_copy_of_a_held_out_photograph_leaves_training_too(write_card, make_images):
    first = make_images("first", [f"{i}.png" for i in range(5)])
    second = make_images("second", [f"{i}.png" for i in range(7)])
    for path in first.iterdir():
        (second / f"copy_of_{path.name}").write_bytes(path.read_bytes())
    write_card("twice", parts("{folder: first, weather: rain}", "{folder: second, weather: rain}"))
    training, validation = held_out(find_pairs("twice", "train", Path()), 8)
    assert len(validation.pairs) == 1 + 2
    held = {pair.clean.read_bytes() for pair in validation.pairs}
    assert held.isdisjoint(pair.clean.read_bytes() for pair in training.pairs)
