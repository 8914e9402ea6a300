"""Poolings, one module each, exposing ``Pooling``: a feature map to one vector.

``Pooling(channels)`` is a module with the attribute ``dimension``, from (B, channels, h, w) to (B, dimension).
"""
