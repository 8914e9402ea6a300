"""The project's exceptions: each message names the file or value at fault and says what to do."""

from __future__ import annotations


class VgsslError(Exception):
    """Base of every error that a user can mend; programs print its message and exit with 1."""


class DataError(VgsslError):
    """Images, positions, place sets or bags that cannot be used as they are."""


class ConfigError(VgsslError):
    """A setting, flag or configuration file that is wrong or incomplete."""


class BundleError(VgsslError):
    """A model bundle that is missing, damaged, of another version, or fails its check."""


class MapError(VgsslError):
    """A map that is missing, damaged, of another version, or of another model."""
