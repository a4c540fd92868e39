"""Detection transformers of Hugging Face transformers behind detrkit's own interface (extra `hf`).

Nothing here imports transformers before such a model is read or built.
"""

from __future__ import annotations

from detrkit.models.hf.adapter import TransformersDETR
from detrkit.models.hf.model_types import MODEL_TYPES, ModelType

__all__ = ["MODEL_TYPES", "ModelType", "TransformersDETR"]
