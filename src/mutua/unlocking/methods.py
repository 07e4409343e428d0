"""What stands in for a method of one model, as an attribute of it.

It finds the method that it stands in for on the model's class, so a copied or unpickled model calls its own.
"""

from __future__ import annotations

import inspect
from typing import Any

from transformers import PreTrainedModel


class Method:
    """Stands in for a method of a model."""

    name: str

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(type(self.model), self.name)(self.model, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """The method's own, without self: Transformers goes by the signatures of what it is given."""
        method = inspect.signature(getattr(type(self.model), self.name))
        return method.replace(parameters=list(method.parameters.values())[1:])
