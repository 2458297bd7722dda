"""Streaming equals the banded batch run, and masked content has no influence."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import pytest
import torch

from girasol_train import restore, train_fusion
from girasol_train.fusion import Fusion, FusionConfig, Ring

BUNDLE = pathlib.Path(__file__).resolve().parents[2] / "bundle"
CONFIG = FusionConfig(audible=5, visible=3, vocabulary=40, window=8)


def random_scene(steps: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Scene with missing frames, missing audio and time gaps."""
    g = torch.Generator().manual_seed(seed)
    c = CONFIG

    def present(*shape: int) -> torch.Tensor:
        return (torch.rand(*shape, generator=g) > 0.3).float()

    frames, audio = present(1, steps, c.frames), present(1, steps, c.patches)
    return {
        "video": torch.randn(1, steps, c.frames, c.video_tokens, c.token_dim, generator=g) * frames[..., None, None],
        "audio": torch.randn(1, steps, c.patches, c.audio_tokens, c.token_dim, generator=g) * audio[..., None, None],
        "frame_present": frames,
        "audio_present": audio,
        "frame_offset": torch.rand(1, steps, c.frames, generator=g),
        "dt": 0.96
        + torch.randint(0, 4, (1, steps, 1), generator=g).float() * (torch.rand(1, steps, 1, generator=g) < 0.3),
    }


VARIANTS = {
    "ttm": {}, "causal": {"combiner": "causal"}, "mean": {"combiner": "mean"}, "summary": {"combiner": "summary"},
    "late": {"combiner": "summary", "late": True}, "concat": {"combiner": "concat", "snippet_tokens": 36},
    "wide": {"dim": 160}, "narrow window": {"window": 1},
}  # fmt: skip


def model(variant: str = "ttm") -> Fusion:
    torch.manual_seed(1)
    return Fusion(dataclasses.replace(CONFIG, **VARIANTS[variant])).eval()


@pytest.mark.parametrize("combiner", list(VARIANTS))
@torch.no_grad()
def test_streaming_equals_banded_batch(combiner: str) -> None:
    fusion, scene, steps = model(combiner), random_scene(20), 20
    batch = fusion.scene(scene)
    ring = Ring.empty(fusion.config)
    words = torch.tensor([[1, 5, 9, 2]])
    for t in range(steps):
        now = {name: value[:, t] for name, value in scene.items()}
        ring.advance(float(now["dt"]))
        tokens, ring.memory = fusion.combiner(
            now["video"],
            now["audio"],
            now["frame_present"],
            now["audio_present"],
            now["frame_offset"],
            now["dt"],
            ring.memory,
        )
        out = fusion.latent.step(tokens, ring.k, ring.v, ring.age(), ring.valid)
        ring.store(out)
        for name in ("latents", "next_tokens", "audible", "visible", "source", "cross_k", "cross_v"):
            torch.testing.assert_close(out[name], batch[name][:, t], atol=1e-4, rtol=1e-4)
        first = max(0, t + 1 - fusion.config.window)
        age = batch["start"][:, t : t + 1] - batch["start"][:, first : t + 1]
        cross = [batch[name][:, first : t + 1].transpose(1, 2) for name in ("cross_k", "cross_v")]
        expected = fusion.decoder.sequence(words, *cross, age, torch.ones_like(age))
        torch.testing.assert_close(decode_steps(fusion, ring, words), expected, atol=1e-4, rtol=1e-4)


def decode_steps(fusion: Fusion, ring: Ring, words: torch.Tensor) -> torch.Tensor:
    c = fusion.config
    k, v = (torch.zeros(1, c.decoder_layers, c.context, c.dim) for _ in range(2))
    valid, logits = torch.zeros(1, c.context), []
    for p, word in enumerate(words[0]):
        out, new_k, new_v = fusion.decoder.step(
            word[None], torch.tensor([p]), k, v, valid, ring.cross_k, ring.cross_v, ring.age(), ring.valid
        )
        k[:, :, p], v[:, :, p], valid[:, p] = new_k, new_v, 1.0
        logits.append(out)
    return torch.stack(logits, dim=1)


@torch.no_grad()
def test_masked_content_has_no_influence() -> None:
    fusion, scene = model(), random_scene(6)
    dirty = dict(scene)
    dirty["video"] = scene["video"] + (1 - scene["frame_present"])[..., None, None] * 7.0
    dirty["audio"] = scene["audio"] + (1 - scene["audio_present"])[..., None, None] * 7.0
    torch.testing.assert_close(fusion.scene(scene)["audible"], fusion.scene(dirty)["audible"])


def step(fusion: Fusion, scene: dict[str, torch.Tensor], t: int, memory: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Tokens and memory after a snippet of a scene that is played again and again."""
    now = {name: value[:, t % value.shape[1]] for name, value in scene.items()}
    names = ("video", "audio", "frame_present", "audio_present", "frame_offset", "dt")
    return fusion.combiner(*(now[name] for name in names), memory)


def shipped() -> Fusion:
    fusion = Fusion(train_fusion.config()).eval()
    restore.fill(fusion.combiner, BUNDLE / "combiner.onnx")
    return fusion


@pytest.mark.parametrize("fusion", [model, shipped])
@torch.no_grad()
def test_state_stays_bounded_and_stable_over_ten_thousand_snippets(fusion: Callable[[], Fusion]) -> None:
    fusion, scene, early = fusion(), random_scene(100), []
    memory = torch.zeros(1, fusion.config.memory, fusion.config.dim)
    for t in range(10_000):
        tokens, memory = step(fusion, scene, t, memory)
        assert torch.isfinite(memory).all() and memory.pow(2).mean() < 1.01
        if 1_000 <= t < 1_100:
            early.append(tokens)
        elif t >= 9_900:
            assert (tokens - early[t - 9_900]).abs().max() < 1e-4  # the same again, whatever was heard in between
