"""Combiner, latent model and text decoder: the part of the network after the frozen encoders.

Every part exists once, as a *step* module with the shapes of the graph ABI (docs/decisions/0004-graph-abi.md), batch
dimension first; the same weights run a whole scene at once for training (`Fusion.scene`, `Decoder.sequence`) with a
banded mask in place of the ring of slots. Relative time enters only through `age` and `dt`, so both agree.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MASKED = -1e9
SNIPPET_SECONDS = 0.96
GAPLESS = 1e-3  # seconds that `dt` may be off a snippet's length where nothing is left out


@dataclass(frozen=True)
class FusionConfig:
    """Geometry (frozen by the ABI) and the free choices of the fusion model."""

    audible: int
    visible: int
    vocabulary: int
    dim: int = 128
    heads: int = 4
    frames: int = 2
    video_tokens: int = 12  # of a frame
    patches: int = 2  # of sound: the one that begins half a snippet early, and the snippet's own
    audio_tokens: int = 6  # of a patch
    memory: int = 16
    snippet_tokens: int = 8
    window: int = 64
    latent_layers: int = 2
    decoder_layers: int = 2
    context: int = 48
    combiner: str = "ttm"  # one of COMBINERS
    combiner_layers: int = 1
    read_memory: int = 4
    read_video: int = 4  # the summarised video and audio tokens become the snippet's tokens: together snippet_tokens
    dropout: float = 0.2
    token_dim: int = 128  # width of the encoders' tokens; `dim` may be larger inside a teacher
    late: bool = False  # video and audio tokens never see each other before the heads

    def as_dict(self) -> dict[str, int | float | str]:
        return dataclasses.asdict(self)


def normalise(x: Tensor) -> Tensor:
    """LayerNorm without affine: bounds the norm of everything that is fed back."""
    return nn.functional.layer_norm(x, (x.shape[-1],))


class Gelu(nn.Module):
    """tanh-GELU; written out in exported graphs (erf is not used there)."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.onnx.is_in_onnx_export():
            return nn.functional.gelu(x, approximate="tanh")
        return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


def mlp(dim: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), Gelu(), nn.Linear(hidden, out))


class Attention(nn.Module):
    """Projections of multi-head attention; the caller decides what keys and values are."""

    def __init__(self, dim: int, heads: int, keys: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        if keys:
            self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, H, N, D/H]."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def weights(self, x: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        """Queries from x [B, N, D], keys [B, S, D], bias broadcastable to [B, H, N, S]."""
        scores = self.split(self.q(x)) @ self.split(k).transpose(2, 3) * self.scale
        return torch.softmax(scores + bias, dim=-1)

    def merge(self, x: Tensor) -> Tensor:
        """[B, H, N, D/H] -> projected [B, N, D]."""
        return self.out(x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1))

    def forward(self, x: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return self.merge(self.weights(x, k, bias) @ self.split(v))
        q, keys, values = self.split(self.q(x)), self.split(k), self.split(v)
        mask = bias.expand(q.shape[0], self.heads, q.shape[2], keys.shape[2])
        return self.merge(nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=self.scale))


class Block(nn.Module):
    """Pre-LN transformer layer with self-attention over externally supplied keys and values."""

    def __init__(self, config: FusionConfig, expand: int = 4) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.attention = Attention(config.dim, config.heads)
        self.mlp = mlp(config.dim, expand * config.dim, config.dim)
        self.drop = nn.Dropout(config.dropout)

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised input, and its keys and values."""
        h = self.norm1(x)
        return h, self.attention.k(h), self.attention.v(h)

    def update(self, x: Tensor, h: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        x = x + self.drop(self.attention(h, k, v, bias))
        return x + self.drop(self.mlp(self.norm2(x)))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        h, k, v = self.keys(x)
        return self.update(x, h, k, v, bias)


class Summariser(nn.Module):
    """Learned token summarisation: n weighted means of the tokens, weights from an MLP on each token."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.importance = mlp(dim, dim // 2, count)

    def scores(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, count]."""
        return self.importance(self.norm(tokens))

    def pool(self, tokens: Tensor, scores: Tensor, present: Tensor) -> Tensor:
        """tokens [B, N, D], scores [B, N, count], present [B, N] -> [B, count, D]."""
        weights = torch.softmax(scores.transpose(1, 2) + (1.0 - present[:, None, :]) * MASKED, dim=-1)
        return weights @ (tokens * present[..., None])

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        return self.pool(tokens, self.scores(tokens), present)


class TimeEmbedding(nn.Module):
    """Small MLP on seconds and log-seconds."""

    def __init__(self, out: int, hidden: int = 32) -> None:
        super().__init__()
        self.net = mlp(2, hidden, out)

    def forward(self, seconds: Tensor) -> Tensor:
        """[...] -> [..., out]."""
        return self.net(torch.stack([seconds / 16.0, torch.log1p(seconds)], dim=-1))


class Stamped(nn.Module):
    """What the Combiners share: inputs stamped with place and time, and a summary of each modality.

    The summaries' residual stream carries what the encoders saw and heard, so that little has to be learned before the
    heads can use it.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = c = config
        self.video_in, self.audio_in = nn.Linear(c.token_dim, c.dim), nn.Linear(c.token_dim, c.dim)
        self.video_place = nn.Parameter(torch.randn(c.video_tokens, c.dim) * 0.02)
        self.audio_place = nn.Parameter(torch.randn(c.patches, c.audio_tokens, c.dim) * 0.02)
        self.offset = TimeEmbedding(c.dim)
        self.add_summaries(c)

    def add_summaries(self, c: FusionConfig) -> None:
        self.video_absent = nn.Parameter(torch.randn(c.read_video, c.dim) * 0.02)
        self.audio_absent = nn.Parameter(torch.randn(c.snippet_tokens - c.read_video, c.dim) * 0.02)
        self.read_video = Summariser(c.dim, c.read_video)
        self.read_audio = Summariser(c.dim, c.snippet_tokens - c.read_video)

    def stamp(
        self, video: Tensor, audio: Tensor, frame_present: Tensor, audio_present: Tensor, frame_offset: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Video and audio tokens with place and time, zero where absent, and the presence of each token."""
        c, b = self.config, video.shape[0]
        seen = (frame_present[:, :, None] * video.new_ones(c.video_tokens)).reshape(b, -1)
        heard = (audio_present[:, :, None] * audio.new_ones(c.audio_tokens)).reshape(b, -1)
        stamped = self.video_in(video) + self.video_place + self.offset(frame_offset)[:, :, None, :]
        video = stamped.reshape(b, -1, c.dim) * seen[..., None]
        audio = (self.audio_in(audio) + self.audio_place).reshape(b, -1, c.dim) * heard[..., None]
        return video, audio, seen, heard

    def summaries(
        self, video: Tensor, audio: Tensor, seen: Tensor, heard: Tensor, frame_present: Tensor, audio_present: Tensor
    ) -> Tensor:
        """[B, snippet_tokens, D]: the summarised video tokens, then the audio ones; learned ones where absent."""
        any_frame = (frame_present.mean(1, keepdim=True) * self.config.frames).clamp(max=1.0)[..., None]
        return torch.cat([
            self.read_video(video, seen) + (1.0 - any_frame) * self.video_absent,
            self.read_audio(audio, heard) + (1.0 - audio_present[:, -1:, None]) * self.audio_absent,
        ], dim=1)  # fmt: skip

    def prepare(
        self, video: Tensor, audio: Tensor, frame_present: Tensor, audio_present: Tensor, frame_offset: Tensor,
        dt: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """All that does not depend on the memory."""
        raise NotImplementedError

    def forward(
        self, video: Tensor, audio: Tensor, frame_present: Tensor, audio_present: Tensor, frame_offset: Tensor,
        dt: Tensor, memory: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        return self.advance(*self.prepare(video, audio, frame_present, audio_present, frame_offset, dt), memory)


class Combiner(Stamped):
    """Token Turing Machine, grouped by modality and time-stamped: read, process, write."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        c = config
        self.memory_place = nn.Parameter(torch.randn(c.memory, c.dim) * 0.02)
        self.gap = TimeEmbedding(c.dim)
        self.read_memory = Summariser(c.dim, c.read_memory)
        self.process = nn.ModuleList(Block(c) for _ in range(c.combiner_layers))
        self.write = Summariser(c.dim, c.memory)

    def prepare(
        self, video: Tensor, audio: Tensor, frame_present: Tensor, audio_present: Tensor, frame_offset: Tensor,
        dt: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Stamped inputs, their summaries, presence and importance."""
        video, audio, seen, heard = self.stamp(video, audio, frame_present, audio_present, frame_offset)
        read = self.summaries(video, audio, seen, heard, frame_present, audio_present)
        inputs = torch.cat([video, audio], dim=1)
        return read, inputs, self.write.scores(inputs), torch.cat([seen, heard], dim=1), self.gap(dt)

    def advance(
        self, read: Tensor, inputs: Tensor, importance: Tensor, present: Tensor, gap: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read the memory, process, write: the recurrent part."""
        c, b = self.config, read.shape[0]
        memory = memory + self.memory_place + gap
        x = torch.cat([self.read_memory(memory, memory.new_ones(b, c.memory)), read], dim=1)
        for block in self.process:
            x = block(x, x.new_zeros(1, 1, 1, 1))
        own = torch.cat([memory, x], dim=1)
        scores = torch.cat([self.write.scores(own), importance], dim=1)
        kept = torch.cat([own.new_ones(b, own.shape[1]), present], dim=1)
        written = self.write.pool(torch.cat([own, inputs], dim=1), scores, kept)
        return normalise(x[:, -c.snippet_tokens :]), normalise(written)


class CausalCombiner(Stamped):
    """Causal Transformer: attention over the newest outputs, all tokens of the snippet and its summaries; the last
    `snippet_tokens` outputs are kept. The memory is a queue of the outputs of the last snippets."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        if config.memory % config.snippet_tokens:
            raise ValueError("memory must hold whole snippets")
        self.memory_place = nn.Parameter(torch.randn(config.memory, config.dim) * 0.02)
        self.gap = TimeEmbedding(config.dim)
        self.process = nn.ModuleList(Block(config) for _ in range(config.combiner_layers))

    def prepare(
        self, video: Tensor, audio: Tensor, frame_present: Tensor, audio_present: Tensor, frame_offset: Tensor,
        dt: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        video, audio, seen, heard = self.stamp(video, audio, frame_present, audio_present, frame_offset)
        read = self.summaries(video, audio, seen, heard, frame_present, audio_present)
        return torch.cat([video, audio, read], dim=1), torch.cat([seen, heard], dim=1), self.gap(dt)

    def advance(self, own: Tensor, present: Tensor, gap: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        c, b = self.config, own.shape[0]
        x = torch.cat([memory + self.memory_place + gap, own], dim=1)
        ones = own.new_ones(b, c.memory), own.new_ones(b, c.snippet_tokens)
        bias = (1.0 - torch.cat([ones[0], present, ones[1]], dim=1))[:, None, None, :] * MASKED
        for block in self.process:
            x = block(x, bias)
        out = normalise(x[:, -c.snippet_tokens :])
        return out, torch.cat([memory[:, c.snippet_tokens :], out], dim=1)


class SummaryCombiner(Stamped):
    """Baseline: the summaries of both modalities side by side, nothing remembered or processed."""

    def prepare(
        self, video: Tensor, audio: Tensor, frame_present: Tensor, audio_present: Tensor, frame_offset: Tensor,
        dt: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        video, audio, seen, heard = self.stamp(video, audio, frame_present, audio_present, frame_offset)
        return (self.summaries(video, audio, seen, heard, frame_present, audio_present),)

    def advance(self, tokens: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return normalise(tokens), memory


class ConcatCombiner(Stamped):
    """Baseline: every token of the snippet goes on; `snippet_tokens` = frames x video_tokens + patches x
    audio_tokens."""

    def add_summaries(self, c: FusionConfig) -> None:
        if c.snippet_tokens != c.frames * c.video_tokens + c.patches * c.audio_tokens:
            raise ValueError("concatenation keeps every token")
        self.absent = nn.Parameter(torch.randn(c.snippet_tokens, c.dim) * 0.02)

    def prepare(
        self, video: Tensor, audio: Tensor, frame_present: Tensor, audio_present: Tensor, frame_offset: Tensor,
        dt: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        video, audio, seen, heard = self.stamp(video, audio, frame_present, audio_present, frame_offset)
        missing = 1.0 - torch.cat([seen, heard], dim=1)[..., None]
        return (torch.cat([video, audio], dim=1) + missing * self.absent,)

    def advance(self, tokens: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return normalise(tokens), memory


class MeanCombiner(nn.Module):
    """Baseline: mean-pooled modalities through one linear map per output token; memory stays empty."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.out = nn.Linear(2 * config.token_dim, config.snippet_tokens * config.dim)

    def prepare(
        self, video: Tensor, audio: Tensor, frame_present: Tensor, audio_present: Tensor, frame_offset: Tensor,
        dt: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        pooled = [
            (tokens.mean(2) * (present / present.sum(1, keepdim=True).clamp(min=1.0))[..., None]).sum(1)
            for tokens, present in ((video, frame_present), (audio, audio_present))
        ]
        return (self.out(torch.cat(pooled, dim=-1)).reshape(-1, self.config.snippet_tokens, self.config.dim),)

    def advance(self, tokens: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return normalise(tokens), memory

    def forward(
        self, video: Tensor, audio: Tensor, frame_present: Tensor, audio_present: Tensor, frame_offset: Tensor,
        dt: Tensor, memory: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        return self.advance(*self.prepare(video, audio, frame_present, audio_present, frame_offset, dt), memory)


COMBINERS = {
    "ttm": Combiner, "causal": CausalCombiner, "summary": SummaryCombiner, "concat": ConcatCombiner,
    "mean": MeanCombiner,
}  # fmt: skip


def apart(config: FusionConfig) -> Tensor:
    """[m, m] bias that keeps the video tokens of a snippet from the audio ones, for late fusion."""
    video = torch.arange(config.snippet_tokens) < config.read_video
    return (video[:, None] != video[None, :]).float() * MASKED


class Latent(nn.Module):
    """Block-causal transformer over snippets, with label heads and the decoder's cross-attention keys and values."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = c = config
        self.layers = nn.ModuleList(Block(c, expand=2) for _ in range(c.latent_layers))
        self.age = TimeEmbedding(c.latent_layers * c.heads)
        self.norm = nn.LayerNorm(c.dim)
        self.next = mlp(c.dim, c.dim, c.dim)
        width = 2 * c.snippet_tokens * c.dim
        self.head_drop = nn.Dropout(2 * c.dropout)
        self.heads = nn.ModuleDict({
            "audible": nn.Linear(width, c.audible), "visible": nn.Linear(width, c.visible),
            "source": nn.Linear(width, c.audible),
        })  # fmt: skip
        for name, head in self.heads.items():  # labels are rare: start there
            nn.init.constant_(head.bias, -3.5 if name == "audible" else -2.0)
            nn.init.normal_(head.weight, std=0.01)
        self.cross_k = nn.ModuleList(nn.Linear(c.dim, c.dim) for _ in range(c.decoder_layers))
        self.cross_v = nn.ModuleList(nn.Linear(c.dim, c.dim) for _ in range(c.decoder_layers))

    def outputs(self, tokens: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Heads of one snippet per batch row: Combiner tokens and last-layer states [B, m, D]."""
        latents = self.norm(x)
        features = self.head_drop(torch.cat([tokens, latents], dim=1).reshape(tokens.shape[0], -1))
        out = {"latents": latents, "next_tokens": self.next(latents)}
        out |= {name: head(features) for name, head in self.heads.items()}
        shared = latents + tokens
        out["cross_k"] = torch.stack([f(shared) for f in self.cross_k], dim=1)
        out["cross_v"] = torch.stack([f(shared) for f in self.cross_v], dim=1)
        return out

    def step(self, tokens: Tensor, k_window: Tensor, v_window: Tensor, age: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """One snippet against the ring of slots (ABI of latent.onnx)."""
        c, b = self.config, tokens.shape[0]
        ages = torch.cat([torch.zeros_like(age[:, :1]), age], dim=1)
        mask = torch.cat([torch.ones_like(age[:, :1]), valid], dim=1)
        bias = self.age(ages).transpose(1, 2) + (1.0 - mask[:, None, :]) * MASKED
        # Expand, not "+ zeros": tract 0.23.9 folds the zeros to a scalar and then fails to fuse the addition.
        bias = bias.reshape(b, c.latent_layers, c.heads, 1, c.window + 1, 1)
        bias = bias.expand(-1, -1, -1, -1, -1, c.snippet_tokens).reshape(b, c.latent_layers, c.heads, 1, -1)
        if c.late:
            bias = bias + apart(c).repeat(1, c.window + 1)
        x, new_k, new_v = tokens, [], []
        for i, layer in enumerate(self.layers):
            h, k, v = layer.keys(x)
            new_k.append(k)
            new_v.append(v)
            keys = torch.cat([k, k_window[:, i].reshape(b, -1, c.dim)], dim=1)
            values = torch.cat([v, v_window[:, i].reshape(b, -1, c.dim)], dim=1)
            x = layer.update(x, h, keys, values, bias[:, i])
        out = self.outputs(tokens, x)
        return out | {"k_new": torch.stack(new_k, dim=1), "v_new": torch.stack(new_v, dim=1)}

    def scene(self, tokens: Tensor, start: Tensor) -> dict[str, Tensor]:
        """tokens [B, T, m, D], start [B, T] seconds -> outputs [B, T, ...] under the banded causal mask."""
        c, (b, t) = self.config, start.shape
        age = (start[:, :, None] - start[:, None, :]).clamp(min=0.0)
        index = torch.arange(t, device=start.device)
        distance = index[:, None] - index[None, :]
        outside = ((distance < 0) | (distance >= c.window)).to(tokens.dtype)
        bias = self.age(age).permute(0, 3, 1, 2) + outside * MASKED
        m = c.snippet_tokens
        bias = bias.reshape(b, c.latent_layers, c.heads, t, 1, t, 1).expand(-1, -1, -1, -1, m, -1, m)
        bias = bias.reshape(b, c.latent_layers, c.heads, t * m, t * m)
        if c.late:
            bias = bias + apart(c).repeat(t, t)
        x = tokens.flatten(1, 2)
        for i, layer in enumerate(self.layers):
            x = layer(x, bias[:, i])
        flat = self.outputs(tokens.flatten(0, 1), x.reshape(b * t, m, c.dim))
        return {name: value.reshape(b, t, *value.shape[1:]) for name, value in flat.items()}


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention that also reports the age of what it attends to, MLP."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(config.dim) for _ in range(3))
        self.attention = Attention(config.dim, config.heads)
        self.cross = Attention(config.dim, config.heads, keys=False)
        self.age_value = TimeEmbedding(config.dim)
        self.mlp = mlp(config.dim, 4 * config.dim, config.dim)
        self.drop = nn.Dropout(config.dropout)

    def after_self(self, x: Tensor, k: Tensor, v: Tensor, bias: Tensor, age: Tensor) -> Tensor:
        """Cross-attention to k, v [B, S, m, D] at ages [B, S] with bias [B, H, 1, S], then the MLP."""
        b, slots, m, dim = k.shape
        spread = bias[..., None].expand(*bias.shape, m).reshape(b, -1, 1, slots * m)
        cross = self.cross
        weights = cross.weights(self.norm_cross(x), k.reshape(b, -1, dim), spread)
        per_slot = weights.reshape(b, cross.heads, -1, slots, m).mean(-1) * m
        read = weights @ cross.split(v.reshape(b, -1, dim)) + per_slot @ cross.split(self.age_value(age))
        x = x + self.drop(cross.merge(read))
        return x + self.drop(self.mlp(self.norm_mlp(x)))


class Decoder(nn.Module):
    """Small causal text decoder over the window's latents; input and output embeddings are shared."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embedding = nn.Embedding(c.vocabulary, c.dim)
        self.position = nn.Embedding(c.context, c.dim)
        nn.init.normal_(self.embedding.weight, std=0.05)
        nn.init.normal_(self.position.weight, std=0.02)
        self.layers = nn.ModuleList(DecoderBlock(c) for _ in range(c.decoder_layers))
        self.age = TimeEmbedding(c.decoder_layers * c.heads)
        self.norm = nn.LayerNorm(c.dim)
        self.out = nn.Linear(c.dim, c.vocabulary)
        self.out.weight = self.embedding.weight

    def cross_bias(self, age: Tensor, valid: Tensor) -> Tensor:
        """[B, S] -> [B, Ld, H, 1, S]."""
        bias = self.age(age).transpose(1, 2) + (1.0 - valid[:, None, :]) * MASKED
        return bias.reshape(age.shape[0], self.config.decoder_layers, self.config.heads, 1, -1)

    def step(
        self, token: Tensor, position: Tensor, self_k: Tensor, self_v: Tensor, self_valid: Tensor,
        cross_k: Tensor, cross_v: Tensor, age: Tensor, valid: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """One token (ABI of decoder.onnx)."""
        x = (self.embedding(token) + self.position(position))[:, None, :]
        bias = self.cross_bias(age, valid)
        past = torch.cat([(1.0 - self_valid) * MASKED, torch.zeros_like(self_valid[:, :1])], dim=1)[:, None, None, :]
        new_k, new_v = [], []
        for i, layer in enumerate(self.layers):
            h = layer.norm_self(x)
            k, v = layer.attention.k(h), layer.attention.v(h)
            new_k.append(k[:, 0])
            new_v.append(v[:, 0])
            keys, values = torch.cat([self_k[:, i], k], dim=1), torch.cat([self_v[:, i], v], dim=1)
            x = x + layer.attention(h, keys, values, past)
            x = layer.after_self(x, cross_k[:, i], cross_v[:, i], bias[:, i], age)
        return self.out(self.norm(x[:, 0])), torch.stack(new_k, dim=1), torch.stack(new_v, dim=1)

    def sequence(self, tokens: Tensor, cross_k: Tensor, cross_v: Tensor, age: Tensor, valid: Tensor) -> Tensor:
        """tokens [B, N] with cross [B, Ld, S, m, D] -> logits [B, N, P] (teacher forcing)."""
        n = tokens.shape[1]
        places = torch.arange(n, device=tokens.device)
        x = self.embedding(tokens) + self.position(places)
        causal = (places[None, :] > places[:, None]).to(x.dtype) * MASKED
        bias = self.cross_bias(age, valid)
        for i, layer in enumerate(self.layers):
            h = layer.norm_self(x)
            x = x + layer.drop(layer.attention(h, layer.attention.k(h), layer.attention.v(h), causal))
            x = layer.after_self(x, cross_k[:, i], cross_v[:, i], bias[:, i], age)
        return self.out(self.norm(x))


class Fusion(nn.Module):
    """The three trainable parts together."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.combiner = COMBINERS[config.combiner](config)
        self.latent = Latent(config)
        self.decoder = Decoder(config)

    def combine(self, scene: dict[str, Tensor]) -> Tensor:
        """Run the Combiner over a scene's snippets: [B, T, ...] inputs -> tokens [B, T, m, D].

        Keys: video [B, T, K, Nv, D], audio [B, T, P, Na, D], frame_present [B, T, K], audio_present [B, T, P],
        frame_offset [B, T, K], dt [B, T, 1].
        """
        c, (b, t) = self.config, scene["dt"].shape[:2]
        names = ("video", "audio", "frame_present", "audio_present", "frame_offset", "dt")
        prepared = self.combiner.prepare(*(scene[name].flatten(0, 1) for name in names))
        memory = scene["audio"].new_zeros(b, c.memory, c.dim)
        tokens = []
        for step in zip(*(value.reshape(b, t, *value.shape[1:]).unbind(1) for value in prepared), strict=True):
            out, memory = self.combiner.advance(*step, memory)
            tokens.append(out)
        return torch.stack(tokens, dim=1)

    def scene(self, scene: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of a whole scene [B, T, ...]; `start` is the sum of `dt`."""
        tokens = self.combine(scene)
        start = scene["dt"][..., 0].cumsum(1)
        return self.latent.scene(tokens, start) | {"tokens": tokens, "start": start}


@dataclass
class Ring:
    """Caller-owned state of the streaming graphs, for one stream."""

    memory: Tensor
    k: Tensor
    v: Tensor
    cross_k: Tensor
    cross_v: Tensor
    start: Tensor
    valid: Tensor
    next_slot: int = 0
    now: float = 0.0

    @classmethod
    def empty(cls, c: FusionConfig) -> Ring:
        ring = (c.window, c.snippet_tokens, c.dim)
        latent, cross = (1, c.latent_layers, *ring), (1, c.decoder_layers, *ring)
        zeros = [torch.zeros(shape) for shape in ((1, c.memory, c.dim), latent, latent, cross, cross)]
        return cls(*zeros, torch.zeros(1, c.window), torch.zeros(1, c.window))

    def age(self) -> Tensor:
        return (self.now - self.start) * self.valid

    def advance(self, dt: float) -> None:
        """Begin a snippet: move the clock and give up the slot that will be overwritten."""
        self.now += dt
        self.valid[:, self.next_slot] = 0.0

    def store(self, out: dict[str, Tensor]) -> None:
        """End a snippet: write its keys and values into its slot."""
        slot = self.next_slot
        self.k[:, :, slot], self.v[:, :, slot] = out["k_new"], out["v_new"]
        self.cross_k[:, :, slot], self.cross_v[:, :, slot] = out["cross_k"], out["cross_v"]
        self.start[:, slot], self.valid[:, slot] = self.now, 1.0
        self.next_slot = (slot + 1) % self.valid.shape[1]
