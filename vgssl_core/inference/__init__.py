"""The model bundle and the engines that run it, without torch."""

from vgssl_core.inference.backends import available_backends, open_embedder, self_test
from vgssl_core.inference.bundle import Bundle, compute_model_id, load_bundle, write_bundle
from vgssl_core.inference.embedder import Embedder
from vgssl_core.inference.embedding import EmbeddedImages, embed_files, embed_images

__all__ = [
    "Bundle",
    "EmbeddedImages",
    "Embedder",
    "available_backends",
    "compute_model_id",
    "embed_files",
    "embed_images",
    "load_bundle",
    "open_embedder",
    "self_test",
    "write_bundle",
]
