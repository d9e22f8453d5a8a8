"""Settings of the noise schedule, the training loss and the sampler."""

from typing import Literal, Self

from pydantic import Field, model_validator

from restore_diff.schema import settings

Prediction = Literal["epsilon", "clean", "velocity", "residual"]
Spacing = Literal["trailing", "leading", "linspace", "logsnr", "karras"]
TimestepDraw = Literal["stratified", "antithetic", "late"]


@settings
class ScheduleConfig:
    name: Literal["linear", "cosine", "sigmoid", "quadratic"] = Field(
        default="linear", description="how noise grows with t"
    )
    num_timesteps: int = Field(default=1000, ge=2, le=1_000_000, description="T, the number of noise levels")
    beta_start: float = Field(default=1e-4, gt=0, lt=1, description="first beta of linear and quadratic, for T = 1000")
    beta_end: float = Field(default=0.02, gt=0, lt=1, description="last beta of linear and quadratic, for T = 1000")


@settings
class DiffusionConfig:
    prediction: Prediction = Field(default="epsilon", description="what the network outputs")
    loss: Literal["squared", "huber"] = Field(default="squared", description="penalty on the error of epsilon")
    huber_delta: float = Field(default=0.1, gt=0, description="where huber turns from squared to linear")
    weighting: Literal["none", "snr_clamp", "p2"] = Field(
        default="none", description="weight of the epsilon loss over t"
    )
    snr_min: float = Field(
        default=0.0, ge=0, description="snr_clamp: least weight on the squared error of the clean image"
    )
    snr_max: float = Field(
        default=5.0, gt=0, description="snr_clamp: greatest weight on the squared error of the clean image"
    )
    relative_floor: float = Field(
        default=0.0,
        ge=0,
        description="above 0: each sample's loss is divided by this plus the mean square of degraded - clean, in "
        "[-1, 1], so that light and heavy degradations count alike",
    )
    p2_k: float = Field(default=1.0, gt=0, description="p2: k of 1 / (k + SNR)^gamma")
    p2_gamma: float = Field(default=1.0, ge=0, description="p2: gamma of 1 / (k + SNR)^gamma")
    timesteps: TimestepDraw = Field(
        default="stratified", description="how a batch draws its t; late: half of them the last, for few steps"
    )

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if self.snr_min > self.snr_max:
            raise ValueError(f"snr_min must be at most snr_max, got {self.snr_min} and {self.snr_max}")
        return self


@settings
class SamplerConfig:
    name: Literal["ddim", "dpm++2m", "unipc", "heun"] = Field(default="ddim", description="the solver")
    num_steps: int = Field(
        default=4, ge=1, description="steps from noise to image; heun asks the network twice in each"
    )
    spacing: Spacing = Field(default="trailing", description="which t are visited")
    start_t: int = Field(default=0, ge=0, description="start from the degraded image noised to this t; 0: from noise")
    stop_t: int = Field(
        default=0, ge=0, description="from the first t at or below this one on, take the clean estimate"
    )
    eta: float = Field(default=0.0, ge=0, le=1, description="ddim: 0 is deterministic, 1 is ancestral DDPM")
    clip: bool = Field(default=True, description="clip the estimate of the clean image to [-1, 1] at each step")
    num_samples: int = Field(default=1, ge=1, le=10_000, description="restorations that are averaged")
    mirror: bool = Field(default=False, description="every other of these of the mirrored image, mirrored back")

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.eta and self.name != "ddim":
            raise ValueError(f"eta is noise that ddim adds; with {self.name} it must be 0, got {self.eta}")
        if self.start_t and self.stop_t >= self.start_t:
            raise ValueError(f"stop_t must be less than start_t={self.start_t}, got {self.stop_t}")
        return self
