"""requirements.lock pins every dependency with a hash to a version that setup.cfg allows."""

import re
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PINNED = re.compile(r"([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")


def pins() -> dict[str, Version]:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    matches = [PINNED.fullmatch(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if match is None]
    return {canonicalize_name(match[1]): Version(match[2]) for match in matches if match}


def test_every_dependency_is_pinned_within_its_range():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = config["options"]["install_requires"] + config["options.extras_require"]["test"]
    requirements = [Requirement(line) for line in texts.splitlines() if line.strip()]
    assert len(requirements) > 10
    for requirement in requirements:
        version = pins().get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements.lock"
        assert requirement.specifier.contains(version), f"requirements.lock has {requirement.name} {version}"
