"""A random draw on torch's meta device imports sympy: 2.7 s in each inference process.

Upstream: not reported. Ends with: no version yet; seen in torch 2.8.
"""

from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode


class NoRandomInit(TorchFunctionMode):
    """Leaves new weights as they are while it is entered, for a model whose weights are loaded next."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # the draws of torch's own layers (linear, embedding, recurrent) and of ours
        if func.__name__ in ("normal_", "uniform_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
