"""Settings of how restored images are scored."""

from typing import Literal

from pydantic import Field

from restore_diff.schema import settings


@settings
class EvaluationConfig:
    protocols: tuple[str, ...] = Field(
        default=(), description="metric protocols; none: rgb and those of the test set's card"
    )
    lpips: Literal["none", "alex", "vgg"] = Field(
        default="alex", description="trunk of LPIPS, computed where its weights are"
    )
