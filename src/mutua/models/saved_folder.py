"""What a saved model carries besides its weights, so that it opens elsewhere: a module, and a card to read.

Without `import mutua`, Transformers knows no class of ours. `auto_map` in the saved configs names the module
`modeling_mutua.py` in the folder, which takes the classes from the installed package: with `trust_remote_code=True` the
Auto classes load the model, and without it they ask for that, rather than opening half of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

MODULE = "modeling_mutua"
_CODE = '''"""The classes of this model are in the package mutua (pip install mutua)."""

from {home} import {names}
'''

MODEL_MAP = {
    "AutoConfig": f"{MODULE}.MutuaConfig",
    "AutoModel": f"{MODULE}.MutuaModel",
    "AutoModelForImageTextToText": f"{MODULE}.MutuaForConditionalGeneration",
    "AutoModelForMultimodalLM": f"{MODULE}.MutuaForConditionalGeneration",
}
PROCESSOR_MAP = {"AutoProcessor": f"{MODULE}.MutuaProcessor"}

_CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [mutua, modality-mutual-attention]
---
# A Mutua model

Attention policy `{policy}`: {summary}. Vision encoder `{vision}`, connector `{connector}`, language model `{language}`.

```python
import mutua  # pip install mutua

model, processor = mutua.load("this/folder")
print(mutua.ask(model, processor, "picture.png", "what is in the picture?"))
```

After `import mutua` Transformers' own classes load it, too (`AutoModelForImageTextToText`, `AutoProcessor`,
`pipeline`); without the import they need `trust_remote_code=True` and the package installed. The processor returns
`token_type_ids`, the role of every token: pass on all that it returns.
"""


def write_module(
    folder: str | os.PathLike[str],
    home: str = "mutua.models",
    names: str = "MutuaConfig, MutuaForConditionalGeneration, MutuaModel, MutuaProcessor",
) -> None:
    """Writes the module that `auto_map` names: the classes by these names, from their home in this package."""
    (Path(folder) / f"{MODULE}.py").write_text(_CODE.format(home=home, names=names), encoding="utf-8")


def write_card(folder: str | os.PathLike[str], config: Any, summary: str) -> None:
    """Writes README.md, unless the folder has one: somebody may have written it."""
    card = Path(folder) / "README.md"
    if not card.exists():
        text = _CARD.format(
            policy=config.attention_policy,
            summary=summary,
            vision=config.vision_config.model_type,
            connector=config.connector,
            language=config.text_config.model_type,
        )
        card.write_text(text, encoding="utf-8")
