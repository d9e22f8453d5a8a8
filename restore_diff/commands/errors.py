"""What the user can mend: these are told in one line each, without a traceback."""

from restore_diff.build import DeviceError
from restore_diff.config import ConfigError
from restore_diff.data.images import ImageError
from restore_diff.data.listing import DataError
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
    NoIntactCheckpoint,
    RunFolderError,
    WeightsError,
)
