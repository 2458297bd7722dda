"""Pictures of the data kit, their visible labels, and synthetic camera views of them.

The kit has photographs, not video, and most of them show one centred object. A view compensates: the camera pans and
zooms over a picture, or its object is pasted smaller and off centre on another picture, partly hidden, in bad light.
Consecutive frames of a view are one sampling step of the runtime (0.48 s) apart, so the luma difference is realistic.

Labels are positive, negative or unknown. The loss must ignore unknown ones (weight 0): a catalogue photograph tagged
`car` says nothing certain about persons.
"""
from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .frontend import FRAME_HEIGHT, FRAME_WIDTH, luma
from .splits import is_final

VISIBLE = (
    "person", "face", "dog", "cat", "bird", "farm_animal", "wild_animal", "car", "motorbike", "train", "aircraft",
    "boat", "musical_instrument", "screen",
)
INDEX = {name: i for i, name in enumerate(VISIBLE)}
ANIMALS = frozenset({"dog", "cat", "bird", "farm_animal", "wild_animal"})

# Words of the kit's tags and of the 80 COCO classes -> our labels.
TAG_TO_LABEL = {
    "person": "person", "face": "face", "dog": "dog", "cat": "cat", "bird": "bird", "farm_animal": "farm_animal",
    "horse": "farm_animal", "sheep": "farm_animal", "cow": "farm_animal", "wild_animal": "wild_animal",
    "elephant": "wild_animal", "bear": "wild_animal", "zebra": "wild_animal", "giraffe": "wild_animal",
    "car": "car", "bus": "car", "truck": "car", "motorbike": "motorbike", "motorcycle": "motorbike",
    "bicycle": "motorbike", "train": "train", "airplane": "aircraft", "helicopter": "aircraft", "boat": "boat",
    "guitar": "musical_instrument", "piano": "musical_instrument", "musical_instrument": "musical_instrument",
    "laptop": "screen", "phone": "screen", "cell_phone": "screen", "tv": "screen",
}

# ImageNet classes (inclusive ranges, order of the kit's names file) -> our labels. Class 7/8 (cock, hen) are birds
# here as the kit tags roosters `bird`.
IMAGENET_TO_LABEL: dict[str, tuple[tuple[int, int], ...]] = {
    "dog": ((151, 268),),
    "cat": ((281, 285),),
    "bird": ((7, 24), (80, 100), (127, 146)),
    "farm_animal": ((339, 339), (341, 341), (345, 346), (348, 349), (355, 355)),
    "wild_animal": (
        (101, 106), (269, 280), (286, 299), (330, 337), (340, 340), (342, 344), (347, 347), (350, 354), (356, 388),
    ),
    "car": (
        (407, 407), (436, 436), (468, 468), (511, 511), (555, 555), (569, 569), (609, 609), (627, 627), (654, 654),
        (656, 656), (661, 661), (675, 675), (717, 717), (734, 734), (751, 751), (779, 779), (817, 817), (864, 864),
        (867, 867), (874, 874),
    ),
    "motorbike": ((444, 444), (665, 665), (670, 671)),
    "train": ((466, 466), (547, 547), (565, 565), (705, 705), (820, 820), (829, 829)),
    "aircraft": ((404, 405), (895, 895)),
    "boat": (
        (472, 472), (484, 484), (510, 510), (554, 554), (576, 576), (625, 625), (628, 628), (724, 724), (780, 780),
        (814, 814), (871, 871), (914, 914),
    ),
    "musical_instrument": (
        (401, 402), (420, 420), (432, 432), (486, 486), (513, 513), (541, 541), (546, 546), (558, 558), (566, 566),
        (579, 579), (593, 594), (641, 642), (683, 684), (687, 687), (699, 699), (776, 776), (822, 822), (875, 875),
        (881, 881), (889, 889),
    ),
    "screen": ((487, 487), (527, 527), (590, 590), (605, 605), (620, 620), (664, 664), (681, 681), (782, 782),
               (851, 851)),
}

VALIDATION_SHARE = 0.12
CENTRE_BOX = (0.12, 0.12, 0.88, 0.88)
CANVAS_WIDTH, CANVAS_HEIGHT = 256, 192
CACHE_VERSION = 2


@dataclass(frozen=True, eq=False)
class Picture:
    """One photograph with everything known about it; `rgb` is a view into a memory map."""

    file: str
    rgb: np.ndarray
    row: int
    source_id: str
    dataset: str
    split: str
    tags: frozenset[str]
    tag_source: str
    detector_tags: frozenset[str]
    person: int | None
    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    lite0_logits: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    objects: tuple[tuple[int, tuple[float, float, float, float]], ...]

    def labels(self) -> frozenset[str]:
        """Labels given by a human (or by the data set's own folders)."""
        return frozenset(TAG_TO_LABEL[t] for t in self.tags if t in TAG_TO_LABEL)

    def detector_score(self, label: str) -> float:
        """Highest stored YOLOX-nano score (0.10 or more, else 0) of the COCO classes that make up `label`."""
        hit = [s for c, s in zip(self.classes, self.scores, strict=True) if TAG_TO_LABEL.get(c) == label]
        return float(max(hit, default=0.0))


@dataclass(frozen=True)
class View:
    """Consecutive small frames; `target` and `weight` are per frame and visible label (weight 0 = unknown).

    `motion` is the true luma change since the frame before, per frame and token cell, without noise and flicker.
    """

    frames: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    motion: np.ndarray


# ---------------------------------------------------------------------------------------------------- loading


def default_data() -> Path:
    """The data kit's folder, from the environment."""
    return Path(os.environ.get("GIRASOL_DATA", "data-kit"))


def default_work() -> Path:
    """Folder for caches and checkpoints, from the environment."""
    return Path(os.environ.get("GIRASOL_WORK", "work"))


def part_of(source_id: str, split: str) -> str:
    """train / val / test / final: validation is carved out of train by a hash of the source, never by picture."""
    if split == "test":
        return "final" if is_final(source_id) else "test"
    digest = hashlib.sha256(f"avkit-val-1:{source_id}".encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < VALIDATION_SHARE * 2**64 else "train"


def _pixel_cache(data: Path, work: Path, rows: list[dict[str, str]]) -> tuple[np.ndarray, list[list[int]]]:
    """All pictures decoded into one flat memory map, once for the same list; with [offset, height, width] of each."""
    flat, index = work / f"pictures-v{CACHE_VERSION}.u8", work / f"pictures-v{CACHE_VERSION}.json"
    files = [row["file"] for row in rows]
    known = json.loads(index.read_text()) if index.exists() else {}
    if known.get("files") != files:
        work.mkdir(parents=True, exist_ok=True)
        index.unlink(missing_ok=True)
        places, offset = [], 0
        part = flat.with_suffix(f".{os.getpid()}.tmp")
        with part.open("wb") as out:
            for row in rows:
                bgr = cv2.imread(str(data / row["file"]), cv2.IMREAD_COLOR)
                out.write(np.ascontiguousarray(bgr[..., ::-1]).tobytes())
                places.append([offset, bgr.shape[0], bgr.shape[1]])
                offset += bgr.size
        part.replace(flat)
        part = index.with_suffix(f".{os.getpid()}.tmp")
        known = {"files": files, "places": places}
        part.write_text(json.dumps(known))
        part.replace(index)
    return np.memmap(flat, np.uint8, "r"), known["places"]


@functools.cache
def imagenet_pool() -> np.ndarray:
    """[1000, V] 0/1 matrix that adds ImageNet probabilities up into visible labels."""
    pool = np.zeros((1000, len(VISIBLE)), np.float32)
    for label, ranges in IMAGENET_TO_LABEL.items():
        for first, last in ranges:
            pool[first:last + 1, INDEX[label]] = 1.0
    return pool


def pooled_lite0(logits: np.ndarray) -> np.ndarray:
    """EfficientNet-lite0 logits [..., 1000] -> probability per visible label [..., V]; 0 where ImageNet has none."""
    z = np.exp(logits.astype(np.float32) - logits.astype(np.float32).max(-1, keepdims=True))
    return (z / z.sum(-1, keepdims=True)) @ imagenet_pool()


def load_images(data: Path, work: Path, split: str | None = None) -> list[Picture]:
    """Pictures of `split` (train, val, test, final; None = all) in manifest order; the first call decodes them all."""
    with (data / "images/manifest.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    pixels, places = _pixel_cache(data, work, rows)
    boxes = np.load(data / "teacher-labels/images_detector.npz")
    lite0 = np.load(data / "teacher-labels/images_efficientnet_lite0.npz")
    stems = [Path(r["file"]).name for r in rows]
    if [Path(f).name for f in boxes["files"]] != stems or [Path(f).name for f in lite0["files"]] != stems:
        raise ValueError("teacher labels are not in manifest order")
    box = {k: boxes[f"yolox_nano_{k}"] for k in ("offsets", "scores", "classes", "boxes")}
    names, logits = boxes["coco_names"], lite0["logits"]
    pictures = []
    for i, row in enumerate(rows):
        part = part_of(row["source_id"], row["split"])
        if split is not None and part != split:
            continue
        offset, height, width = places[i]
        rgb = pixels[offset:offset + height * width * 3].reshape(height, width, 3)
        span = slice(box["offsets"][i], box["offsets"][i + 1])
        pictures.append(_picture(i, row, part, rgb, names[box["classes"][span]], box["scores"][span],
                                 box["boxes"][span], logits[i]))
    return pictures


def _picture(i: int, row: dict[str, str], part: str, rgb: np.ndarray, classes: np.ndarray, scores: np.ndarray,
             boxes: np.ndarray, logits: np.ndarray) -> Picture:
    bare = Picture(
        file=row["file"], rgb=rgb, row=i, source_id=row["source_id"], dataset=row["dataset"], split=part,
        tags=frozenset(row["tags"].split()), tag_source=row["tag_source"],
        detector_tags=frozenset(row["detector_tags"].split()),
        person=int(row["person"]) if row["person"] else None,
        classes=classes, scores=scores.astype(np.float32), boxes=boxes.astype(np.float32), lite0_logits=logits,
        target=np.zeros(0), weight=np.zeros(0), objects=(),
    )
    target, weight = training_labels(bare)
    return Picture(**{**bare.__dict__, "target": target, "weight": weight, "objects": _objects(bare, target, weight)})


# ---------------------------------------------------------------------------------------------------- labels


def training_labels(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """Target in [0, 1] and loss weight per visible label; soft where only teachers speak, weight 0 where unknown."""
    pooled = pooled_lite0(picture.lite0_logits)
    pairs = [_training_label(picture, label, float(pooled[i])) for i, label in enumerate(VISIBLE)]
    return np.array([p[0] for p in pairs], np.float32), np.array([p[1] for p in pairs], np.float32)


def _training_label(picture: Picture, label: str, lite0: float) -> tuple[float, float]:
    human = picture.labels()
    if label in human:
        return 1.0, 1.0
    if label == "person":
        return (0.0, 0.0) if picture.person is None else (float(picture.person), 1.0)
    if label == "face":
        return _face_label(picture)
    if "80 classes" in picture.tag_source and label != "musical_instrument":
        return 0.0, 1.0
    if label in ANIMALS and human & ANIMALS and label != "cat":
        return 0.0, 1.0  # one animal per catalogue picture: dalmatians are not giraffes, kangaroos not dogs
    detector = picture.detector_score(label)
    if detector < 0.2 and lite0 < 0.05:
        return 0.0, 1.0
    if human_tagged(picture) and lite0 < 0.1:
        return 0.0, 0.3  # a detector alone against the catalogue: ceiling fans are not aircraft, dandelions not cats
    if detector >= 0.5:
        return 1.0, 1.0
    return max(detector, lite0), 0.3 if human else 0.5


def human_tagged(picture: Picture) -> bool:
    """A catalogue picture: its folder names the one thing it shows."""
    return picture.tag_source in ("dataset label", "folder label")


def _face_label(picture: Picture) -> tuple[float, float]:
    """Faces are labelled in portrait sets only: without a person there is none, elsewhere distance decides."""
    if picture.person is None:
        return 0.0, 0.0
    if picture.person == 0:
        return 0.0, 1.0
    heights = [b[3] - b[1] for c, b in zip(picture.classes, picture.boxes, strict=True) if c == "person"]
    return (0.0, 0.5) if heights and max(heights) < 0.35 else (0.0, 0.0)


def scoring_labels(picture: Picture, assumed_negatives: bool = False) -> np.ndarray:
    """1 / 0 / NaN per visible label from human labels only.

    `assumed_negatives` adds catalogue pictures of something else on which YOLOX-nano finds nothing of the label (not
    even at 0.10): not a human's word, but without them most labels have no negatives at all.
    """
    out = np.full(len(VISIBLE), np.nan, np.float32)
    human = picture.labels()
    coco80, coco_person = "80 classes" in picture.tag_source, "person only" in picture.tag_source
    catalogue = assumed_negatives and human_tagged(picture)
    for i, label in enumerate(VISIBLE):
        if label in human:
            out[i] = 1.0
        elif _human_negative(label, human, coco80, coco_person) or (catalogue and _assumed_negative(picture, label)):
            out[i] = 0.0
    return out


def _human_negative(label: str, human: frozenset[str], coco80: bool, coco_person: bool) -> bool:
    if label == "face":
        return (coco80 or coco_person) and "person" not in human
    if label == "person":
        return coco80 or coco_person
    return coco80 and label != "musical_instrument"


def _assumed_negative(picture: Picture, label: str) -> bool:
    if label in ("face", "person"):
        return picture.person == 0 and picture.detector_score("person") == 0.0
    return picture.detector_score(label) == 0.0


def _objects(picture: Picture, target: np.ndarray, weight: np.ndarray):
    """(label, box as fractions) of everything taken as visible; a label without a detection gets the centre."""
    found = []
    for i, label in enumerate(VISIBLE):
        if target[i] < 0.5 or weight[i] == 0.0:
            continue
        source = "person" if label == "face" else label
        boxes = [tuple(float(v) for v in np.clip(b, 0.0, 1.0))
                 for c, s, b in zip(picture.classes, picture.scores, picture.boxes, strict=True)
                 if TAG_TO_LABEL.get(c) == source and s >= 0.3]
        if label == "face":
            boxes = [(x0, y0, x1, y0 + 0.5 * (y1 - y0)) for x0, y0, x1, y1 in boxes]
        found += [(i, b) for b in (boxes or [CENTRE_BOX])]
    return tuple(found)


def index_by_label(pictures: Sequence[Picture]) -> dict[str, list[int]]:
    """Label -> positions of pictures that surely show it."""
    return {label: [n for n, p in enumerate(pictures) if p.target[i] >= 0.9 and p.weight[i] >= 0.9]
            for i, label in enumerate(VISIBLE)}


def backgrounds(pictures: Sequence[Picture]) -> list[int]:
    """Positions of pictures that show none of our labels, as far as anybody can tell."""
    return [n for n, p in enumerate(pictures) if (p.weight > 0).all() and (p.target < 0.1).all()]


# ---------------------------------------------------------------------------------------------------- views

Region = tuple[float, float, float, float]


def _overlap(a: Region, b: Region) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _area(r: Region) -> float:
    return max(0.0, r[2] - r[0]) * max(0.0, r[3] - r[1])


def region_labels(picture: Picture, region: Region, pixels: float = FRAME_WIDTH * FRAME_HEIGHT,
                  ) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the part `region` (fractions) of a picture when it is drawn on `pixels` output pixels.

    A label stays positive when 40 % of one of its objects, and at least 100 pixels of it, are inside; it becomes
    negative below 10 % (of detected objects) and unknown in between.
    """
    target, weight = picture.target.copy(), picture.weight.copy()
    share: dict[int, float] = {}
    size: dict[int, float] = {}
    guessed = {i for i, b in picture.objects if b == CENTRE_BOX}
    scale = pixels / max(_area(region), 1e-6)
    for i, box in picture.objects:
        inside = _overlap(box, region)
        share[i] = max(share.get(i, 0.0), inside / max(_area(box), 1e-6))
        size[i] = max(size.get(i, 0.0), inside * scale)
    for i, seen in share.items():
        if seen >= 0.4 and size[i] >= 100.0:
            continue
        if seen < 0.1 and i not in guessed:
            target[i] = 0.0
        else:
            weight[i] = 0.0
    return target, weight


def render_view(rng: np.random.Generator, subjects: Sequence[Picture], n_frames: int,
                background: Picture | None = None, degrade: bool = True, still: bool | None = None,
                whole: bool | None = None) -> View:
    """A synthetic camera view of `subjects`: u8 [n, 96, 128, 3] frames 0.48 s apart and their visible labels.

    One subject and no background: the camera moves over the subject's own picture. Otherwise the subjects are pasted
    on the background (a synthetic one when None). `still` forces (or forbids) a motionless scene, `whole` a camera
    that always sees (nearly) the whole picture; None lets chance decide.
    """
    still = bool(rng.random() < 0.35) if still is None else still
    if len(subjects) == 1 and background is None:
        whole = bool(rng.random() < 0.35) if whole is None else whole
        frames, target, weight = _own_view(rng, subjects[0], n_frames, still, whole)
    else:
        frames, target, weight = _pasted_view(rng, subjects, n_frames, background, still)
    if rng.random() < 0.5:
        frames = frames[:, :, ::-1]
    frames = np.ascontiguousarray(frames)
    return View(degraded(rng, frames) if degrade else frames, target, weight, cell_motion(frames))


def cell_motion(frames: np.ndarray) -> np.ndarray:
    """Mean absolute luma change / 128 per cell of the 4 x 3 token grid: [n, 12], zeros for the first frame."""
    n, cell = len(frames), FRAME_WIDTH // 4
    change = np.abs(np.diff(luma(frames).astype(np.float32), axis=0)) / 128.0
    cells = change.reshape(n - 1, 3, cell, 4, cell).mean((2, 4)).reshape(n - 1, 12)
    return np.concatenate([np.zeros((1, 12), np.float32), cells])


def whole_view(picture: Picture) -> np.ndarray:
    """The picture as a still camera sees it: squeezed to 128 x 96, nothing else done."""
    return cv2.resize(picture.rgb, (FRAME_WIDTH, FRAME_HEIGHT), interpolation=cv2.INTER_AREA)


def _track(rng: np.random.Generator, n: int, smallest: float, still: bool) -> np.ndarray:
    """[n, 4] camera rectangles as fractions, drifting linearly (pan and zoom) with a little shake."""

    def one() -> np.ndarray:
        w, h = rng.uniform(smallest, 1.0, 2) ** 0.7
        h = float(np.clip(h, 0.7 * w, w / 0.7))
        return np.array([rng.uniform(0, 1 - w), rng.uniform(0, max(0.0, 1 - h)), w, min(h, 1.0)])

    first = one()
    if still:
        rects = np.repeat(first[None], n, 0)
    else:
        speed = rng.choice([0.1, 0.4, 1.0])
        t = np.linspace(0.0, 1.0, max(n, 2))[:n, None] * speed * min(1.0, (n - 1) / 4 + 0.25)
        rects = first + (one() - first) * t
        rects[:, :2] += rng.normal(0.0, rng.choice([0.0, 0.004]), (n, 2))
    x0 = np.clip(rects[:, 0], 0, 1 - rects[:, 2])
    y0 = np.clip(rects[:, 1], 0, 1 - rects[:, 3])
    return np.stack([x0, y0, x0 + rects[:, 2], y0 + rects[:, 3]], 1)


def _cut(rgb: np.ndarray, region: Region, width: int = FRAME_WIDTH, height: int = FRAME_HEIGHT) -> np.ndarray:
    """Area resize of a region; like the runtime's, it averages whatever lies under an output pixel."""
    h, w = rgb.shape[:2]
    x0, y0 = int(region[0] * w), int(region[1] * h)
    x1, y1 = max(x0 + 2, round(region[2] * w)), max(y0 + 2, round(region[3] * h))
    return cv2.resize(rgb[y0:y1, x0:x1], (width, height), interpolation=cv2.INTER_AREA)


def _exposure(rng: np.random.Generator) -> float:
    """Share of the time between two sampled frames (0.48 s) during which the shutter is open: up to 1/15 s."""
    return float(rng.choice([0.0, 0.02, 0.07, 0.14]))


def _smear(image: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """Motion blur: the mean of the image moved along (dx, dy) pixels; unchanged below one pixel."""
    reach = int(np.ceil(max(abs(dx), abs(dy)) / 2.0))
    if max(abs(dx), abs(dy)) < 1.0:
        return image
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for at in np.linspace(-0.5, 0.5, 4 * reach + 1):
        kernel[round(reach + at * dy), round(reach + at * dx)] += 1.0
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def _shaken(frames: np.ndarray, track: np.ndarray, exposure: float) -> np.ndarray:
    """Motion blur of a moving camera: `track` holds its rectangle per frame, as fractions of what it looks at."""
    centre = (track[:, :2] + track[:, 2:]) / 2.0
    size = track[:, 2:] - track[:, :2]
    moved = np.gradient(centre, axis=0) if len(track) > 1 else np.zeros_like(centre)
    shift = moved / size * [FRAME_WIDTH, FRAME_HEIGHT] * exposure
    return np.stack([_smear(f, dx, dy) for f, (dx, dy) in zip(frames, shift, strict=True)])


def _own_view(rng: np.random.Generator, picture: Picture, n: int, still: bool, whole: bool):
    track = np.tile([0.0, 0.0, 1.0, 1.0], (n, 1)) if whole and still else _track(rng, n, 0.85 if whole else 0.4, still)
    labels = [region_labels(picture, tuple(r)) for r in track]
    frames = _shaken(np.stack([_cut(picture.rgb, tuple(r)) for r in track]), track, _exposure(rng))
    return frames, np.stack([t for t, _ in labels]), np.stack([w for _, w in labels])


def synthetic_background(rng: np.random.Generator) -> np.ndarray:
    """A wall, a sky, darkness: smooth colour with large soft blobs and a little texture."""
    small = rng.normal(0.0, rng.choice([2.0, 15.0, 45.0]), (rng.integers(2, 7), rng.integers(2, 9), 3))
    base = rng.uniform(0, 255) + rng.normal(0, 20, 3)
    canvas = cv2.resize((base + small).astype(np.float32), (CANVAS_WIDTH, CANVAS_HEIGHT), interpolation=cv2.INTER_CUBIC)
    canvas += rng.normal(0.0, rng.choice([0.0, 2.0, 6.0]), canvas.shape).astype(np.float32)
    return canvas.clip(0, 255).astype(np.uint8)


def _alpha(cut: np.ndarray) -> np.ndarray:
    """Soft mask of a cut-out: everything but the near-white surround of a catalogue picture, else a soft ellipse."""
    h, w = cut.shape[:2]
    border = np.concatenate([cut[0], cut[-1], cut[:, 0], cut[:, -1]])
    if (border.min(-1) > 225).mean() > 0.6:
        mask = np.zeros((h + 2, w + 2), np.uint8)
        work = np.ascontiguousarray(cut)
        for x, y in ((0, 0), (w - 1, 0), (0, h - 1), (w - 1, h - 1)):
            if not mask[y + 1, x + 1] and work[y, x].min() > 225:
                cv2.floodFill(work, mask, (x, y), (0, 0, 0), (14,) * 3, (14,) * 3, 4 | cv2.FLOODFILL_MASK_ONLY)
        alpha = 1.0 - mask[1:-1, 1:-1].astype(np.float32)
        if alpha.mean() > 0.1:
            return cv2.GaussianBlur(alpha, (3, 3), 0)
    y, x = np.mgrid[-1:1:h * 1j, -1:1:w * 1j].astype(np.float32)
    return np.clip((1.15 - (np.abs(x) ** 3 + np.abs(y) ** 3)) * 3.0, 0.0, 1.0)


@dataclass(frozen=True)
class _Sprite:
    """A cut-out ready to be drawn: pixels, soft mask, labels, and its centre on the canvas per frame."""

    rgb: np.ndarray
    alpha: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    path: np.ndarray


def _sprite(rng: np.random.Generator, picture: Picture, n: int, still: bool) -> _Sprite:
    boxes = [b for _, b in picture.objects] or [CENTRE_BOX]
    x0, y0, x1, y1 = boxes[rng.integers(len(boxes))]
    if (x0, y0, x1, y1) == CENTRE_BOX:
        x0, y0, x1, y1 = 0.0, 0.0, 1.0, 1.0
    mx, my = 0.08 * (x1 - x0), 0.08 * (y1 - y0)
    region = (max(0.0, x0 - mx), max(0.0, y0 - my), min(1.0, x1 + mx), min(1.0, y1 + my))
    h, w = picture.rgb.shape[:2]
    aspect = (region[2] - region[0]) * w / max(1.0, (region[3] - region[1]) * h) * rng.uniform(0.8, 1.25)
    # The side of the square of equal area, as a share of the canvas height: small objects are as common as large.
    side = CANVAS_HEIGHT * float(np.exp(rng.uniform(np.log(0.18), np.log(0.9))))
    width = int(np.clip(side * aspect**0.5, 6, 1.2 * CANVAS_WIDTH))
    height = int(np.clip(side / aspect**0.5, 6, 1.2 * CANVAS_HEIGHT))
    rgb = _cut(picture.rgb, region, width, height)
    shown = width * height * FRAME_WIDTH * FRAME_HEIGHT / (CANVAS_WIDTH * CANVAS_HEIGHT)
    target, weight = region_labels(picture, region, shown)
    start = rng.uniform([0.02, 0.1], [0.98, 0.95]) * [CANVAS_WIDTH, CANVAS_HEIGHT]
    speed = 0.0 if still or rng.random() < 0.4 else float(np.exp(rng.uniform(np.log(1.5), np.log(50.0))))
    step = np.array([rng.choice([-1.0, 1.0]), rng.normal(0, 0.25)]) * speed
    path = start + step * (np.arange(n)[:, None] - rng.integers(n))
    blur = step * _exposure(rng)
    alpha = _alpha(rgb)
    if np.abs(blur).max() >= 1.0:
        # Room for the smear, so that the object's edges run out over what is behind it.
        reach = int(np.ceil(np.abs(blur).max() / 2.0))
        rgb = _smear(cv2.copyMakeBorder(rgb, *(reach,) * 4, cv2.BORDER_REPLICATE), *blur)
        alpha = _smear(cv2.copyMakeBorder(alpha, *(reach,) * 4, cv2.BORDER_CONSTANT, value=0.0), *blur)
    return _Sprite(rgb, alpha, target, weight, path)


def _paste(canvas: np.ndarray, sprite: _Sprite, frame: int, gain: float) -> Region:
    """Draws the sprite; returns its rectangle in canvas fractions, unclipped."""
    h, w = sprite.rgb.shape[:2]
    left, top = int(sprite.path[frame, 0] - w / 2), int(sprite.path[frame, 1] - h / 2)
    x0, y0, x1, y1 = max(0, left), max(0, top), min(CANVAS_WIDTH, left + w), min(CANVAS_HEIGHT, top + h)
    if x1 > x0 and y1 > y0:
        a = sprite.alpha[y0 - top:y1 - top, x0 - left:x1 - left, None]
        new = sprite.rgb[y0 - top:y1 - top, x0 - left:x1 - left].astype(np.float32) * gain
        old = canvas[y0:y1, x0:x1]
        canvas[y0:y1, x0:x1] = (old + a * (new - old)).clip(0, 255).astype(np.uint8)
    return left / CANVAS_WIDTH, top / CANVAS_HEIGHT, (left + w) / CANVAS_WIDTH, (top + h) / CANVAS_HEIGHT


def _merge(target: np.ndarray, weight: np.ndarray, more_target: np.ndarray, more_weight: np.ndarray,
           share: float, pixels: float) -> None:
    """Adds a sprite's labels to the view's, given the share of it that can be seen."""
    for i in range(len(VISIBLE)):
        if more_weight[i] > 0 and more_target[i] < 0.1:
            continue
        if share < 0.05:
            continue
        sure = more_weight[i] > 0 and share >= 0.4 and share * pixels >= 100.0
        if sure:
            if target[i] * weight[i] < more_target[i] * more_weight[i]:
                target[i], weight[i] = more_target[i], more_weight[i]
        elif target[i] < 0.5:
            weight[i] = 0.0


def _pasted_view(rng: np.random.Generator, subjects: Sequence[Picture], n: int, background: Picture | None,
                 still: bool):
    if background is None:
        canvas = synthetic_background(rng)
        region: Region = (0.0, 0.0, 1.0, 1.0)
    else:
        region = tuple(_track(rng, 1, 0.6, True)[0])
        canvas = _cut(background.rgb, region, CANVAS_WIDTH, CANVAS_HEIGHT)
    sprites = [_sprite(rng, p, n, still) for p in subjects]
    gains = [float(np.exp(rng.normal(0.0, 0.2))) for _ in sprites]
    track = _track(rng, n, 0.75, still or bool(rng.random() < 0.6))
    occluder = _occluder(rng)
    frames, targets, weights = [], [], []
    for f in range(n):
        scene, view = canvas.copy(), tuple(track[f])
        places = [_paste(scene, s, f, g) for s, g in zip(sprites, gains, strict=True)]
        if occluder is not None:
            _draw_occluder(scene, occluder)
        target, weight = _background_labels(background, region, view)
        for sprite, place in zip(sprites, places, strict=True):
            hidden = 0.0 if occluder is None else _overlap(occluder[0], _clip(place, view)) / _area(place)
            share = _overlap(place, view) / _area(place) - hidden
            _merge(target, weight, sprite.target, sprite.weight, share,
                   _area(place) / _area(view) * FRAME_WIDTH * FRAME_HEIGHT)
        frames.append(_cut(scene, view))
        targets.append(target)
        weights.append(weight)
    return _shaken(np.stack(frames), track, _exposure(rng)), np.stack(targets), np.stack(weights)


def _clip(r: Region, to: Region) -> Region:
    return max(r[0], to[0]), max(r[1], to[1]), min(r[2], to[2]), min(r[3], to[3])


def _background_labels(background: Picture | None, region: Region, view: Region) -> tuple[np.ndarray, np.ndarray]:
    if background is None:
        return np.zeros(len(VISIBLE), np.float32), np.ones(len(VISIBLE), np.float32)
    w, h = region[2] - region[0], region[3] - region[1]
    seen = (region[0] + view[0] * w, region[1] + view[1] * h, region[0] + view[2] * w, region[1] + view[3] * h)
    return region_labels(background, seen)


def _occluder(rng: np.random.Generator) -> tuple[Region, np.ndarray, bool] | None:
    """Sometimes a post, a shelf or a curtain: a plain rectangle across the canvas."""
    if rng.random() > 0.2:
        return None
    across, at = rng.uniform(0.04, 0.2), rng.uniform(0.1, 0.9)
    upright = bool(rng.random() < 0.6)
    rect = (at, 0.0, min(1.0, at + across), 1.0) if upright else (0.0, at, 1.0, min(1.0, at + across))
    return rect, rng.uniform(0, 255, 3), upright


def _draw_occluder(scene: np.ndarray, occluder: tuple[Region, np.ndarray, bool]) -> None:
    (x0, y0, x1, y1), colour, upright = occluder
    part = scene[int(y0 * CANVAS_HEIGHT):int(y1 * CANVAS_HEIGHT), int(x0 * CANVAS_WIDTH):int(x1 * CANVAS_WIDTH)]
    if part.size:
        shade = np.linspace(0.7, 1.1, part.shape[1] if upright else part.shape[0], dtype=np.float32)
        shade = shade[None, :, None] if upright else shade[:, None, None]
        part[:] = (colour * shade).clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------- degradation


def degraded(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    """Light, colour, blur, sensor noise and JPEG artefacts of a cheap camera; one setting per view, noise per frame."""
    x = frames.astype(np.float32)
    x = x * float(np.exp(rng.normal(0.0, 0.25))) * np.exp(rng.normal(0.0, 0.06, 3)).astype(np.float32)
    x = (x - 127.0) * float(rng.uniform(0.7, 1.25)) + 127.0 + float(rng.normal(0.0, 10.0))
    if rng.random() < 0.12:
        x = np.repeat(x.mean(-1, keepdims=True), 3, -1)
    dark = rng.random() < 0.15
    if dark:
        x = x * float(rng.uniform(0.12, 0.45))
    if len(frames) > 1 and rng.random() < 0.08:
        x = x * np.linspace(1.0, rng.uniform(0.5, 1.5), len(frames), dtype=np.float32)[:, None, None, None]
    sigma = float(rng.uniform(3, 10) if dark else rng.choice([0.0, 0.0, 1.0, 2.5, 5.0]))
    blur = float(rng.choice([0.0, 0.0, 0.0, 0.6, 1.1]))
    x = np.stack([_softened(f, blur) for f in x])
    if sigma:
        x = x + sigma * rng.standard_normal(x.shape, np.float32)
    out = x.clip(0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        quality = int(rng.integers(25, 80))
        out = np.stack([cv2.imdecode(cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1) for f in out])
    return out


def _softened(frame: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(frame, (0, 0), sigma) if sigma else frame
