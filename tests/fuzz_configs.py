"""Mutated YAML for fuzz_settings.py."""

import random
from pathlib import Path

from restore_diff.config import ConfigError, ExperimentConfig, load_config, to_yaml

TOKENS = (
    *(
        "1e400",
        "-1",
        "0",
        "9" * 400,
        "9" * 6000,
        "0x" + "f" * 6000,
        ".nan",
        "-.inf",
        "1e-400",
        "12:30",
        "0777",
        "1_000",
    ),
    *("on", "null", "~", "???", "2020-02-30", "2024-01-01 25:61:61", "''", '"\\x00"', '"\\u202e\\n\\t"', '"\\ud800"'),
    *("${seed}", "${oc.env:HOME}", "${a}${a}", "[[[]]]", "{}", "{a: {b: {c: 1}}}", "<<: {seed: 1}", "&a [1]", "*a"),
    *("!!python/object/apply:os.system [ls]", "!!binary aGk=", "!!float x", "!!set {a}", "!!timestamp x", "!x y"),
    *(
        "- 1",
        "? [1]\n: 2",
        "---",
        "...",
        "%YAML 9.9\n---",
        "# x",
        "\t",
        "\ufeff",
        "\x85",
        "\u2028",
        "é",
        "日本",
        "\x07",
    ),
    *(
        "[" * 3000,
        "{a: " * 2000,
        "- " * 5000,
        "? " * 5000,
        "x" * 100_000,
        "{" + ",".join(map(str, range(20_000))) + "}",
    ),
    *("|\n  a\n  b", ">-\n x", "'", '"', ":", "{", "]", "@", "`", "=", "1.", "1.5: 2", "null: 3", "true: 1", "../../x"),
)
SEEDS = [path.read_text() for path in sorted(Path(__file__).parents[1].glob("configs/**/*.yaml"))]
SEEDS.append(to_yaml(ExperimentConfig()))


def attempt(draw: random.Random, folder: Path) -> list[str]:
    """Return the problems of a mutated file and mutated overrides; none if load_config reads them."""
    path = folder / "mutated.yaml"
    data = mutated(draw.choice(SEEDS), draw)
    path.write_bytes(data)
    overrides = []
    if draw.random() < 0.3:
        key = draw.choice(
            ["seed", "name", "data.weather", "model.channel_multipliers", "training", "x.y", "a.b.c.d", ""]
        )
        overrides = [f"{key}={draw.choice(TOKENS)}" for _ in range(draw.randint(1, 3))]
    try:
        config = load_config([str(path)], overrides)
    except ConfigError as error:
        return error.problems
    printed = folder / "printed.yaml"
    printed.write_text(to_yaml(config))
    assert load_config([str(printed)]) == config, "the printed config differs"
    return []


def mutated(text: str, draw: random.Random) -> bytes:
    """Edit up to four lines and values, then possibly bytes."""
    lines = text.splitlines()
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        draw.choice([_value, _value, _delete, _double, _splice, _indent, _insert, _misspell])(lines, draw)
    data = bytearray("\n".join(lines).encode("utf-8", "surrogatepass"))
    if draw.random() < 0.2:
        for _ in range(draw.choice([1, 1, 2, 20])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    if draw.random() < 0.05:
        del data[draw.randrange(len(data)) :]
    return bytes(data)


def _value(lines: list[str], draw: random.Random) -> None:
    number = draw.randrange(len(lines))
    lines[number] = f"{lines[number].partition(':')[0]}: {draw.choice(TOKENS)}"


def _delete(lines: list[str], draw: random.Random) -> None:
    if len(lines) > 1:
        del lines[draw.randrange(len(lines))]


def _double(lines: list[str], draw: random.Random) -> None:
    lines.insert(draw.randrange(len(lines)), draw.choice(lines))


def _splice(lines: list[str], draw: random.Random) -> None:
    other = draw.choice(SEEDS).splitlines()
    start = draw.randrange(len(other))
    where = draw.randrange(len(lines))
    lines[where:where] = other[start : start + draw.randint(1, 5)]


def _indent(lines: list[str], draw: random.Random) -> None:
    number = draw.randrange(len(lines))
    lines[number] = draw.choice([" ", "  ", "\t", "- "]) + lines[number]


def _insert(lines: list[str], draw: random.Random) -> None:
    lines.insert(draw.randrange(len(lines)), draw.choice(TOKENS))


def _misspell(lines: list[str], draw: random.Random) -> None:
    number = draw.randrange(len(lines))
    where = draw.randrange(len(lines[number]) + 1)
    lines[number] = lines[number][:where] + draw.choice("x_.:{}[]'\"\n\x1b🙂 ") + lines[number][where + 1 :]
