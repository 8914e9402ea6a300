"""Heads: the pooled vector as it is, and a whitening projection that is fitted to descriptors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.models import NetworkConfig, build_network
from vgssl_core.models.from_data import fit_pca_head

CNN = NetworkConfig("test_resnet", descriptor_dim=8, pretrained=False)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def test_network_without_a_head_gives_the_pooled_vector() -> None:
    network = build_network(replace(CNN, head="none", pooling="spoc")).eval()
    x = torch.randn(2, 3, 64, 96)
    assert network.dimension == network.encoded_dim == 96
    assert torch.allclose(
        network(x), normalize(normalize(network.backbone(x)[-1], dim=1).mean((2, 3)), dim=1), atol=1e-6
    )


@pytest.mark.parametrize("count", [200, 20], ids=["covariance", "gram"])
def test_pca_head_whitens_the_descriptors_that_it_was_fitted_on(count: int) -> None:
    network = build_network(replace(CNN, head="none", pooling="spoc")).eval()
    with torch.no_grad():
        descriptors = normalize(torch.randn(count, 96) @ torch.randn(96, 96) + 3, dim=1)
        head = fit_pca_head(network, descriptors, 10).head
        white = head(descriptors)
    assert torch.allclose(white.mean(0), torch.zeros(10), atol=1e-3)
    assert torch.allclose(white.T.cov(), torch.eye(10), atol=1e-3)
    _, _, axes = np.linalg.svd(descriptors.numpy() - descriptors.numpy().mean(0), full_matrices=False)
    rows = normalize(head.weight, dim=1).numpy()
    assert np.allclose(np.abs(np.sum(rows * axes[:10], axis=1)), 1, atol=1e-3)


def test_pca_head_is_rebuilt_from_the_architecture() -> None:
    network = build_network(replace(CNN, head="none")).eval()
    x = torch.randn(8, 3, 64, 96)
    with torch.no_grad():
        fit_pca_head(network, network(x), 4)
        copy = build_network(NetworkConfig.from_architecture(network.config.architecture())).eval()
        copy.load_state_dict(network.state_dict())
        assert copy.dimension == network.dimension == 4 and torch.equal(copy(x), network(x))


@pytest.mark.parametrize(
    ("changes", "descriptors", "error", "message"),
    [
        ({"head": "none"}, torch.eye(5, 96), DataError, "5 descriptors of length 96 span 4 dimensions, not the 8"),
        ({"head": "none"}, torch.ones(5, 96), DataError, "span 0 dimensions"),
        ({}, torch.eye(5, 96), ConfigError, "--head none"),
    ],
)
def test_pca_that_cannot_be_fitted_is_refused(
    changes: dict[str, object], descriptors: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit_pca_head(build_network(replace(CNN, **changes)), descriptors, 8)
