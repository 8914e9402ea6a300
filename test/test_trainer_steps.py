"""One step: accumulated gradients, precision, schedule; and what the debugging switches show."""

from __future__ import annotations

import copy
import csv
from pathlib import Path

import pytest
import torch
from small_methods import build_method, make_batch
from train_support import METHODS, arguments, configuration, make_data, state

from training import train
from vgssl_core.errors import ConfigError
from vgssl_core.geopair.config import OptimiserConfig
from vgssl_core.geopair.distributed import Processes
from vgssl_core.geopair.optimisation import Optimisation, lr_factor
from vgssl_core.models import DescriptorNet
from vgssl_core.ssl.method import PairBatch, SslMethod

CPU = Processes(torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("places"))


def halves(batch: PairBatch) -> list[PairBatch]:
    parts = {name: value.chunk(2) for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return [PairBatch(**{name: value[i] for name, value in parts.items()}) for i in range(2)]


def with_fixed_batch_norm(method: SslMethod) -> SslMethod:
    """Batch norm by the statistics that it has, so that a row does not depend on the others."""
    method.train()
    for module in method.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return method


@pytest.mark.parametrize("name", ["triplet", "byol", "simsiam"])
def test_two_accumulated_batches_make_the_step_of_one_twice_as_large(name: str) -> None:
    one = with_fixed_batch_norm(build_method(name))
    two, batch = copy.deepcopy(one), make_batch(one, count=8)
    Optimisation(one, OptimiserConfig(lr=1e-3), CPU).step([batch], 0, 0.0)
    outputs = Optimisation(two, OptimiserConfig(lr=1e-3, accumulate=2), CPU).step(halves(batch), 0, 0.0)
    assert len(outputs) == 2
    for (key, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=key)


def test_all_keys_of_an_accumulated_step_enter_the_queue() -> None:
    method = build_method("mocov2").train()
    batches = [make_batch(method, seed) for seed in range(2)]
    Optimisation(method, OptimiserConfig(accumulate=2), CPU).step(batches, 0, 0.0)
    assert int(method.queue_pointer) == 2 * len(batches[0].x)


def test_a_step_whose_gradient_overflows_float16_is_left_out_and_the_scale_goes_down() -> None:
    method = build_method("triplet").train()
    optimisation = Optimisation(method, OptimiserConfig(precision="fp16", lr=1e-3), CPU)
    before = copy.deepcopy(method.state_dict())
    optimisation._scaler.load_state_dict({**optimisation._scaler.state_dict(), "scale": 1e38})
    batch = make_batch(method)
    method.network.head.weight.register_hook(lambda gradient: gradient * 1e10)
    optimisation.step([batch], 0, 0.0)
    optimisation.check_scale()
    assert optimisation._scaler.get_scale() == pytest.approx(5e37, rel=1e-3)
    assert torch.equal(before["network.head.weight"], method.network.head.weight)
    optimisation._scaler.load_state_dict({**optimisation._scaler.state_dict(), "scale": 1e-6})
    with pytest.raises(ConfigError, match="too large for float16: take --precision bf16"):
        optimisation.check_scale()


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_every_precision_trains_and_keeps_weights_in_float32(data: Path, tmp_path: Path, precision: str) -> None:
    given = arguments("triplet", data, "--epochs", "1", "--precision", precision)
    assert train.main([*given, "--out", str(tmp_path / precision)]) == 0
    method = state(tmp_path / precision)["method"]
    assert {value.dtype for value in method.values() if value.is_floating_point()} == {torch.float32}
    assert bool(state(tmp_path / precision)["optimiser"]["scaler"]) == (precision == "fp16")


@pytest.mark.parametrize("name", METHODS)
def test_every_encoder_of_a_method_computes_its_backbone_in_the_wanted_precision(name: str) -> None:
    method = build_method(name).train()
    optimisation = Optimisation(method, OptimiserConfig(precision="bf16"), CPU)
    seen: dict[str, set[torch.dtype]] = {}
    for module_name, module in method.named_modules():
        if isinstance(module, DescriptorNet):
            types = seen.setdefault(module_name, set())
            module.backbone.layer1.register_forward_hook(lambda *call, types=types: types.add(call[2].dtype))
    optimisation.step([make_batch(method)], 0, 0.0)
    assert len(seen) == (2 if name in ("byol", "mocov2") else 1)
    assert set(map(frozenset, seen.values())) == {frozenset({torch.bfloat16})}


def test_step_size_rises_over_the_warmup_and_falls_by_the_cosine() -> None:
    warm = OptimiserConfig(warmup_steps=3)
    assert [lr_factor(warm, step, 0.5) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    cosine = OptimiserConfig(schedule="cosine")
    assert [round(lr_factor(cosine, 9, done), 6) for done in (0.0, 0.5, 1.0)] == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("method", ["triplet", "vicreg"])
def test_overfitting_a_few_pairs_finds_them_all(data: Path, tmp_path: Path, method: str) -> None:
    more = ["--overfit", "6", "--epochs", "12", "--val_every", "12", "--options.negatives", "2", "--augment.flip", "0"]
    given = arguments(method, data, *(more if method == "triplet" else [*more[:6], *more[8:]]))
    assert train.main([*given, "--out", str(tmp_path / "run")]) == 0
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[-1]["R@1"]) == 100


def test_metrics_hold_every_term_health_speed_and_waiting(data: Path, tmp_path: Path) -> None:
    assert train.main([*arguments("vicreg", data, "--epochs", "1"), "--out", str(tmp_path / "run")]) == 0
    row = next(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert {"loss", "invariance", "variance", "covariance"} <= row.keys()
    assert {"spread", "effective_rank", "images_per_s", "data_wait", "elapsed_s", "cpu_s", "R@1"} <= row.keys()
    parts = [float(row[name]) for name in ("invariance", "variance", "covariance")]
    assert float(row["loss"]) == pytest.approx(sum(parts), abs=1e-3)
    assert float(row["images_per_s"]) > 0 and 0 <= float(row["data_wait"]) <= 1


def test_profile_writes_its_table_and_trace_and_trains_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train.main([*arguments("triplet", data), "--profile", "--out", str(run)]) == 0
    assert "Self CPU" in capsys.readouterr().out and "Self CPU" in (run / "profile.txt").read_text()
    assert (run / "trace.json").stat().st_size > 0
    assert sorted(path.name for path in run.iterdir()) == ["profile.txt", "trace.json"]  # the folder is free to train
    assert train.main([*arguments("triplet", data), "--max_steps", "1", "--out", str(run)]) == 0
    assert train.main(["--resume", "--profile", "--max_steps", "2", "--out", str(run)]) == 0
    assert state(run)["progress"]["step"] == 1  # the run stays as it was


@pytest.mark.parametrize("method", METHODS)
def test_the_first_papers_mode_makes_embeddings_the_descriptors(data: Path, tmp_path: Path, method: str) -> None:
    given = arguments(method, data, "--epochs", "1", "--projected", "true")
    if method in ("triplet", "mocov2", "multi_similarity"):  # MoCo v2 as it is set up here
        with pytest.raises(ConfigError, match="has no projector"):
            configuration(given).network_config()
        return
    assert train.main([*given, "--out", str(tmp_path / "run")]) == 0
    from vgssl_core.geopair import load_run

    network = load_run(tmp_path / "run")[0]
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 12)
