"""Makes the golden files of the frontends from the Python reference. Run from the repository's root:

    PYTHONPATH=models/train python runtime/tests/goldens/make.py

Inputs are made by formulas that the Rust tests repeat (`runtime/src/frontend/golden_tests.rs`), so only outputs are
stored: log-mel patches as little-endian f32, every second row of small frames as RGB bytes and of a tensor as
i16.
"""
from pathlib import Path

import numpy as np

from girasol_train import frontend

HERE = Path(__file__).parent
# (name, width, height) of each picture.
PICTURES = [("yuyv", 322, 181), ("nv12", 130, 99), ("yuv420", 67, 51), ("rgb24", 161, 121), ("grey", 333, 77)]


def noise(count: int, seed: int) -> np.ndarray:
    """u32 values of a linear congruential generator."""
    out = np.empty(count, np.uint32)
    state = seed
    for i in range(count):
        state = (state * 1_664_525 + 1_013_904_223) & 0xFFFFFFFF
        out[i] = state
    return out


def scene(width: int, height: int, seed: int) -> np.ndarray:
    """u8 [height, width]: a gradient with noise on it."""
    y, x = np.mgrid[:height, :width]
    grain = (noise(width * height, seed) >> 27).astype(np.int64).reshape(height, width)
    return ((x * 3 + y * 2 + grain) % 256).astype(np.uint8)


def mel_inputs() -> list[np.ndarray]:
    """i16 patches: loud noise; a quiet square wave after silence."""
    loud = (noise(frontend.PATCH_SAMPLES, 7) >> 16).astype(np.uint16).view(np.int16)
    n = np.arange(frontend.PATCH_SAMPLES)
    square = np.where(n < 5_000, 0, np.where(n // 20 % 2 == 0, 300, -300)).astype(np.int16)
    return [loud, square]


def planes(name: str, width: int, height: int):
    """The reference's view of a picture: full-size components or Y, U, V planes."""
    if name == "yuyv":
        raw = scene(width * 2, height, 1)
        return raw[:, 0::2], raw[:, 1::4], raw[:, 3::4]
    if name == "nv12":
        chroma = scene(width, (height + 1) // 2, 3)
        return scene(width, height, 2), chroma[:, 0::2], chroma[:, 1::2]
    if name == "yuv420":
        half = ((width + 1) // 2, (height + 1) // 2)
        return scene(width, height, 4), scene(*half, 5), scene(*half, 6)
    raise ValueError(name)


def small_frame(name: str, width: int, height: int) -> np.ndarray:
    if name == "rgb24":
        return frontend.resize_rgb(scene(width * 3, height, 8).reshape(height, width, 3))
    if name == "grey":
        return np.repeat(frontend.resize_plane(scene(width, height, 9))[..., None], 3, -1)
    y, u, v = (frontend.resize_plane(p) for p in planes(name, width, height))
    return frontend.yuv_to_rgb(y, u, v, full_range=name == "yuv420")


def main() -> None:
    mels = [frontend.log_mel(x.astype(np.float32) / 32_768.0) for x in mel_inputs()]
    np.stack(mels).astype("<f4").tofile(HERE / "logmel.f32")
    frames = {name: small_frame(name, w, h) for name, w, h in PICTURES}
    # Every second row, to keep the files small.
    np.stack([frames[name][::2] for name, _, _ in PICTURES]).tofile(HERE / "frames.rgb")
    # Stored in units of 1/128, in which every value is a whole number.
    tensor = frontend.frame_tensor(frames["rgb24"], frames["yuyv"]) * 128
    assert (tensor == np.round(tensor)).all()
    tensor[:, ::2].astype("<i2").tofile(HERE / "tensor.i16")


if __name__ == "__main__":
    main()
