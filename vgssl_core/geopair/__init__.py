"""GeoPair (torch): which images make a pair, mining, augmentation, batches, and the trainer."""

from vgssl_core.geopair.config import TrainConfig, with_options
from vgssl_core.geopair.run_folder import load_run
from vgssl_core.geopair.setup import build_trainer

__all__ = ["TrainConfig", "build_trainer", "load_run", "with_options"]
