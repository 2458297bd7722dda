"""Every tensor of a training step's losses is where the model is: torch's fake tensors stand in for a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from girasol_train import device, train_fusion, train_video
from girasol_train.labels import AUDIBLE_IDS, VISIBLE_IDS
from girasol_train.train_fusion import Pool, collate, draw_scene, draw_texts, losses, moved, total_loss
from girasol_train.video_encoder import VideoEncoder

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def plain_attention(monkeypatch: pytest.MonkeyPatch):
    """The fused one asks the GPU's driver what it can do."""

    def attention(q, k, v, attn_mask, scale):
        return torch.softmax(q @ k.transpose(-1, -2) * scale + attn_mask, dim=-1) @ v

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)


def pool() -> Pool:
    rng, a, v = np.random.default_rng(1), len(AUDIBLE_IDS), len(VISIBLE_IDS)
    audio = {"tokens": rng.normal(size=(2, 32, 2, 6, 128)).astype(np.float32),
             "audible": (rng.random((2, 32, a)) < 0.1).astype(np.float32),
             "audible_weight": np.ones((2, 32, a), np.float32)}  # fmt: skip
    video = {"tokens": rng.normal(size=(2, 64, 12, 128)).astype(np.float32),
             "visible": (rng.random((2, 64, v)) < 0.1).astype(np.float32),
             "visible_weight": np.ones((2, 64, v), np.float32)}  # fmt: skip
    return Pool(audio, video)


@pytest.mark.parametrize("teacher", [False, True])
def test_a_step_of_the_fusion_stays_on_the_gpu(teacher: bool):
    rng, tracks = np.random.default_rng(2), pool()
    scenes = [draw_scene(rng, tracks, 8) for _ in range(2)]
    texts = draw_texts(rng, scenes)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with GPU:
            fusion = train_fusion.Fusion(train_fusion.config())
            models = [train_fusion.Fusion(train_fusion.teacher_config())] if teacher else []
        # Which words are spoken depends on values, which fake tensors lack: the teacher's text is left out.
        found = losses(fusion, moved(collate(scenes), GPU), None if teacher else moved(texts, GPU), models)
        loss = total_loss(found)
    assert loss.device.type == "cuda"


def test_a_step_of_the_video_encoder_stays_on_the_gpu():
    with FakeTensorMode(allow_non_fake_inputs=True):
        with GPU:
            encoder, head = VideoEncoder(), train_video.ViewHead()
        batch = (torch.zeros(2, 4, 96, 128), *(torch.zeros(2, len(VISIBLE_IDS)) for _ in range(2)),
                 torch.zeros(2, 12))  # fmt: skip
        batch = tuple(part.to(GPU) for part in batch)
        loss = train_video.loss_of(encoder, head, lambda frames: frames.new_zeros(2, 1000), batch)
    assert loss.device.type == "cuda"


def test_validation_gets_the_module_itself_where_nothing_has_to_move():
    module = torch.nn.Linear(2, 2)
    assert device.on_cpu(module) is module
