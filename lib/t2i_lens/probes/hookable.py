"""Refusal of networks whose hooks would not run, and the device of networks that are offloaded.

An edit by a hook that never runs changes nothing, and nobody would notice.
"""

import torch
from torch import nn


def require_hookable(network: nn.Module, name: str) -> None:
    """Refuses a network that is compiled or scripted, as a whole or in part.

    Args:
        name: What to call it in the message.

    Raises:
        ValueError: hooks in it would not run.
    """
    for path, module in network.named_modules():
        # torch.compile wraps a module; `module.compile()` and regional compiling replace its call.
        wrapped = "_orig_mod" in module._modules or module._compiled_call_impl is not None
        if wrapped or _is_compiled(module):
            part = f" ({path})" if path else ""
            raise ValueError(f"the {name} is compiled{part}: use it as it was before that")
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"the {name} is scripted: use it as it was before that")


def require_loaded(network: nn.Module, name: str) -> None:
    """Refuses a network whose weights accelerate keeps elsewhere.

    Raises:
        ValueError: it is offloaded.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        raise ValueError(f"the {name} is offloaded: load the model whole")


def _is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` made the forward of a module, or of what accelerate put around it."""
    forwards = (getattr(module, name, None) for name in ("forward", "_old_forward"))
    return any(hasattr(forward, "_torchdynamo_orig_callable") for forward in forwards)


def execution_device(network: nn.Module) -> torch.device:
    """The device that a network computes on, also where accelerate keeps its weights elsewhere."""
    for module in network.modules():
        for hook in _chain(getattr(module, "_hf_hook", None)):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return next(network.parameters()).device


def _chain(hook) -> tuple:
    """The hooks of accelerate that one attribute holds."""
    return tuple(getattr(hook, "hooks", (hook,)))
