"""The training loop: plain torch, exact resume."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.geopair.batches import PixelBatch
from vgssl_core.geopair.budget import Budget
from vgssl_core.geopair.config import TrainConfig
from vgssl_core.geopair.continuation import compare_processes
from vgssl_core.geopair.distributed import Processes
from vgssl_core.geopair.figures import Figures
from vgssl_core.geopair.mining import Miner
from vgssl_core.geopair.optimisation import Optimisation, backbone_dtype
from vgssl_core.geopair.pairs import PairList
from vgssl_core.geopair.profiling import profiled
from vgssl_core.geopair.progress import Progress
from vgssl_core.geopair.report import Report
from vgssl_core.geopair.run_folder import BEST, LAST, RunFolder
from vgssl_core.geopair.streams import Stream, generator
from vgssl_core.geopair.training_set import TrainingSet, chosen
from vgssl_core.geopair.validation import Validation, embed_store
from vgssl_core.ssl.method import PairBatch, SslMethod

logger = logging.getLogger(__name__)

#: Steps between two looks at the loss: each look waits for the device.
_LOOK_EVERY = 10


class Trainer:
    """Trains one method on the pairs of one place set.

    Attributes:
        config: All settings.
        method: The method with its network, on its device.
        progress: Where the training stands.
        budget: What it may take; its ``stop`` ends `fit` with a checkpoint, without a further validation.
    """

    def __init__(
        self,
        config: TrainConfig,
        method: SslMethod,
        data: TrainingSet,
        validation: Validation | None,
        run: RunFolder,
        processes: Processes,
    ) -> None:
        """Take the parts, which `vgssl_core.geopair.setup.build_trainer` makes.

        Raises:
            ConfigError: The settings make no step, or the method lacks what it needs.
        """
        self.config, self.method, self.progress = config, method, Progress()
        self._data, self._validation, self._run, self._processes = data, validation, run, processes
        self._device = processes.device
        epoch_steps = data.epoch_steps()
        if not epoch_steps:
            raise ConfigError(
                f"--queries_per_epoch {config.queries_per_epoch} make no step of {data.rows_per_step} queries: raise "
                "it (0 takes all), or lower --batch_size or --accumulate."
            )
        self.budget = Budget(config, epoch_steps, processes)
        self._optimisation = Optimisation(method, config, processes)
        stores = (data.queries, data.database)
        dtype = backbone_dtype(config.precision, processes.device)
        network, size = method.network, data.preprocessing
        embeds = [lambda i, s=s: embed_store(network, s, i, size, processes, dtype) for s in stores]
        self._miner = Miner(data.pairs, method.positives_per_query, method.negatives_per_query, *embeds)
        self._seen = Figures(processes)

    def fit(self) -> dict[int, float]:
        """Train to the end of the epochs, of the steps or of the time, or until it is stopped.

        Returns:
            Recall of the best checkpoint by N, empty without validation.

        Raises:
            ConfigError: Loss or weights are no longer finite.
            DataError: Too few negatives, or an image that no longer decodes.
        """
        try:
            self.method.train()
            shown = self._run.path if self._processes.first else None
            with Report(shown, self.config.method, self.progress.step, self.budget) as report:
                self._fit(report)
        except Exception:
            if self._processes.first:
                self._run.discard_without_checkpoint()
            raise
        return self.progress.best

    def profile(self) -> str:
        """Measure some steps; nothing is left but the profiler's table and trace, and the run that was there before.

        Returns:
            The profiler's table.
        """
        at, folder = self.progress, self._run.path if self._processes.first else None
        try:
            self.method.train()
            at.pairs = self._make_pairs(self._data.chunks(0)[0])
            batches = (batch for epoch in itertools.count() for batch in self._data.batches(at.pairs, epoch, 0, 0))
            return profiled(lambda: self._step(batches), self._device, folder)
        finally:
            if self._processes.first:
                self._run.discard_without_checkpoint()

    def description(self) -> str:
        """One line: what is trained on what."""
        data, config = self._data, self.config
        validation = "no validation" if self._validation is None else f"validation on {self._validation.name}"
        accumulated = f" in {config.accumulate} batches" if config.accumulate > 1 else ""
        return (
            f"{config.method}: {config.backbone} at {data.preprocessing.width}x{data.preprocessing.height} on "
            f"{self._device}, {len(data.pairs)} pairs ({data.pairs.dropped} queries without a positive), "
            f"{data.rows_per_step} queries per step{accumulated}, {self.budget.steps} steps at most, {validation}"
            + (f", {self._processes.count} processes" if self._processes.count > 1 else "")
        )

    def resume(self) -> None:
        """Take up the state of the run's last checkpoint.

        Raises:
            DataError: No such checkpoint, or of another network.
        """
        content = self._run.load(LAST, self._device)
        try:
            self.method.load_state_dict(content["method"])
            self._optimisation.load(content["optimiser"])
            self._miner.load(content["miner"])
            self.progress = Progress.from_plain(content["progress"])
            torch.set_rng_state(content["rng"].cpu())
            if self._device.type == "cuda" and "cuda_rng" in content:  # a run may go on on another device
                torch.cuda.set_rng_state(content["cuda_rng"].cpu(), self._device)
        except (KeyError, TypeError, RuntimeError, ValueError) as problem:
            raise DataError(f"{self._run.path / LAST} does not fit these settings: start another run.") from problem
        self.budget.resume((self.progress.elapsed_s, self.progress.cpu_s), self.progress.reserved_s)
        if used_up := self.budget.used_up(self.progress.step, self.progress.stale):
            logger.warning("%s is finished at step %d: %s.", self._run.path, self.progress.step, used_up)
        compare_processes(self.progress.processes, self._processes.count, self.config)

    def _fit(self, report: Report) -> None:
        at = self.progress
        while at.epoch < self.config.epochs and not self._ends():
            self._train_epoch(report)
        if not at.rows or at.rows[-1]["step"] != at.step:  # it ended within an epoch
            self._finish_epoch(report, whole=False)
        elif self._validation is not None and "R@1" not in at.rows[-1] and not self.budget.stopped:  # it ended before
            at.rows[-1].update(self._validate(report, self._validation))
            self._save()

    def _ends(self) -> bool:
        """Whether steps or time are used up, recall has not risen for too long, or the training was stopped."""
        stale = 0 < self.config.early_stop <= self.progress.stale
        return stale or self.budget.ends(self.progress.step)

    def _train_epoch(self, report: Report) -> None:
        at = self.progress
        chunks = self._data.chunks(at.epoch)
        while at.chunk < len(chunks):
            if at.pairs is None:
                at.pairs = self._make_pairs(chunks[at.chunk])
            steps = self._data.steps(len(chunks[at.chunk]))
            source = self._data.batches(at.pairs, at.epoch, at.chunk, at.chunk_step * self.config.accumulate)
            while at.chunk_step < steps:
                if self._ends():
                    return
                self._step(source)
                if at.step % _LOOK_EVERY == 0:
                    self._look(report)
            at.chunk, at.chunk_step, at.pairs = at.chunk + 1, 0, None
            self._look(report)  # mining by a network that has come to NaN finds nothing
        at.epoch, at.chunk = at.epoch + 1, 0
        self._finish_epoch(report, whole=True)

    def _step(self, source: Iterator[PixelBatch]) -> None:
        """Make one step on the next batches."""
        at, images, rows = self.progress, 0, []

        def batches() -> Iterator[PairBatch]:
            nonlocal images
            for _ in range(self.config.accumulate):
                with self._seen.waiting():
                    pixels = next(source)
                images += pixels.images
                rows.append(pixels.rows)
                yield self._data.on_device(pixels, at.pairs, self._device)

        outputs = self._optimisation.step(batches(), at.step, self.budget.done(at.step))
        if self.config.pairs.reuse_steps:
            for output, own in zip(outputs, rows, strict=True):
                self._note(own, output.descriptors, output.positive_descriptors)
        at.step += 1
        at.chunk_step += 1
        self._seen.add(outputs, images)

    def _note(self, rows: NDArray[np.int64], *descriptors: torch.Tensor | None) -> None:
        """Let the miner know what the processes computed of a batch."""
        total = len(rows) * self._processes.count
        all_rows = self._processes.joined(torch.from_numpy(rows).to(self._device), total).cpu().numpy()
        joined = [None if part is None else self._processes.joined(part, total) for part in descriptors]
        self._miner.note(chosen(self.progress.pairs, all_rows), *joined, self.progress.step)

    def _look(self, report: Report) -> None:
        """Fetch the figures from the device, show them, and stop where the loss is not finite."""
        figures, step = self._seen.look(), self.progress.step
        if not math.isfinite(figures["loss"]):
            raise self._not_finite(f"The loss is {figures['loss']} after step {step}")
        self._optimisation.check_scale()
        report.scalars("train", {**figures, "lr": self._optimisation.lr}, step)
        report.show(figures, step, self.progress.best)

    def _not_finite(self, what: str) -> ConfigError:
        kept = f"the last good checkpoint is {self._run.path / LAST}" if self.progress.rows else "nothing was saved"
        return ConfigError(f"{what}; {kept}. Lower --lr ({self.config.lr:g}) or raise --warmup_steps.")

    def _finish_epoch(self, report: Report, whole: bool) -> None:
        """Note the epoch's figures, validate where it is due, save."""
        self._look(report)  # again, where the budget ended within a chunk
        self._check_weights()
        if not self.config.sync_batch_norm:
            self._processes.share_buffers(self.method)
        at = self.progress
        row: dict[str, Any] = {"epoch": at.epoch, "step": at.step, **self._seen.epoch()}
        if self._seen.health is not None and (problem := self._seen.health.problem()):
            logger.warning("Descriptors have collapsed: %s. Try a lower --lr or another --method.", problem)
        due = whole and at.epoch % self.config.val_every == 0
        if self._validation is not None and (due or (self._ends() and not self.budget.stopped)):
            row.update(self._validate(report, self._validation))
        elif self._validation is None:
            self._save_best({})
        at.rows.append(row)
        self._save()

    def _check_weights(self) -> None:
        """A checkpoint with weights that are not finite would replace a good one."""
        weights = [value for value in self.method.network.state_dict().values() if value.is_floating_point()]
        weights += list(self.method.parameters())
        if not bool(torch.stack([torch.isfinite(value).all() for value in weights]).all()):
            raise self._not_finite(f"The weights are no longer finite after step {self.progress.step}")

    def _validate(self, report: Report, validation: Validation) -> dict[str, float]:
        clocks = self.budget.clocks
        began = [clock.used_s for clock in clocks]
        with self._seen.paused():
            recall = validation.recall(self.method.network, self._processes)
        for clock, before_s in zip(clocks, began, strict=True):
            clock.reserved_s = 1.5 * (clock.used_s - before_s)
        at = self.progress
        report.scalars("val", {f"R@{n}": value for n, value in recall.items()}, at.step)
        at.stale += 1
        if not at.best or (recall[5], recall[1]) > (at.best[5], at.best[1]):
            at.best, at.stale = recall, 0
            self._save_best(recall)
        return {f"R@{n}": round(value, 2) for n, value in recall.items()}

    def _save_best(self, recall: dict[int, float]) -> None:
        if self._processes.first:
            content = {"network": self.method.network.state_dict(), "recall": recall, "step": self.progress.step}
            self._run.save(BEST, content)

    def _save(self) -> None:
        at = self.progress
        at.elapsed_s, at.cpu_s = self.budget.wall.used_s, self.budget.cpu.used_s
        at.reserved_s, at.processes = tuple(clock.reserved_s for clock in self.budget.clocks), self._processes.count
        at.rows[-1].update({"elapsed_s": round(at.elapsed_s, 1), "cpu_s": round(at.cpu_s, 1)})
        if not self._processes.first:
            return
        content = {
            "method": self.method.state_dict(),
            "optimiser": self._optimisation.state(),
            "miner": self._miner.state(),
            "progress": at.to_plain(),
            "rng": torch.get_rng_state(),
        }
        if self._device.type == "cuda":
            content["cuda_rng"] = torch.cuda.get_rng_state(self._device)
        self._run.write_metrics(at.rows)
        self._run.save(LAST, content)

    def _make_pairs(self, queries: NDArray[np.int64]) -> PairList:
        at = self.progress
        rng = generator(Stream.MINING, self.config.seed, at.epoch, at.chunk)
        self._check_weights()
        if not self.config.sync_batch_norm:
            self._processes.share_buffers(self.method)
        with self._seen.paused():
            return self._miner.make_pairs(queries, rng, at.epoch, at.step)
