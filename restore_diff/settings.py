"""Every setting of the config, with its default, range and meaning. Imports no torch, so that help is fast."""

from dataclasses import fields
from typing import Annotated, Any, Literal, Self, TypeVar, cast, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, NonNegativeInt, Tag, model_validator
from pydantic.dataclasses import dataclass

# The decorator of every configuration dataclass: frozen, keyword-only, unknown keys refused. Imports nothing heavy.

Class = TypeVar("Class")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def settings(cls: type[Class]) -> type[Class]:
    """Make `cls` a frozen pydantic dataclass that refuses unknown keys and values of another type or range."""
    return cast(
        type[Class], dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))(cls)
    )


# Ranges of the settings of rendered weather, written (low, high), and the units that several of them share.

Number = TypeVar("Number")


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"a range is written (low, high), got {ends}")
    return ends


Range = Annotated[tuple[Number, Number], AfterValidator(_ordered)]
Share = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[float, Field(gt=0, le=1000)]
Tilt = Annotated[float, Field(ge=-70, le=70)]
TiltSpread = Annotated[float, Field(ge=0, le=8)]
Ratio = Annotated[float, Field(ge=1, le=100)]
DropRadius = Annotated[float, Field(ge=0.5, le=1000)]
BlurRadius = Annotated[float, Field(gt=0, le=100)]
Covered = Annotated[float, Field(ge=0, le=0.9)]
Multiple = Annotated[float, Field(ge=0, le=20)]
OpticalDepth = Annotated[float, Field(ge=0, le=20)]
JpegQuality = Annotated[int, Field(ge=1, le=100)]


def range_names(config: Any) -> list[str]:
    """The fields of a weather's settings that hold ranges, in their order; others say how, not how much."""
    return [field.name for field in fields(config) if isinstance(getattr(config, field.name), tuple)]


# Settings of rendered weather. From each range one value is drawn, uniformly, anew for each image.

Weather = Annotated[str, Field(pattern=r"^\w+(\+\w+)*$")]
"""Weather rendered on a clean photograph: `none`, a name of WEATHERS, or several: rain+haze, nearest last."""

COMBINATIONS = ("rain", "haze", "snow", "raindrop", "rain+haze", "snow+haze", "rain+raindrop")
"""Weather that `render --weather all` draws from; of two, the former lies in the scene behind the latter."""

Options = dict[str, Any]
"""Settings of an entry that a plugin file added, validated by the entry's own dataclass when it is built."""

Mixture = Annotated[dict[Weather, Annotated[float, Field(gt=0)]], Field(min_length=1)]
"""How often each is rendered, relative to the others."""

WeatherChoice = Annotated[
    Annotated[Weather, Tag("[name]")] | Annotated[Mixture, Tag("[mixture]")],
    Discriminator(lambda choice: "[mixture]" if isinstance(choice, dict) else "[name]"),
]
"""One weather or a mixture; the tags keep a mistake in one form from being reported for the other, too."""


@settings
class RainConfig:
    """Rain of one photograph. Lengths and widths are those of a middle-sized drop at the near end of the rain.

    The default ranges come from measurements of published streak textures (Garg & Nayar 2006) and light-rain pictures:
    rendered rain spreads over pictures as they do in added light, touched area, correlation along and across streaks,
    and length, width and brightness of single streaks. A downpour is many faint streaks in mist: `density` 0.02 to
    0.05, `brightness` 0.1 to 0.35, `depth` 5 to 10, and `veil` 0.2 to 0.5, or rain+haze where mist grows with distance.
    """

    density: Range[Share] = Field(default=(0.0015, 0.006), description="streaks per pixel")
    length_px: Range[Pixels] = Field(default=(35.0, 130.0), description="from end to end, of a near streak")
    width_px: Range[Pixels] = Field(default=(1.0, 2.5), description="of a near streak, before blur")
    blur_px: Range[Pixels] = Field(default=(0.4, 0.6), description="standard deviation of the blur of lens and sensor")
    brightness: Range[Share] = Field(
        default=(0.2, 0.9), description="light added by a streak that is wider than its blur"
    )
    softness: Range[Share] = Field(
        default=(0.4, 1.0), description="share of a streak's length in which it fades in and out"
    )
    beading: Range[Share] = Field(
        default=(0.0, 0.9), description="depth of the oscillation of brightness along a streak"
    )
    angle_deg: Range[Tilt] = Field(default=(-35.0, 35.0), description="tilt by wind; positive leans like a slash: /")
    angle_spread_deg: Range[TiltSpread] = Field(
        default=(0.2, 1.6), description="standard deviation of single streaks' tilt"
    )
    size_spread: Range[Share] = Field(
        default=(0.2, 0.7), description="standard deviation of the logarithm of drop diameters"
    )
    depth: Range[Ratio] = Field(
        default=(2.5, 10.0), description="distance of the rain's far end over that of its near end"
    )
    veil: Range[Share] = Field(
        default=(0.0, 0.0), description="share of the light that comes from mist, not from the scene"
    )
    airlight: Range[Share] = Field(default=(0.7, 1.0), description="brightness of that mist")
    textures: str = Field(
        default="",
        description="folder of streak pictures on black, cut up instead of drawn streaks; then only brightness, veil "
        "and airlight count",
    )
    extremes: Share = Field(
        default=0.0, description="share of images with a downpour, or with streaks close to the lens, instead"
    )


@settings
class HazeConfig:
    """Haze of one photograph. The default ranges are those of RESIDE, with some colour and unevenness of real haze.

    For fog raise `beta` to 3, and let `airlight` begin at 0.6.
    """

    beta: Range[OpticalDepth] = Field(default=(0.6, 1.8), description="optical depth of the scene's farthest point")
    airlight: Range[Share] = Field(default=(0.7, 1.0), description="brightness of the haze in its strongest colour")
    tint: Range[Share] = Field(default=(0.0, 0.1), description="how much darker its weakest colour is, blue or red")
    unevenness: Range[Share] = Field(default=(0.0, 0.15), description="how much darker the haze may be at places")
    extremes: Share = Field(default=0.0, description="share of images with thin, dense, night or coloured haze instead")


@settings
class SnowConfig:
    """Falling snow of one photograph. Sizes are those of a flake of mean area at the near end of the snow.

    The default ranges spread around published masks of Snow100K in light held back, and in number, area and elongation
    of flakes. For large and calm flakes set `size_px` to (30, 60), `motion` to (0, 0.5) and `cover` to (0.02, 0.1).
    """

    cover: Range[Share] = Field(default=(0.01, 0.4), description="area of all flakes, before blur, over the picture's")
    size_px: Range[Pixels] = Field(default=(6.0, 24.0), description="diameter of a near flake, before blur")
    size_spread: Range[Share] = Field(default=(0.2, 0.5), description="standard deviation of diameters' logarithms")
    depth: Range[Ratio] = Field(default=(4.0, 16.0), description="distance of the snow's far end over its near end's")
    motion: Range[Multiple] = Field(default=(0.0, 3.0), description="way while the shutter is open, over the diameter")
    defocus: Range[Multiple] = Field(
        default=(0.0, 1.5), description="spread of a near point by the lens, over the diameter"
    )
    blur_px: Range[Pixels] = Field(default=(0.4, 0.6), description="standard deviation of the blur of lens and sensor")
    angle_deg: Range[Tilt] = Field(default=(-50.0, 50.0), description="tilt by wind; positive leans like a slash: /")
    angle_spread_deg: Range[TiltSpread] = Field(default=(2.0, 8.0), description="standard deviation of flakes' tilts")
    opacity: Range[Share] = Field(default=(0.8, 1.0), description="share of light that the densest flakes hold back")
    brightness: Range[Share] = Field(default=(0.8, 1.0), description="of the flakes themselves")
    blueness: Range[Share] = Field(default=(0.0, 0.08), description="share of red that flakes lack; of green half")
    veil: Range[Share] = Field(default=(0.0, 0.0), description="share of the light that comes from mist")
    airlight: Range[Share] = Field(default=(0.7, 1.0), description="brightness of that mist")
    masks: str = Field(
        default="", description="folder of pictures of flakes on black; they take the place of all before opacity"
    )
    extremes: Share = Field(
        default=0.0, description="share of images with flakes close to the lens, a storm, or few small flakes, instead"
    )


@settings
class RaindropConfig:
    """Raindrops on the glass before the camera. Pixels are those of a photograph some 700 px wide.

    The default ranges were chosen beside genuine pairs of that width (Qian et al. 2018): by the share of the picture
    that drops change, by how much and how often to brighter, and by the size and blur of single drops.
    """

    covered: Range[Covered] = Field(default=(0.1, 0.5), description="share of the glass that is under water")
    radius_px: Range[DropRadius] = Field(default=(4.0, 16.0), description="of a middle-sized drop")
    size_spread: Range[Share] = Field(default=(0.3, 0.6), description="standard deviation of the logarithm of radii")
    irregularity: Range[Share] = Field(default=(0.1, 0.5), description="0: round; 1: the radius swings by up to 60 %")
    elongation: Range[Ratio] = Field(default=(1.0, 1.5), description="height over width of the most stretched drop")
    running: Range[Share] = Field(default=(0.0, 0.04), description="share of drops that run and leave a trail")
    blur_px: Range[BlurRadius] = Field(default=(2.0, 12.0), description="radius of the disc into which defocus blurs")
    refraction_px: Range[Pixels] = Field(
        default=(100.0, 400.0), description="from a drop's outline to the part of the scene that is seen in it"
    )
    smear_px: Range[Pixels] = Field(
        default=(4.0, 16.0), description="standard deviation of the blur of the scene in a drop; of the scene's pixels"
    )
    surroundings: Range[Share] = Field(
        default=(0.3, 0.8), description="share of a drop's light that comes from beyond the picture"
    )
    sky: Range[Share] = Field(default=(0.8, 1.0), description="brightness of these above; seen in a drop's lower part")
    ground: Range[Share] = Field(default=(0.4, 0.9), description="brightness of these below; seen in its upper part")
    shading: Range[Share] = Field(default=(0.05, 0.5), description="share of light lost at the upper outline of a drop")
    highlight: Range[Share] = Field(default=(0.2, 0.9), description="whiteness of the bright spot in its lower part")
    opacity: Range[Share] = Field(default=(0.8, 1.0), description="share of the scene behind that a drop hides")
    extremes: Share = Field(default=0.0, description="share of images with large drops far out of focus instead")


@settings
class CameraConfig:
    """What the camera adds after the weather: noise of the sensor, sharpening, then compression. By default nothing.

    Linear light is the coded value before the curve of sRGB. Telephones have a `shot_noise` from 0.0001 by day to 0.012
    at night, and a `read_noise` from 0.0001 to 0.015 (Brooks et al., "Unprocessing images", CVPR 2019).
    """

    shot_noise: Range[Share] = Field(default=(0.0, 0.0), description="variance of the noise per unit of linear light")
    read_noise: Range[Share] = Field(default=(0.0, 0.0), description="standard deviation in the dark, of linear light")
    sharpening: Range[Share] = Field(default=(0.0, 0.0), description="share of what a blur of 1 px removes, added")
    jpeg: Share = Field(default=0.0, description="share of images that are compressed")
    jpeg_quality: Range[JpegQuality] = Field(default=(40, 95), description="as JPEG writers count it")
    jpeg_scale: Range[Ratio] = Field(
        default=(1.0, 1.0), description="size at compression over the final size: most web pictures are scaled down"
    )


# Settings of the images that train and score a network.


@settings
class DataConfig:
    train: str = Field(
        default="skimage",
        min_length=1,
        description="a card in datasets/, INPUT:TARGET, or a folder of pairs, of clean photographs or of zip shards",
    )
    test: str = Field(default="skimage", min_length=1, description="as `train`; never trained on")
    root: str = Field(default="data", description="where the folders of cards lie")
    weather: WeatherChoice = Field(
        default="none", description="rendered on clean photographs that have no partner: one, or {name: share, ...}"
    )
    rain: RainConfig = Field(default_factory=RainConfig)
    haze: HazeConfig = Field(default_factory=HazeConfig)
    snow: SnowConfig = Field(default_factory=SnowConfig)
    raindrop: RaindropConfig = Field(default_factory=RaindropConfig)
    camera: CameraConfig = Field(default_factory=CameraConfig)
    weather_options: dict[str, Options] = Field(
        default_factory=dict, description="of weather kinds of plugins, by name"
    )
    num_validation: int = Field(
        default=8, ge=0, description="clean images held out of training, at most a fifth of them"
    )
    crop_size_px: int = Field(default=64, ge=8, description="side of a training crop")
    on_small: Literal["error", "skip", "pad"] = Field(
        default="error", description="training images smaller than the crop: refused, left out, or mirrored outwards"
    )
    on_bad: Literal["error", "skip"] = Field(
        default="error", description="training files that cannot be read: refused, or replaced by the next pair"
    )
    crops_per_image: int = Field(default=1, ge=1, description="crops taken from an image each time it is read")
    augmentation: Literal["none", "flips", "flips_and_turns"] = Field(default="flips", description="of training crops")
    num_workers: int = Field(default=2, ge=0, description="processes that read and crop")
    cache_mib: int = Field(default=2048, ge=0, description="memory for decoded images; what does not fit is read again")


# Settings of the noise schedule, the training loss and the sampler.

Spacing = Literal["trailing", "leading", "linspace", "logsnr", "karras"]
TimestepDraw = Literal["stratified", "antithetic", "late"]


@settings
class ScheduleConfig:
    name: str = Field(default="linear", description="linear, cosine, sigmoid, quadratic: how noise grows with t")
    options: Options = Field(default_factory=dict, description="of a plugin's schedule")
    num_timesteps: int = Field(default=1000, ge=2, le=1_000_000, description="T, the number of noise levels")
    beta_start: float = Field(default=1e-4, gt=0, lt=1, description="first beta of linear and quadratic, for T = 1000")
    beta_end: float = Field(default=0.02, gt=0, lt=1, description="last beta of linear and quadratic, for T = 1000")


@settings
class DiffusionConfig:
    prediction: str = Field(
        default="epsilon", description="epsilon, clean, velocity, residual: what the network outputs"
    )
    loss: str = Field(default="squared", description="squared, huber: penalty on the error of epsilon")
    options: Options = Field(default_factory=dict, description="of a plugin's loss")
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
    name: str = Field(default="ddim", description="ddim, dpm++2m, unipc, heun: the solver")
    options: Options = Field(default_factory=dict, description="of a plugin's sampler")
    guidance: str = Field(default="", description="entry of GUIDANCE that changes each estimate; empty: none")
    guidance_options: Options = Field(default_factory=dict, description="of that guidance")
    num_steps: int = Field(
        default=4, ge=1, description="steps from noise to image; heun calls the network twice in each"
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
        if self.eta and self.name in ("dpm++2m", "unipc", "heun"):
            raise ValueError(f"eta is noise that ddim adds; with {self.name} it must be 0, got {self.eta}")
        if self.start_t and self.stop_t >= self.start_t:
            raise ValueError(f"stop_t must be less than start_t={self.start_t}, got {self.stop_t}")
        return self


# Settings of the networks.


@settings
class NetworkConfig:
    kind: str = Field(default="unet", description="the network: unet, transformer, autoencoder, or an entry of MODELS")
    options: Options = Field(default_factory=dict, description="of a network other than unet")
    base_channels: int = Field(default=128, ge=8, le=8192, multiple_of=2, description="channels at full resolution")
    channel_multipliers: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(1, 2, 3, 4), min_length=1, max_length=12, description="one per level"
    )
    num_blocks: int = Field(default=2, ge=1, le=64, description="residual blocks per level")
    attention_levels: tuple[NonNegativeInt, ...] = Field(
        default=(2,), description="with self-attention; level i: 1/2^i size"
    )
    mid_attention: bool = Field(default=True, description="self-attention between the two halves")
    head_channels: int = Field(
        default=64, ge=0, description="channels of one attention head; 0: one head with all of them"
    )
    num_groups: int = Field(default=32, ge=1, description="groups of every GroupNorm")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="inside residual blocks")
    unshuffle: int = Field(
        default=1, ge=1, le=8, description="work at 1/unshuffle of the size, space folded into channels"
    )
    hint: bool = Field(default=False, description="weather conditioning, with label dropout")
    labels: tuple[str, ...] = Field(
        default=("none", "rain", "haze", "snow", "raindrop"),
        min_length=1,
        description="meaning of the hint's places, none first; kept with the weights",
    )
    recognise: bool = Field(default=False, description="with a hint: a head that detects the weather")
    image_channels: int = Field(default=3, ge=1, description="channels of x_t and of the output")
    condition_channels: int = Field(default=3, ge=0, description="channels of the degraded image; 0: no condition")


@settings
class CodecConfig:
    name: str = Field(default="identity", description="identity, autoencoder, diffusers, or an entry of CODECS")
    options: Options = Field(default_factory=dict, description="of a codec other than identity")


# Settings of how an image of any size is taken through the network.


@settings
class TilingConfig:
    tile_size_px: int = Field(default=0, ge=0, description="side of a tile; 0: the whole image at once")
    tile_overlap_px: int = Field(default=16, ge=0, description="how far neighbours overlap on an overlapping grid")
    grid: Literal["overlapping", "shifted"] = Field(
        default="overlapping", description="shifted: tiles that meet, with other borders at each step"
    )
    window: Literal["hann", "box"] = Field(
        default="hann", description="weights of overlapping tiles; box: all alike, as WeatherDiffusion has it"
    )
    tiles_per_batch: int = Field(default=0, ge=0, description="tiles in one network call; 0: as the memory allows")


# Settings of how restored images are scored.


@settings
class EvaluationConfig:
    protocols: tuple[str, ...] = Field(
        default=(), description="metric protocols; none: rgb and those of the test set's card"
    )
    lpips: Literal["none", "alex", "vgg"] = Field(
        default="alex", description="trunk of LPIPS, computed where its weights are"
    )


# Settings of the optimisation.


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
