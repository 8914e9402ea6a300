"""What a method takes over from an earlier run besides the network: its projector and predictor."""

from __future__ import annotations

from vgssl_core.geopair.run_folder import LAST, RunFolder
from vgssl_core.ssl.method import SslMethod
from vgssl_core.ssl.momentum import MomentumEncoder


def inherit(method: SslMethod, name: str, run: RunFolder) -> tuple[str, ...]:
    """Fill what a method trains beside its network from the end of a run of the same method.

    Queues and moving averages are not taken: a queue holds keys of other images, and an average begins at the network
    that it follows.

    Args:
        method: Fresh; changed in place.
        name: Of the method.
        run: The earlier one; a folder that is no run gives nothing.

    Returns:
        What was taken, such as projector: parts whose shapes agree, and none of another method's.

    Raises:
        DataError: A damaged checkpoint.
    """
    if not (run.exists and run.has_last) or run.manifest().get("method") != name:
        return ()
    there = run.load(LAST).get("method", {})
    taken = []
    for part, module in method.named_children():
        if part == "network" or not any(parameter.requires_grad for parameter in module.parameters()):
            continue
        here = module.state_dict()
        values = {key: there[f"{part}.{key}"] for key in here if f"{part}.{key}" in there}
        if {key: value.shape for key, value in values.items()} == {key: value.shape for key, value in here.items()}:
            module.load_state_dict(values)
            taken.append(part)
    for module in method.modules():
        if isinstance(module, MomentumEncoder):
            module.projector.load_state_dict(method.projector.state_dict())
    return tuple(taken)
