"""Pictures of one data set in another: what is trained on must not be tested on."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from restore_diff.data.leaks import Fingerprint, Match, find_matches
from restore_diff.doctor.check import Check
from restore_diff.doctor.sets import DataSet


def clean_files(one: DataSet) -> list[Path]:
    """Its clean files that could be read, each once, in the order of the pairs."""
    assert one.survey is not None
    return [path for path in dict.fromkeys(pair.clean for pair in one.files()) if path in one.survey.pictures]


def fingerprints(one: DataSet) -> list[Fingerprint]:
    """Of `clean_files`."""
    assert one.survey is not None
    return [one.survey.pictures[path].fingerprint for path in clean_files(one)]


def matches_within(one: DataSet) -> list[Match]:
    """Among `clean_files`, with a progress bar."""
    prints = fingerprints(one)
    with tqdm(total=len(prints), unit="picture", desc=f"{one.label}: duplicates", leave=False, disable=None) as bar:
        return find_matches(prints, None, bar.update)


def matches_between(first: DataSet, second: DataSet) -> list[Match]:
    """Of the clean files of both, with a progress bar."""
    others = fingerprints(second)
    label = f"{first.label} / {second.label}: leaks"
    with tqdm(total=len(others), unit="picture", desc=label, leave=False, disable=None) as bar:
        return find_matches(fingerprints(first), others, bar.update)


def check_leaks(first: DataSet, second: DataSet) -> list[Check]:
    """The clean pictures that both hold: the same ones are a failure, other views of a scene a warning.

    Two sets that are both for training, or both for testing, may share what they like.
    """
    subject = f"{first.label} / {second.label}"
    files, others = clean_files(first), clean_files(second)
    matches = matches_between(first, second)
    checks = []
    same = [match for match in matches if match.kind != "same scene"]
    if same:
        num = len({match.second for match in same})
        text = f"{num} of {len(others)} clean pictures of {second.label} are also in {first.label}"
        named = [described(match, files, others) for match in same]
        if first.split is not None and first.split == second.split:
            checks.append(Check(subject, "shared", "note", text, f"both are to {first.split}", named))
        else:
            advice = "keep them out of training, or divide anew by --split"
            checks.append(Check(subject, "leaks", "FAIL", text, advice, named))
    else:
        text = f"none of {len(files)} x {len(others)} clean pictures is in both"
        checks.append(Check(subject, "leaks", "ok", text))
    scenes = [described(match, files, others) for match in matches if match.kind == "same scene"]
    if scenes:
        text = f"{len(scenes)} pairs of clean pictures show nearly the same scene"
        checks.append(Check(subject, "scenes", "warn", text, "look at them; frames of one film leak too", scenes))
    return checks


def described(match: Match, first: Sequence[Path], second: Sequence[Path]) -> str:
    """`a.png = b.png (same picture, mirrored left to right, similarity 0.96)`"""
    names = [first[match.first], second[match.second]]
    shown = [path.name for path in names]
    if shown[0] == shown[1]:
        shown = ["/".join(path.parts[-3:]) for path in names]
    more = [match.kind, match.turn, "" if match.kind == "same pixels" else f"similarity {match.similarity:.2f}"]
    return f"{shown[0]} = {shown[1]} ({', '.join(part for part in more if part)})"
