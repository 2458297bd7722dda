"""Where training computes: on a GPU if torch sees one, else on the CPU, where validation and all the rest stay."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def best() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_cpu(module: Module) -> Module:
    """A copy for validation; the module itself where it is on the CPU already."""
    here = all(p.device.type == "cpu" for p in module.parameters())
    return module if here else copy.deepcopy(module).cpu()
