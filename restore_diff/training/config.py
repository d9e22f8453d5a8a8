"""Settings of the optimisation."""

from typing import Literal

from pydantic import Field

from restore_diff.schema import settings


@settings
class TrainingConfig:
    num_steps: int = Field(default=2_000_000, ge=1, description="optimizer steps of the whole run")
    batch_size: int = Field(default=64, ge=1, description="crops per optimizer step, over all processes")
    num_micro_batches: int = Field(default=1, ge=1, description="gradient accumulation: parts a batch is computed in")
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: orthogonal updates for the inner matrices, adamw for the rest"
    )
    learning_rate: float = Field(default=2e-4, gt=0, description="peak rate of the optimizer")
    learning_rate_decay: Literal["constant", "cosine"] = Field(default="cosine", description="after the warm-up")
    warmup_steps: int = Field(default=1000, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(default=0.0, ge=0, description="of the weights, times the rate")
    max_gradient_norm: float = Field(default=1.0, gt=0, description="gradients are scaled down to this norm")
    ema_decay: float = Field(default=0.9999, ge=0, lt=1, description="of the averaged weights, reached by a warm-up")
    initial_weights: str = Field(
        default="", description="start from these: a run, a checkpoint, a weights file, or `shipped`; empty: at random"
    )
    part: Literal["network", "recognition"] = Field(
        default="network", description="recognition: model.recognise learns the weather, all else stays as it is"
    )
    hint_dropout: float = Field(
        default=0.5, ge=0, le=1, description="model.hint: share of samples that are trained without their weather"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="of the network's arithmetic"
    )
    compile: bool = Field(default=False, description="torch.compile the network")
    log_every_steps: int = Field(default=50, ge=1)
    validate_every_steps: int = Field(default=5000, ge=1)
    save_every_steps: int = Field(default=1000, ge=1)
    num_checkpoints_kept: int = Field(default=3, ge=2, description="newest checkpoints kept, besides the best")
