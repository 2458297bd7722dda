"""Train the decoder alone, on the context text that the runtime will give it.

Everything before it stays as it is: scores, thresholds and latents do not change. The context text says what the scores
of the newest snippet claim, at the `best_f1` thresholds, so the decoder need only put into words what is mostly right
already, and learns from the latents where it is not. Scores and latents of training scenes are better than those of new
ones, and who learns from them alone trusts the latents too much: every other step is on validation scenes, and noise on
tokens and logits makes the claims of the others err, too.
"""

from __future__ import annotations

import copy
import json
import os
import pathlib
import time

import numpy as np
import torch
from torch import nn

from . import device, evaluate, stories
from . import train_fusion as tf
from .fusion import Fusion
from .video_encoder import save_atomically

LEARNING_RATE = 1e-3
LOGIT_NOISE = 0.5
TEXTS_PER_SCENE = 10
STEPS = 500


def claims(rng: np.random.Generator, rules: evaluate.Rules, out: dict[str, torch.Tensor],
           drawn: list[dict[str, np.ndarray]], noise: float) -> list[stories.Truth]:  # fmt: skip
    """What the scores of each scene claim, with noise on their logits."""
    scores = {}
    for kind in ("audible", "visible"):
        logits = out[kind].cpu().numpy()
        scores[kind] = 1.0 / (1.0 + np.exp(-(logits + noise * rng.standard_normal(logits.shape))))
    return [evaluate.claim(rules, {kind: values[b] for kind, values in scores.items()}, tf.story(scene))
            for b, scene in enumerate(drawn)]  # fmt: skip


def finished(path: pathlib.Path, key: str, steps: int) -> bool:
    if not path.exists():
        return False
    saved = torch.load(path, map_location="cpu", weights_only=True)
    return saved["key"] == key and saved["step"] >= steps


def train(
    fusion: Fusion, rules: evaluate.Rules, pools: tuple[tf.Pool, tf.Pool], path: pathlib.Path, key: str,
    steps: int = STEPS,
) -> None:  # fmt: skip
    """Tune `fusion.decoder` until `steps` on (training, validation) in turn; resumes from `path`, where the averaged
    decoder is kept."""
    torch.set_flush_denormal(True)
    where = device.best()
    fusion = fusion.to(where).eval()
    decoder, average, begun = fusion.decoder, copy.deepcopy(fusion.decoder), 0
    optimiser = torch.optim.AdamW(decoder.parameters(), LEARNING_RATE, (0.9, 0.98), weight_decay=tf.WEIGHT_DECAY)
    if path.exists() and (saved := torch.load(path, map_location="cpu", weights_only=True))["key"] == key:
        begun = saved["step"]
        decoder.load_state_dict(saved["decoder"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        print(f"text: resumed at step {begun}", flush=True)

    def save(step: int) -> None:
        save_atomically({"key": key, "step": step, "decoder": decoder.state_dict(), "average": average.state_dict(),
                         "optimiser": optimiser.state_dict()}, path)  # fmt: skip

    began, mean = time.monotonic(), None
    for step in range(begun, steps):
        rng = np.random.default_rng([19, step])
        seen_before = step % 2 == 0
        pool = pools[0 if seen_before else 1]
        length = int(rng.choice(tf.LENGTHS, p=tf.LENGTH_SHARES))
        drawn = [tf.draw_scene(rng, pool, length) for _ in range(max(2, tf.BATCH * 32 // length))]
        batch = tf.moved(tf.collate(drawn), where)
        torch.manual_seed(step)
        for name in ("audio", "video") if seen_before else ():
            batch[name] = batch[name] + tf.TOKEN_NOISE * torch.randn_like(batch[name])
        with torch.no_grad():
            out = fusion.scene(batch)
        said = claims(rng, rules, out, drawn, LOGIT_NOISE if seen_before else 0.0)
        texts = tf.moved(tf.draw_texts(rng, drawn, claims=said, count=TEXTS_PER_SCENE), where)
        if texts is None:
            continue
        decoder.train()
        logits = tf.text_logits(fusion, out, texts)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), texts["target"].flatten(), ignore_index=-100)
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * tf.rate(step / steps, step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 2.0)
        optimiser.step()
        with torch.no_grad():
            decay = min(tf.EMA, (1 + step) / (10 + step))
            for kept, value in zip(average.parameters(), decoder.parameters(), strict=True):
                kept.lerp_(value, 1.0 - decay)
        now = float(loss.detach())
        mean = now if mean is None else 0.95 * mean + 0.05 * now
        if (step + 1) % 20 == 0:
            line = {"step": step + 1, "seconds": round(time.monotonic() - began), "text": round(mean, 4)}
            print(json.dumps(line), flush=True)
            with path.with_suffix(".log").open("a") as log:
                log.write(json.dumps(line) + os.linesep)
        if (step + 1) % tf.CHECKPOINT_EVERY == 0:
            save(step + 1)
    if begun < steps:  # not written again: what is made from this file is keyed by its hash
        save(steps)
