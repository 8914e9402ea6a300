"""The training loop: plain torch, exact resume."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.geopair.batches import BatchLoader, PixelBatch
from vgssl_core.geopair.config import TrainConfig
from vgssl_core.geopair.figures import Figures
from vgssl_core.geopair.images import ImageStore
from vgssl_core.geopair.mining import Miner
from vgssl_core.geopair.pairs import GeoPairs, PairList
from vgssl_core.geopair.progress import Progress
from vgssl_core.geopair.run_folder import BEST, LAST, RunFolder
from vgssl_core.geopair.streams import Stream, generator
from vgssl_core.geopair.validation import Validation, embed_store
from vgssl_core.imaging import Preprocessing
from vgssl_core.models import normalise_images
from vgssl_core.ssl.method import PairBatch, SslMethod

logger = logging.getLogger(__name__)

#: Steps between two looks at the loss: each look waits for the device.
_LOOK_EVERY = 10
#: Spread of descriptors (1: over the whole sphere, 0: all equal) below which a training has collapsed.
_COLLAPSED = 0.02


class Trainer:
    """Trains one method on the pairs of one place set.

    Attributes:
        config: All settings.
        method: The method with its network, on its device.
        progress: Where the training stands.
    """

    def __init__(
        self,
        config: TrainConfig,
        method: SslMethod,
        preprocessing: Preprocessing,
        pairs: GeoPairs,
        queries: ImageStore,
        database: ImageStore,
        loader: BatchLoader,
        validation: Validation | None,
        run: RunFolder,
        batch_size: int,
    ) -> None:
        """Take the parts, which `vgssl_core.geopair.setup.build_trainer` makes.

        Raises:
            ConfigError: The settings make no step.
        """
        self.config = config
        self.method = method
        self.progress = Progress()
        self._preprocessing, self._pairs, self._loader = preprocessing, pairs, loader
        self._validation, self._run, self._batch_size = validation, run, batch_size
        stores = (queries, database)
        embeds = [lambda i, store=store: embed_store(method.network, store, i, preprocessing) for store in stores]
        self._miner = Miner(pairs, method.positives_per_query, method.negatives_per_query, *embeds)
        self._device = next(method.parameters()).device
        trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.Adam(trained, lr=config.lr, weight_decay=config.weight_decay)
        self._started_s = time.monotonic()
        self._validation_s = 0.0
        self._seen = Figures()
        # Of all epochs, without a limit on time.
        self._total_steps = config.epochs * sum(len(chunk) // batch_size for chunk in self._chunks(0))
        if not self._total_steps:
            raise ConfigError(
                f"--queries_per_epoch {config.queries_per_epoch} make no batch of {batch_size} pairs: raise it "
                "(0 takes all), or lower --batch_size."
            )

    def fit(self) -> dict[int, float]:
        """Train to the end of the epochs or of the time.

        Returns:
            Recall of the best checkpoint by N, empty without validation.

        Raises:
            ConfigError: The loss is no longer finite.
            DataError: Too few negatives, or an image that no longer decodes.
        """
        try:
            return self._fit()
        except Exception:
            self._run.discard_without_checkpoint()
            raise

    def _fit(self) -> dict[int, float]:
        self.method.train()
        log = SummaryWriter(str(self._run.path), purge_step=self.progress.step)
        bar = tqdm(total=self._total_steps, initial=self.progress.step, unit="step", desc=self.config.method)
        try:
            while self.progress.epoch < self.config.epochs and not self._time_is_up():
                self._train_epoch(bar, log)
            if (
                not self.progress.rows or self.progress.rows[-1]["step"] != self.progress.step
            ):  # the time ended an epoch
                self._finish_epoch(bar, log, last=True)
        finally:
            bar.close()
            log.close()
        return self.progress.best

    def description(self) -> str:
        """One line: what is trained on what."""
        size = f"{self._preprocessing.width}x{self._preprocessing.height}"
        validation = "no validation" if self._validation is None else f"validation on {self._validation.name}"
        return (
            f"{self.config.method}: {self.config.backbone} at {size} on {self._device}, {len(self._pairs)} pairs "
            f"({self._pairs.dropped} queries without a positive), batches of {self._batch_size}, "
            f"{self._total_steps} steps at most, {validation}"
        )

    def resume(self) -> None:
        """Take up the state of the run's last checkpoint.

        Raises:
            DataError: No such checkpoint, or of another network.
        """
        content = self._run.load(LAST, self._device)
        try:
            self.method.load_state_dict(content["method"])
            self._optimiser.load_state_dict(content["optimiser"])
            self.progress = Progress.from_plain(content["progress"])
            torch.set_rng_state(content["rng"].cpu())
            if self._device.type == "cuda" and "cuda_rng" in content:  # a run may go on on another device
                torch.cuda.set_rng_state(content["cuda_rng"].cpu(), self._device)
        except (KeyError, TypeError, RuntimeError, ValueError) as problem:
            raise DataError(f"{self._run.path / LAST} does not fit these settings: start another run.") from problem
        self._started_s = time.monotonic() - self.progress.elapsed_s
        if self._time_is_up():
            logger.warning("--max_minutes %g are used up: give more to go on, or 0.", self.config.max_minutes)

    def _train_epoch(self, bar: tqdm, log: SummaryWriter) -> None:
        at = self.progress
        chunks = self._chunks(at.epoch)
        while at.chunk < len(chunks):
            if at.pairs is None:
                at.pairs = self._make_pairs(chunks[at.chunk])
            seed = (self.config.seed, at.epoch, at.chunk)
            waiting_s = time.monotonic()
            for batch in self._loader.batches(at.pairs, seed, at.chunk_step):
                self._seen.data_s += time.monotonic() - waiting_s
                self._step(batch)
                if at.step % _LOOK_EVERY == 0:
                    self._look(bar, log)
                if self._time_is_up():
                    return
                waiting_s = time.monotonic()
            at.chunk, at.chunk_step, at.pairs = at.chunk + 1, 0, None
        at.epoch, at.chunk = at.epoch + 1, 0
        self._finish_epoch(bar, log, last=at.epoch == self.config.epochs)

    def _step(self, pixels: PixelBatch) -> None:
        self._set_lr()
        self._optimiser.zero_grad(set_to_none=True)
        output = self.method(self._to_device(pixels))
        output.total.backward()
        self._optimiser.step()
        self.method.after_step()
        self.progress.step += 1
        self.progress.chunk_step += 1
        self._seen.add(output, len(pixels.x) * (2 + pixels.negatives.shape[1] + pixels.negatives_y.shape[1]))

    def _to_device(self, pixels: PixelBatch) -> PairBatch:
        def views(array: np.ndarray) -> torch.Tensor | None:
            return (
                normalise_images(torch.from_numpy(array).to(self._device), self._preprocessing) if array.size else None
            )

        return PairBatch(*(views(part) for part in (pixels.x, pixels.y, pixels.negatives, pixels.negatives_y)))

    def _set_lr(self) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = self.config.lr * self._lr_factor()

    def _lr_factor(self) -> float:
        step = self.progress.step
        factor = min(1.0, (step + 1) / (self.config.warmup_steps + 1))
        if self.config.schedule == "cosine":
            done = step / max(1, self._total_steps)
            if self.config.max_minutes > 0:
                done = max(done, self._elapsed_s() / self._available_s())
            factor *= 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return factor

    def _look(self, bar: tqdm, log: SummaryWriter) -> None:
        """Fetch the loss from the device, show it, and stop where it is not finite."""
        figures = self._seen.look()
        if not math.isfinite(figures["loss"]):
            bar.close()
            kept = f"the last good checkpoint is {self._run.path / LAST}" if self.progress.rows else "nothing was saved"
            raise ConfigError(
                f"The loss is {figures['loss']} after step {self.progress.step}; {kept}. Lower --lr "
                f"({self.config.lr:g}) or raise --warmup_steps."
            )
        for name, value in figures.items():
            log.add_scalar(f"train/{name}", value, self.progress.step)
        log.add_scalar("train/lr", self._optimiser.param_groups[0]["lr"], self.progress.step)
        bar.update(self.progress.step - bar.n)
        recall = self.progress.rows[-1].get("R@1") if self.progress.rows else None
        bar.set_postfix_str(
            f"loss {figures['loss']:.3f}, {figures['images_per_s']:.0f} images/s"
            + (f", best R@5 {self.progress.best[5]:.1f}" if recall is not None and self.progress.best else "")
            + (f", {self._left_s() / 60:.1f} min left" if self.config.max_minutes > 0 else ""),
            refresh=False,
        )

    def _finish_epoch(self, bar: tqdm, log: SummaryWriter, last: bool) -> None:
        """Note the epoch's figures, validate where it is due, save."""
        self._look(bar, log)
        at = self.progress
        row: dict[str, Any] = {"epoch": at.epoch, "step": at.step, **self._seen.epoch()}
        if row["spread"] < _COLLAPSED:
            logger.warning(
                "Descriptors have collapsed: their spread is %.4f (1 fills the sphere, 0 is one point). Try a lower "
                "--lr or another --method.",
                row["spread"],
            )
        if self._validation is not None and (last or at.epoch % self.config.val_every == 0):
            row.update(self._validate(log, self._validation))
        elif self._validation is None:
            self._run.save(BEST, {"network": self.method.network.state_dict(), "recall": {}, "step": at.step})
        at.elapsed_s = self._elapsed_s()
        at.rows.append({**row, "elapsed_s": round(at.elapsed_s, 1)})
        self._run.write_metrics(at.rows)
        self._save()

    def _validate(self, log: SummaryWriter, validation: Validation) -> dict[str, float]:
        began_s = time.monotonic()
        recall = validation.recall(self.method.network)
        self._validation_s = time.monotonic() - began_s
        at = self.progress
        for n, value in recall.items():
            log.add_scalar(f"val/R@{n}", value, at.step)
        if not at.best or (recall[5], recall[1]) > (at.best[5], at.best[1]):
            at.best = recall
            self._run.save(BEST, {"network": self.method.network.state_dict(), "recall": recall, "step": at.step})
        return {f"R@{n}": round(value, 2) for n, value in recall.items()}

    def _save(self) -> None:
        content = {
            "method": self.method.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "progress": self.progress.to_plain(),
            "rng": torch.get_rng_state(),
        }
        if self._device.type == "cuda":
            content["cuda_rng"] = torch.cuda.get_rng_state(self._device)
        self._run.save(LAST, content)

    def _make_pairs(self, queries: np.ndarray) -> PairList:
        at = self.progress
        return self._miner.make_pairs(queries, generator(Stream.MINING, self.config.seed, at.epoch, at.chunk))

    def _chunks(self, epoch: int) -> list[np.ndarray]:
        order = self._pairs.epoch_order(self.config.seed, epoch, self.config.queries_per_epoch or None)
        mined = self.method.negatives_per_query or self._pairs.config.positive == "nearest"
        size = max(1, self._pairs.config.refresh_queries // self._batch_size) * self._batch_size
        starts = range(0, len(order), size) if mined else [0]
        chunks = [order[start : start + size] if mined else order for start in starts]
        return [chunk for chunk in chunks if len(chunk) >= self._batch_size]

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def _available_s(self) -> float:
        """Time for steps: a part is kept for the last validation."""
        return max(1e-6, self.config.max_minutes * 60 - 1.5 * self._validation_s)

    def _left_s(self) -> float:
        return max(0.0, self._available_s() - self._elapsed_s())

    def _time_is_up(self) -> bool:
        return self.config.max_minutes > 0 and self._left_s() <= 0
