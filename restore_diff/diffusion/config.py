"""Settings of the noise schedule, the training loss and the sampler."""

from typing import Literal

from pydantic import Field

from restore_diff.schema import settings

Prediction = Literal["epsilon", "clean", "velocity", "residual"]


@settings
class ScheduleConfig:
    name: Literal["linear", "cosine", "sigmoid", "quadratic"] = Field("linear", description="how noise grows with t")
    num_timesteps: int = Field(1000, ge=2, description="T, the number of noise levels")
    beta_start: float = Field(1e-4, gt=0, lt=1, description="first beta of linear and quadratic, for T = 1000")
    beta_end: float = Field(0.02, gt=0, lt=1, description="last beta of linear and quadratic, for T = 1000")


@settings
class DiffusionConfig:
    prediction: Prediction = Field("epsilon", description="what the network outputs")
    loss: Literal["squared", "huber"] = Field("squared", description="penalty on the error of epsilon")
    huber_delta: float = Field(0.1, gt=0, description="where huber turns from squared to linear")
    weighting: Literal["none", "snr_clamp", "p2"] = Field("none", description="weight of the epsilon loss over t")
    snr_min: float = Field(0.0, ge=0, description="snr_clamp: least weight on the squared error of the clean image")
    snr_max: float = Field(5.0, gt=0, description="snr_clamp: greatest weight on the squared error of the clean image")
    p2_k: float = Field(1.0, gt=0, description="p2: k of 1 / (k + SNR)^gamma")
    p2_gamma: float = Field(1.0, ge=0, description="p2: gamma of 1 / (k + SNR)^gamma")
    timesteps: Literal["stratified", "antithetic"] = Field("stratified", description="how a batch draws its t")


@settings
class SamplerConfig:
    name: Literal["ddim"] = Field("ddim", description="the solver")
    num_steps: int = Field(4, ge=1, description="network calls per image")
    spacing: Literal["trailing", "leading", "linspace"] = Field("trailing", description="which t are visited")
    eta: float = Field(0.0, ge=0, le=1, description="0 is deterministic DDIM, 1 is ancestral DDPM")
    clip: bool = Field(True, description="clip the estimate of the clean image to [-1, 1] at each step")
