"""What the user can mend: these are told in one line each, without a traceback."""

from restore_diff.build import DeviceError, MetricUnavailable
from restore_diff.config import ConfigError
from restore_diff.data.images import ImageError
from restore_diff.data.listing import DataError
from restore_diff.evaluation.sharing import OtherRankFailed
from restore_diff.training.changes import ConfigChanged
from restore_diff.training.checkpoint_folder import NoIntactCheckpoint
from restore_diff.training.checkpoint_state import DamagedCheckpoint
from restore_diff.training.run_folder import RunFolderError
from restore_diff.training.weights import WeightsError

USER_ERRORS = (
    ConfigChanged,
    ConfigError,
    DamagedCheckpoint,
    DataError,
    DeviceError,
    ImageError,
    MetricUnavailable,
    NoIntactCheckpoint,
    OSError,  # a file that cannot be read or written, a full disk
    OtherRankFailed,
    RunFolderError,
    WeightsError,
)
