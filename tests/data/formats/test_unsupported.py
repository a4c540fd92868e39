"""Formats that are not read are named, with what works; those that are read are not taken for them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from detrkit.data.files.file_index import FileIndex
from detrkit.data.formats.detect import open_dataset
from detrkit.data.formats.unsupported import explain_unsupported
from detrkit.data.validation.image_probe import probe_images
from detrkit.errors import DataError

KITTI = (
    "Car 0.00 0 -1.58 10.0 8.0 50.0 38.0 1.5 1.6 3.7 1.8 1.4 8.4 -1.5\nDontCare -1 -1 -1 1 2 3 4 -1 -1 -1 -9 -9 -9 -9\n"
)
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "createml": (
        {"train/_annotations.createml.json": [{"image": "a.jpg", "annotations": [{"label": "a", "coordinates": {}}]}]},
        "CreateML json (train/_annotations.createml.json)",
        "Roboflow",
    ),
    "visdrone": ({"annotations/a.txt": "10,8,40,30,1,4,0,0\n"}, "VisDrone (annotations/a.txt)", "a region to ignore"),
    "dota": (
        {"labelTxt/a.txt": "imagesource:GoogleEarth\ngsd:0.1\n1 2 9 2 9 8 1 8 plane 0\n"},
        "labels of DOTA",
        "upright box",
    ),
    "kitti": ({"training/label_2/a.txt": KITTI}, "labels of KITTI (training/label_2/a.txt)", "DontCare"),
    "kitti for yolo": ({"images/a.jpg": "", "labels/a.txt": KITTI}, "labels of KITTI (labels/a.txt)", "DontCare"),
    "names": ({"labels/a.txt": "traffic light 10.0 20 30 40\n"}, "names of classes (labels/a.txt)", "data.yaml"),
    "icdar": ({"gt/gt_1.txt": "1,2,9,2,9,8,1,8,shop\n"}, "ICDAR", "upright box"),
    "mot": ({"MOT-1/gt/gt.txt": "1,1,10,20,30,40,1,1,0.9\n"}, "MOTChallenge", "left, top, width, height"),
    "wider": ({"wider_face_train_bbx_gt.txt": "a/b.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n"}, "WIDER FACE", "COCO"),
    "keras": ({"train.txt": "images/my a.jpg 1,2,3,4,0 5,6,7,8,1\n"}, "YOLO for Keras", "COCO"),
    "crowdhuman": ({"annotation_train.odgt": {"ID": "a", "gtboxes": []}}, "CrowdHuman", "fbox"),
    "tensorflow csv": (
        {"train/_annotations.csv": "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,9,9,a,1,2,3,4\n"},
        "a table of boxes (train/_annotations.csv)",
        "COCO",
    ),
    "retinanet csv": ({"train.csv": "images/a.jpg,1,2,3,4,dent\nimages/b.jpg,,,,,\n"}, "a table of boxes", "COCO"),
    "open images": ({"b.csv": "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n"}, "Open Images", "fractions"),
    "classes csv": ({"_classes.csv": "filename, dent, hole\na.jpg,0,1\n"}, "classes of whole images", "needs boxes"),
    "encoded pixels": ({"train.csv": "ImageId,ClassId,EncodedPixels\n0.jpg,1,29102 12\n"}, "run lengths", "polygons"),
    "excel": ({"a.jpg": "", "labels.xlsx": "PK"}, "a table of Excel (labels.xlsx)", "COCO"),
    "isat": ({"0.json": {"info": {"description": "ISAT"}, "objects": []}}, "ISAT json (0.json)", "COCO in ISAT"),
    "mmdetection 2": (
        {"train.json": [{"filename": "0.jpg", "ann": {"bboxes": [[1, 2, 3, 4]], "labels": [0]}}]},
        "MMDetection's json",
        "COCO",
    ),
    "deeppcb": ({"a_not/0.txt": "10 20 30 40 1\n50 60 70 80 3\n"}, "DeepPCB has them (a_not/0.txt)", "left, top"),
    "fiftyone": ({"samples.json": {"samples": [{"filepath": "a.jpg"}]}}, "FiftyOne (samples.json)", "COCODetection"),
    "captions": (
        {"captions.json": {"images": [{"id": 1}], "annotations": [{"caption": "a"}]}},
        "captions of COCO (captions.json)",
        "instances",
    ),
    "images by id": (
        {"a.jpg": "", "labels.json": {"images": {"1": {"file_name": "a.jpg"}}, "annotations": []}},
        "nearly COCO's (labels.json)",
        "a list of objects",
    ),
    "capital keys": ({"info.json": {"Images": [], "Annotations": []}}, "nearly COCO's (info.json)", "lower case"),
    "backslashes": ({"images\\0.jpg": "", "labels\\0.txt": "0 0.5 0.5 1 1"}, r"\ in them (images\0.jpg)", "7-Zip"),
    "two endings": ({"a.jpg": "", "labels.json.txt": {"images": []}}, "two endings (labels.json.txt)", "rename it"),
    "lfs json": ({"a.jpg": "", "train.json": LFS}, "git-lfs (train.json)", "`git lfs pull`"),
    "lfs images": ({"a.jpg": LFS}, "git-lfs (a.jpg)", "`git lfs pull`"),
    "bdd": ({"det.json": [{"name": "a", "labels": [{"box2d": {"x1": 1}}]}]}, "BDD100K", "FiftyOne"),
    "hugging face": ({"train/metadata.jsonl": {"file_name": "a.jpg", "objects": {}}}, "Hugging Face", "COCO"),
    "parquet": ({"data/train-00000-of-00001.parquet": "PAR1"}, "Hugging Face", "datasets"),
    "tfrecord": ({"train.tfrecord-00000-of-00002": "x"}, "TFRecords (train.tfrecord-00000-of-00002)", "COCO"),
    "mvtec": (
        {"train/good/0.png": "", "test/broken/0.png": "", "ground_truth/broken/0_mask.png": ""},
        "MVTec AD",
        "masks/KIND",
    ),
    "supervisely": (
        {"ds/ann/a.jpg.json": {"objects": [{"classTitle": "a", "geometryType": "rectangle"}]}},
        "Supervisely",
        '"Export to COCO"',
    ),
    "datumaro": (
        {"annotations/train.json": {"info": {}, "categories": {"label": {"labels": []}}, "items": []}},
        "Datumaro's own json",
        "datum convert",
    ),
    "via 3": ({"via3.json": {"project": {"pid": "1", "vid_list": ["1"]}, "file": {}}}, "VIA 3", "as COCO"),
    "via 3 csv": ({"via3.csv": "# Exported using VGG Image Annotator\n# CSV_HEADER = metadata_id\n"}, "VIA 3", "COCO"),
    "results": (
        {"dets.json": [{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]},
        "a list of detections, COCO results (dets.json)",
        "detrkit eval --detections",
    ),
    "labelbox": ({"export.ndjson": {"data_row": {"id": "a"}, "projects": {}}}, "Labelbox", "COCO"),
    "ultralytics": ({"set.ndjson": {"type": "dataset", "task": "detect"}}, "NDJSON of Ultralytics", "convert_ndjson"),
    "cityscapes": (
        {"gtFine/a_gtFine_polygons.json": {"imgHeight": 9, "objects": [{"label": "car", "polygon": []}]}},
        "Cityscapes",
        "COCO",
    ),
    "vott": ({"set.vott": {"name": "a"}}, "VoTT", "Pascal VOC"),
    "vott asset": ({"1-asset.json": {"asset": {"name": "a"}, "regions": [{"tags": ["a"]}]}}, "VoTT", "Pascal VOC"),
    "darwin": ({"a.json": {"item": {}, "annotations": [{"bounding_box": {"x": 1}}]}}, "V7", "darwin convert coco"),
    "mmdetection": ({"a.json": {"metainfo": {}, "data_list": []}}, "MMDetection", "COCO"),
    "sagemaker": ({"output.manifest": {"source-ref": "s3://a/b.jpg"}}, "SageMaker", "COCO"),
    "dlib": (
        {"a.xml": "<dataset><images><image file='a.jpg'><box top='1'/></image></images></dataset>"},
        "dlib",
        "COCO",
    ),
    "ua-detrac": ({"a.xml": "<sequence name='a'><frame><target_list><target id='1'/>"}, "UA-DETRAC", "COCO"),
    "matlab": ({"train/digitStruct.mat": "MATLAB"}, "MATLAB", "COCO"),
    "archive": ({"set.zip": "PK"}, "an archive (set.zip)", "unpack it"),
    "archive beside images": ({"a.jpg": "", "labels.tar.gz": "x"}, "an archive (labels.tar.gz)", "unpack it"),
    "class folders": (
        {"train/cat/1.jpg": "", "train/dog/2.jpg": "", "val/cat/3.jpg": "", "README.txt": "Photos of pets\n"},
        "folders of images and no annotations (cat/, dog/)",
        "label boxes",
    ),
    "images": (
        {"train/images/a.jpg": "", "val/images/b.jpg": ""},
        "images and no annotations (2, the first is train/images/a.jpg)",
        "label boxes",
    ),
    "unread images": ({"a.heic": "", "b.dng": ""}, "cannot be read (2, the first is a.heic)", "JPEG or PNG"),
    "videos": ({"a.mp4": ""}, "videos (a.mp4) and no labeled images", "frames"),
}


def fill(root: Path, files: dict[str, Any]) -> FileIndex:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return FileIndex(root)


@pytest.mark.parametrize("name", CASES)
def test_an_unsupported_format_is_named_with_supported_ones(tmp_path: Path, name: str) -> None:
    files, actual, advice = CASES[name]
    message = explain_unsupported(fill(tmp_path, files))
    assert message.startswith(f"expected a data set in {tmp_path}, found ")
    assert actual in message.partition("; ")[0]
    assert advice in message.partition("; ")[2]
    assert "\n" not in message


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"notes.txt": "Taken on 3 May 2024, camera 2.\nSee the wiki.\n"},
        {"a.jpg": "", "a.txt": "0 0.5 0.5 0.1 0.1\n"},
        {"a.jpg": "", "a.txt": "0 0.5 0.5 0.1 0.1 0.2 0.2 0.1 0.3\n"},
        {"a.jpg": "", "a.xml": "<annotation><object><name>a</name></object></annotation>"},
        {"a.jpg": "", "train.json": {"images": [], "annotations": [], "categories": [{"id": 1, "name": "label"}]}},
        {"a.jpg": "", "a.json": {"shapes": [], "imagePath": "a.jpg"}},
        {"a.jpg": "", "via.json": {"a.jpg9": {"filename": "a.jpg", "size": 9, "regions": [], "file_attributes": {}}}},
        {"a.jpg": "", "what.json": {"answer": 42}},
    ],
)
def test_other_data_is_not_taken_for_one_of_them(tmp_path: Path, files: dict[str, Any]) -> None:
    assert explain_unsupported(fill(tmp_path, files)) == ""


@pytest.mark.parametrize(
    ("name", "content", "actual"),
    [
        ("set.zip", "PK", "an archive (set.zip)"),
        ("a.heic", "", "cannot be read (1, the first is a.heic)"),
        ("what.json", {}, ""),
        ("a.jpg", "", ""),
    ],
)
def test_a_single_file(tmp_path: Path, name: str, content: Any, actual: str) -> None:
    files = {name: content, "a.odgt": "", "train/good/b.png": "", "ground_truth/b.png": ""}
    message = explain_unsupported(fill(tmp_path, files), tmp_path / name)
    assert actual in message
    assert message.startswith(f"expected a data set in {tmp_path / name}, ") or (not actual and not message)


def test_garbage_of_every_ending_is_survived(tmp_path: Path) -> None:
    dice = random.Random(0)
    for k, ending in enumerate(("json", "jsonl", "xml", "txt", "csv", "tsv", "ndjson", "yaml") * 4):
        (tmp_path / f"{k}.{ending}").write_bytes(dice.randbytes(dice.choice((0, 1, 50, 70_000))))
    (tmp_path / "long.txt").write_text("a 1 2 3" * 30_000)
    (tmp_path / "long.csv").write_text("\n" + "1," * 60_000)
    assert explain_unsupported(FileIndex(tmp_path)) == ""


@pytest.mark.parametrize(
    ("name", "content", "holds"),
    [
        ("0.xml", "<annotation><object><name>a</name></object></annotation>", "VOC (xml files)"),
        ("0.json", {"shapes": [], "imagePath": "0.jpg", "version": "5.4.1"}, "LABELME"),
        (
            "via.json",
            {"0.jpg9": {"filename": "0.jpg", "size": 9, "regions": [], "file_attributes": {}}},
            "VIA (via.json)",
        ),
        (
            "via.csv",
            "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
            '0.jpg,9,"{}",1,0,"{""name"":""rect"",""x"":1,""y"":1,""width"":5,""height"":5}","{}"\n',
            "VIA (via.csv)",
        ),
        ("0.txt", "0 0.5 0.5 0.1 0.1\n", "YOLO"),
        ("obj.names", "dent\n", "YOLO"),
    ],
)
def test_a_file_of_a_data_set_is_answered_with_its_folder(tmp_path: Path, name: str, content: Any, holds: str) -> None:
    label = {"0.txt": "0 0.5 0.5 0.1 0.1\n"} if name == "obj.names" else {}
    fill(tmp_path, {"0.jpg": "", "readme.md": "", **label, name: content})
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path / name)
    message = str(caught.value)
    assert f"found the file {tmp_path / name}; name its folder {tmp_path}, which holds " in message
    assert holds in message


def test_a_git_lfs_pointer_is_refused_with_advice(tmp_path: Path) -> None:
    fill(tmp_path, {"a.jpg": LFS})
    (facts,) = probe_images([tmp_path / "a.jpg"])
    assert (facts.problem, facts.detail) == ("image_unreadable", "a pointer of git-lfs: run `git lfs pull`")
