"""Poolings, one module each, exposing ``Pooling``: a feature map to one vector.

``Pooling(channels)`` is a module with the attribute ``dimension``, from (B, channels, h, w), unit vectors along the
channels, to (B, dimension), in float32. Its further arguments, numbers with a default, are the ``pooling_options``.

A class with ``takes_tokens = True`` is made with the number T of the network's class tokens, ``Pooling(channels, T)``,
and called with these, (B, T, channels), after the map where T is not 0.

A pooling with a method ``initialise(local_descriptors, generator)`` is given unit vectors, (N, channels) float32, of
training images before the training begins.
"""
