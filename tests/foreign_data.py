"""Small data sets in the formats of other trainers, as they are found on disks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

COLOURS = ("red", "green", "blue")


def llava_rows() -> list[dict[str, Any]]:
    """One picture first, several in a later turn, none."""
    asked, said = "<image>\nwhat colour is it?", "it is red"
    return [
        {"id": "a", "image": "red.png", "conversations": turns(asked, said)},
        {
            "id": "b",
            "image": ["red.png", "blue.png", "green.png"],
            "conversations": turns("the first\n<image>", "red", "and <image> or <image>?", "blue, green"),
        },
        {"id": "c", "conversations": turns("say hello", "hällo")},
    ]


def turns(*said: str) -> list[dict[str, str]]:
    """LLaVA's conversation, human and gpt in turns."""
    return [{"from": "gpt" if nth % 2 else "human", "value": text} for nth, text in enumerate(said)]


def write_pictures(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for colour in COLOURS:
        Image.new("RGB", (8, 6), colour).save(folder / f"{colour}.png")


def write_llava(folder: Path, **layout: Any) -> Path:
    """`data.json` with its pictures beside it."""
    write_pictures(folder)
    (folder / "data.json").write_text(json.dumps(llava_rows(), **layout), encoding="utf-8")
    return folder / "data.json"


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def chat_table(size: int = 4) -> Any:
    """A table as TRL takes it: content parts and a column of pictures. Needs the `datasets` package."""
    import datasets

    text = datasets.Value("string")
    message = {"role": text, "content": datasets.List({"type": text, "text": text})}
    features = datasets.Features({"messages": datasets.List(message), "images": datasets.List(datasets.Image())})
    rows = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"question {nth}"}]},
                {"role": "assistant", "content": [{"type": "text", "text": f"answer {nth}"}]},
            ],
            "images": [Image.new("RGB", (8, 6), COLOURS[nth % 3])],
        }
        for nth in range(size)
    ]
    return datasets.Dataset.from_list(rows, features=features)
