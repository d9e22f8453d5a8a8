"""restore-diff datasets: the cards, their images on this disk, and where to get the rest."""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from restore_diff.commands.console import BAD_USAGE, OK, complain, hyphenated, path, run_command, say
from restore_diff.data.cards import CardConfig, PartConfig, SplitConfig, find_cards, load_card, nearest_cards
from restore_diff.data.names import DataError
from restore_diff.data.pairs import NotOnDisk, Split, find_pairs, places_of

PROGRAM = "restore-diff datasets"
COLUMNS = ("card", "task", "train", "test", "licence", "where to get it")


@dataclass(frozen=True)
class SplitFound:
    """The images of one split of a card on this disk."""

    split: SplitConfig
    num_found: int
    problem: str
    """Reason why it cannot be used, or empty."""
    on_disk: bool

    def counts(self) -> str:
        """Return `found/published`, or `found` for joined data sets."""
        found = "-" if self.problem else str(self.num_found)
        return f"{found}/{self.split.num_pairs}" if self.split.num_pairs is not None else found


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit code of the help text. Raises SystemExit for --help and malformed arguments."""
    args = parser().parse_args(hyphenated(sys.argv[1:] if argv is None else argv))
    return run_command(PROGRAM, lambda: _show(args))


def parser() -> argparse.ArgumentParser:
    """The arguments, for `parse_args` and for shell completion."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="List the known data sets: images found / published, `-` if none or not all are found.",
        epilog="exit codes: 0 done, 2 bad usage or a card with mistakes, 130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("card", nargs="?", help="print this card and the folders of its files")
    root_help = "folder of the data sets (default: data)"
    parser.add_argument("--root", type=path, default=Path("data"), metavar="FOLDER", help=root_help)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _show(args: argparse.Namespace) -> int:
    """Print the valid cards; report the others on stderr."""
    cards = find_cards()
    if args.card is not None and args.card not in cards:
        raise DataError(f"{args.card}: no such card; {nearest_cards(args.card)}")
    loaded: dict[str, CardConfig] = {}
    mistakes: list[str] = []
    for name in sorted(cards) if args.card is None else [args.card]:
        try:
            loaded[name] = load_card(cards[name])
        except DataError as error:
            mistakes.append(str(error))
    found = {name: _look_for(name, card, args.root) for name, card in loaded.items()}
    if args.json:
        described = {name: _plain(card, found[name]) for name, card in loaded.items()}
        say(json.dumps(described if args.card is None else described.get(args.card)))
    elif args.card is None:
        say(*_table([_row(name, card, found[name]) for name, card in loaded.items()]))
        say("", f"counts: found below {args.root}/ of published; one in full: {PROGRAM} CARD")
    else:
        say(*(line for name, card in loaded.items() for line in _details(name, card, found[name])))
    for mistake in mistakes:
        complain(PROGRAM, mistake)
    return BAD_USAGE if mistakes else OK


def _look_for(name: str, card: CardConfig, root: Path) -> dict[str, SplitFound]:
    found = {}
    for split in get_args(Split):
        of_card: SplitConfig | None = getattr(card, split)
        if of_card is not None:
            try:
                found[split] = SplitFound(of_card, len(find_pairs(name, split, root).pairs), "", True)
            except DataError as error:
                found[split] = SplitFound(of_card, 0, str(error), not isinstance(error, NotOnDisk))
    return found


def _row(name: str, card: CardConfig, found: dict[str, SplitFound]) -> tuple[str, ...]:
    counts = (found[split].counts() if split in found else "" for split in get_args(Split))
    licence = card.licence if len(card.licence) <= 30 else f"{card.licence[:27]}..."
    return (name, card.task, *counts, licence, card.source)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    lines = [COLUMNS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _details(name: str, card: CardConfig, found: dict[str, SplitFound]) -> list[str]:
    lines = [
        f"{card.name} (data.train={name})",
        f"task      {card.task}",
        f"from      {card.source}",
        f"licence   {card.licence}",
        f"cite      {card.citation}",
        f"scored    {', '.join(card.protocols)}",
    ]
    lines += [f"note      {caveat}" for caveat in card.caveats]
    for split, of_card in found.items():
        lines.append(
            f"{split:9} {of_card.counts()} pairs" + ("" if of_card.on_disk else ", not on this disk; expected")
        )
        lines += [f"          {place}" for place in places_of(of_card.split)]
        lines += [f"          joins {_part(part)}" for part in of_card.split.parts]
        lines += [f"          PROBLEM {of_card.problem}"] * bool(of_card.problem and of_card.on_disk)
    return lines


def _part(part: PartConfig) -> str:
    weather = f", rendered {part.weather}" if part.weather else ""
    return f"{part.card or part.folder}, weight {part.weight:g}{weather}"


def _plain(card: CardConfig, found: dict[str, SplitFound]) -> dict[str, Any]:
    fields = ("name", "task", "source", "licence", "citation", "protocols", "caveats")
    splits = {
        split: {
            "found": of_card.num_found,
            "published": of_card.split.num_pairs,
            "on_disk": of_card.on_disk,
            "problem": of_card.problem,
            "folders": places_of(of_card.split),
            "parts": [_part(part) for part in of_card.split.parts],
        }
        for split, of_card in found.items()
    }
    return {field: getattr(card, field) for field in fields} | splits
