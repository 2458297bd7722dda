"""Write the golden files that the runtime's frontends are tested against.

    python make_goldens.py [DIRECTORY]      (default: runtime/tests/goldens of this repository)

`frontends.json` lists the cases; every file is raw little-endian data. All inputs are generated here, nothing is
recorded. Log-mel must agree to 1e-4, pixels bit for bit (docs/decisions/0002 and 0003).
"""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np

from girasol_train import frontend

DEFAULT = pathlib.Path(__file__).resolve().parents[2] / "runtime" / "tests" / "goldens"
RESIZES = ((131, 97), (77, 53))  # width, height of the source planes
FRAMES = ((61, 47), (83, 61))


def signals() -> dict[str, np.ndarray]:
    """One patch each, s16: a rising tone with clipping, and noise that fades into digital silence."""
    rng, n = np.random.default_rng(1), frontend.PATCH_SAMPLES
    t = np.arange(n) / frontend.SAMPLE_RATE
    chirp = 1.3 * np.sin(2 * np.pi * (100.0 * t + 3_000.0 * t * t))
    fade = rng.standard_normal(n) * 0.2 * np.clip(1.0 - 1.5 * t, 0.0, 1.0)
    return {k: (v.clip(-1.0, 1.0) * 32_767).astype("<i2") for k, v in (("chirp", chirp), ("fade", fade))}


def picture(rng: np.random.Generator, width: int, height: int, channels: int) -> np.ndarray:
    """u8 [height, width, channels]: gradients, a few hard edges and noise."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    base = np.stack([np.sin(7 * x * (c + 1)) * np.cos(5 * y + c) for c in range(channels)], axis=-1)
    base[height // 3 : height // 2, width // 4 : width // 2] *= -1.0
    return ((base * 0.5 + 0.5) * 235 + rng.integers(0, 21, base.shape)).astype(np.uint8)


def mel_cases(folder: pathlib.Path) -> list[dict]:
    cases = []
    for name, pcm in signals().items():
        pcm.tofile(folder / f"mel_{name}.s16")
        mel = frontend.log_mel(pcm.astype(np.float32) / np.float32(32_768.0))
        mel.astype("<f4").tofile(folder / f"mel_{name}.f32")
        cases.append(
            {"input": f"mel_{name}.s16", "expected": f"mel_{name}.f32", "shape": list(mel.shape), "scale": 1 / 32_768}
        )
    return cases


def resize_cases(folder: pathlib.Path, rng: np.random.Generator) -> list[dict]:
    cases = []
    for width, height in RESIZES:
        plane, stem = picture(rng, width, height, 1)[..., 0], f"plane_{width}x{height}"
        plane.tofile(folder / f"{stem}.u8")
        frontend.resize_plane(plane).tofile(folder / f"{stem}_small.u8")
        cases.append({"input": f"{stem}.u8", "width": width, "height": height, "expected": f"{stem}_small.u8"})
    return cases


def yuv_cases(folder: pathlib.Path, rng: np.random.Generator) -> tuple[dict, dict]:
    """4:2:0 planes of an odd-sized view, resized per plane, then converted; and single full-range colours."""
    width, height = 101, 75
    y = picture(rng, width, height, 1)[..., 0]
    u, v = np.moveaxis(picture(rng, (width + 1) // 2, (height + 1) // 2, 2), -1, 0)
    np.concatenate([p.ravel() for p in (y, u, v)]).tofile(folder / "yuv420.u8")
    small = [frontend.resize_plane(np.ascontiguousarray(p)) for p in (y, u, v)]
    frontend.yuv_to_rgb(*small).tofile(folder / "yuv420_small.rgb")
    colours = rng.integers(0, 256, (1024, 3), dtype=np.uint8)
    colours.tofile(folder / "colours.yuv")
    frontend.yuv_to_rgb(*np.moveaxis(colours, -1, 0), full_range=True).tofile(folder / "colours_full_range.rgb")
    planes = {"input": "yuv420.u8", "width": width, "height": height, "chroma_width": 51, "chroma_height": 38}
    full = {"input": "colours.yuv", "expected": "colours_full_range.rgb", "count": len(colours)}
    return planes | {"expected": "yuv420_small.rgb"}, full


def frame_case(folder: pathlib.Path, rng: np.random.Generator) -> dict:
    """Two RGB views of different sizes: the small frame of the second, and its luma minus the first one's."""
    views, small = [], []
    for width, height in FRAMES:
        name = f"rgb_{width}x{height}.u8"
        view = picture(rng, width, height, 3)
        view.tofile(folder / name)
        views.append({"input": name, "width": width, "height": height})
        small.append(frontend.resize_rgb(view))
    small[1].tofile(folder / "frame_small.rgb")
    difference = frontend.frame_tensor(small[1], small[0])[3] * 128.0
    difference.astype("<i2").tofile(folder / "frame_difference.s16")
    return {"views": views, "expected": "frame_small.rgb", "expected_difference": "frame_difference.s16"}


def main() -> None:
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2)
    cases = {
        "log_mel": mel_cases(folder),
        "resize_plane": resize_cases(folder, rng),
        "frame_tensor": frame_case(folder, rng),
    }
    cases["yuv420_limited_range"], cases["yuv_full_range"] = yuv_cases(folder, rng)
    (folder / "frontends.json").write_text(json.dumps(cases, indent=1) + "\n")
    print(f"{folder}: {sum(p.stat().st_size for p in folder.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
