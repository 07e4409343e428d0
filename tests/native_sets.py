"""The paper's training sets in small: the files, names and fields that their authors publish, with pictures.

Every function writes one of them into a folder and returns what a source's `path` is. Pictures are 8 x 6 pixels.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import TypeAdapter

from mutua.data.readers import Source

SIZE = (8, 6)
COLOURS = ("red", "green", "blue")


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def picture_file(colour: str = "red", form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", SIZE, colour).save(file, form, quality=95)
    return file.getvalue()


def write_picture(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_file(colour, "PNG" if path.suffix == ".png" else "JPEG"))


def write_vqav2(folder: Path) -> Path:
    """Three questions, two of them about one picture."""
    asked = [(458752000, 458752, "What is this photo taken looking through?", "net")]
    asked += [(262146000, 262146, "What color is the snow?", "white")]
    asked += [(458752001, 458752, "What position is this man playing?", "pitcher")]
    common = {"info": {}, "license": {}, "data_subtype": "train2014", "data_type": "mscoco"}
    questions = [{"image_id": image, "question": text, "question_id": id} for id, image, text, _ in asked]
    answers = [
        {
            "question_type": "what",
            "multiple_choice_answer": answer,
            "answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": nth} for nth in range(1, 3)],
            "image_id": image,
            "answer_type": "other",
            "question_id": id,
        }
        for id, image, _, answer in reversed(asked)
    ]
    name = "v2_OpenEnded_mscoco_train2014_questions.json"
    write_json(folder / name, {**common, "task_type": "Open-Ended", "questions": questions})
    write_json(folder / "v2_mscoco_train2014_annotations.json", {**common, "annotations": answers})
    for id in (458752, 262146):
        write_picture(folder / f"train2014/COCO_train2014_{id:012d}.jpg")
    return folder


def write_gqa(folder: Path) -> Path:
    """Three questions, two of them about one picture."""
    asked = {
        "02930152": ("2354786", "Is the sky dark?", "yes"),
        "07333408": ("2375429", "What is on the wall?", "pipe"),
    }
    asked["02930153"] = ("2354786", "What is under the sky?", "house")
    write_json(
        folder / "train_balanced_questions.json",
        {
            id: {
                "semantic": [{"operation": "select", "dependencies": [], "argument": "sky (2486325)"}],
                "entailed": [],
                "equivalent": [id],
                "question": question,
                "imageId": image,
                "isBalanced": True,
                "groups": {"global": None, "local": "06-sky_dark"},
                "answer": answer,
                "semanticStr": "select: sky (2486325)",
                "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
                "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": "verify"},
                "fullAnswer": f"It is {answer}.",
            }
            for id, (image, question, answer) in asked.items()
        },
    )
    for image in ("2354786", "2375429"):
        write_picture(folder / f"images/{image}.jpg")
    return folder


def write_vsr(folder: Path) -> Path:
    rows = [
        ("train2017", "000000050403.jpg", "The teddy bear is in front of the person.", 1, "in front of"),
        ("val2017", "000000401901.jpg", "The cats are beside the bed.", 0, "beside"),
        ("train2017", "000000050403.jpg", "The box contains the teddy bear.", 0, "contains"),
    ]
    lines = []
    for subset, image, caption, label, relation in rows:
        link = f"http://images.cocodataset.org/{subset}/{image}"
        row = {"image": image, "image_link": link, "caption": caption, "label": label, "relation": relation}
        lines.append(json.dumps({**row, "annotator_id": 31, "vote_true_validator_id": [2, 6]}))
        write_picture(folder / subset / image)
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_ocr_vqa(folder: Path) -> Path:
    """Two books of the training split with two questions each, one of the test split."""
    book = {
        "imageURL": "http://ecx.images-amazon.com/images/I/51l6XIoa3rL.jpg",
        "questions": ["Who wrote this book? ", "What is the title of this book?"],
        "answers": ["Mary Jones ", "Parrots"],
        "title": "Parrots",
        "authorName": "Mary Jones",
        "genre": "Pets",
        "split": 1,
    }
    second = {**book, "imageURL": "http://ecx.images-amazon.com/images/I/61bD.png", "answers": ["Li Wei", "Snow"]}
    books = {"761183272": book, "1445612852": second, "999": {**book, "split": 3}}
    write_picture(folder / "images/761183272.jpg")
    write_picture(folder / "images/1445612852.png")
    write_json(folder / "dataset.json", books)
    return folder


def write_a_okvqa(folder: Path) -> Path:
    rows = [
        ("22MexNkBPpdZGX6sxbxVBH", 299207, "What is the man by the bags awaiting?", 3),
        ("2Aq7TBEVHJKDPzqSmYpDpC", 71212, "Where is the dog?", 0),
    ]
    choices = ["skateboarder", "train", "delivery", "cab"]
    content = [
        {
            "split": "train",
            "image_id": image,
            "question_id": id,
            "question": question,
            "choices": choices,
            "correct_choice_idx": right,
            "direct_answers": [choices[right]] * 10,
            "difficult_direct_answer": False,
            "rationales": ["A train would not be on the street."],
        }
        for id, image, question, right in rows
    ]
    write_json(folder / "aokvqa_v1p0_train.json", content)
    for _, image, _, _ in rows:
        write_picture(folder / f"train2017/{image:012d}.jpg")
    return folder


def write_science_qa(folder: Path) -> Path:
    """With a picture and a hint, with neither, and one of the test split."""
    question = {
        "question": "Which of these states is farthest north?",
        "choices": ["West Virginia", "Louisiana", "Arizona", "Oklahoma"],
        "answer": 0,
        "hint": "Look at the map.",
        "image": "image.png",
        "task": "closed choice",
        "grade": "grade2",
        "subject": "social science",
        "topic": "geography",
        "category": "Geography",
        "skill": "Read a map: cardinal directions",
        "lecture": "Maps have four cardinal directions.",
        "solution": "West Virginia is farthest north.",
        "split": "train",
    }
    plain = {**question, "question": "Is ice solid?", "choices": ["no", "yes"], "answer": 1, "hint": "", "image": None}
    problems = {"1": question, "2": plain, "3": {**question, "split": "test"}}
    write_json(folder / "problems.json", problems)
    write_picture(folder / "images/train/1/image.png")
    return folder


def write_refcoco(folder: Path, name: str = "finetune_refcoco_train.json") -> Path:
    """Three expressions, two of them about one picture. Returns the file: a folder may hold the three sets."""
    rows = [("581857", "the lady with the blue shirt", [2, 1.5, 4, 3]), ("580957", "dog", [0, 0, 8, 6])]
    rows += [("581857", "woman", [2, 1.5, 4, 3])]
    images, annotations = [], []
    for nth, (original, caption, box) in enumerate(rows):
        images.append(
            {
                "file_name": f"COCO_train2014_{int(original):012d}.jpg",
                "height": SIZE[1],
                "width": SIZE[0],
                "id": nth,
                "original_id": int(original),
                "caption": caption,
                "dataset_name": "refcoco",
                "tokens_negative": [[0, len(caption)]],
            }
        )
        annotations.append(
            {
                "area": box[2] * box[3],
                "iscrowd": 0,
                "image_id": nth,
                "category_id": 1,
                "id": nth,
                "bbox": box,
                "original_id": 1719310,
                "tokens_positive": [[0, 4]],
            }
        )
        write_picture(folder / "train2014" / images[-1]["file_name"])
    categories = [{"supercategory": "person", "id": 1, "name": "person"}]
    return write_json(
        folder / name,
        {"info": [], "licenses": [], "images": images, "annotations": annotations, "categories": categories},
    )


def write_visual_genome(folder: Path, one_folder: bool = True) -> Path:
    """Two pictures, with two regions and one."""
    regions = [
        {"region_id": 1382, "image_id": 1, "x": 2, "y": 3, "width": 4, "height": 2, "phrase": "the clock is green "},
        {"region_id": 1383, "image_id": 1, "x": -1, "y": 0, "width": 5, "height": 9, "phrase": "a tall building"},
        {"region_id": 2001, "image_id": 2, "x": 0, "y": 0, "width": 8, "height": 6, "phrase": "a street"},
    ]
    content = [{"id": id, "regions": [one for one in regions if one["image_id"] == id]} for id in (1, 2)]
    write_json(folder / "region_descriptions.json", content)
    data = []
    for id, subset in ((1, "VG_100K_2"), (2, "VG_100K")):
        url = f"https://cs.stanford.edu/people/rak248/{subset}/{id}.jpg"
        data.append(
            {"width": SIZE[0], "url": url, "height": SIZE[1], "image_id": id, "coco_id": None, "flickr_id": None}
        )
        write_picture(folder / ("images" if one_folder else subset) / f"{id}.jpg")
    write_json(folder / "image_data.json", data)
    return folder


def write_llava_instruct(folder: Path) -> Path:
    """A conversation of two turns, and a description with the picture behind the words. Returns the file."""
    rows = [
        {
            "id": "000000033471",
            "image": "000000033471.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat are the colors of the bus in the image?"},
                {"from": "gpt", "value": "The bus in the image is white and red."},
                {"from": "human", "value": "What feature can be seen on the back of the bus?"},
                {"from": "gpt", "value": "The back of the bus features an advertisement."},
            ],
        },
        {
            "id": "000000052846",
            "image": "000000052846.jpg",
            "conversations": [
                {"from": "human", "value": "Where is the cat positioned in the image?\n<image>"},
                {"from": "gpt", "value": "The cat is positioned on top of the back of the couch."},
            ],
        },
    ]
    for row in rows:
        write_picture(folder / "train2017" / str(row["image"]))
    return write_json(folder / "llava_instruct_150k.json", rows)


CAPTION = "The image shows a red van, parked in front of a shop."
OCR_CAPTION = json.dumps(
    [
        {"include_datacomp_raw_cap": True, "text": "A sign."},
        {"include_datacomp_raw_cap": False, "text": 'The image contains the text "STOP".'},
    ]
)


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def write_tar_shards(folder: Path, caption: str = CAPTION, shards: int = 2) -> Path:
    """Of two records each, as img2dataset writes them: with JSON of their own, and a list of addresses beside."""
    for shard in range(shards):
        members = {}
        for nth in range(2):
            key, form = f"{shard:05d}{nth:04d}", "jpg" if nth == 0 else "png"
            members[f"{key}.{form}"] = picture_file(COLOURS[nth], {"jpg": "JPEG", "png": "PNG"}[form])
            members[f"{key}.txt"] = caption.encode()
            members[f"{key}.json"] = json.dumps({"url": "http://a.b/c.jpg", "key": key}).encode()
        write_tar(folder / f"{shard:05d}.tar", members)
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    return folder


def write_parquet_shards(folder: Path, caption: str = CAPTION, shards: int = 2, column: str = "caption") -> Path:
    """Of two records each, as img2dataset writes them: the bytes of the picture in the column `jpg`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        rows = [
            {
                "url": "http://a.b/c.jpg",
                "key": f"{shard:05d}{nth:04d}",
                "status": "success",
                column: caption,
                "jpg": picture_file(COLOURS[nth]),
            }
            for nth in range(2)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard:05d}.parquet")
    return folder


SETS: dict[str, Callable[[Path], Path]] = {
    "vqav2": write_vqav2,
    "gqa": write_gqa,
    "vsr": write_vsr,
    "ocr-vqa": write_ocr_vqa,
    "a-okvqa": write_a_okvqa,
    "science-qa": write_science_qa,
    "refcoco": write_refcoco,
    "visual-genome": write_visual_genome,
    "blip3-kale": write_tar_shards,
    "blip3-ocr": lambda folder: write_tar_shards(folder, OCR_CAPTION),
}
"""By the `type` of a source: writes its files into a folder, and returns the source's `path`."""


def opened(kind: str, path: Path, **settings: Any) -> Any:
    """The reader of a source of this `type`."""
    given = {"type": kind, "path": str(path), **settings}
    return TypeAdapter(Source).validate_python(given).open()


def change(path: Path, *keys: Any, to: Any = None) -> None:
    """Puts a value into a JSON file; without one, the key is removed."""
    content = place = json.loads(path.read_text())
    for key in keys[:-1]:
        place = place[key]
    if to is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    path.write_text(json.dumps(content))
