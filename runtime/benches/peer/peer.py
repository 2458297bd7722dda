"""The peer: what a careful person builds today out of Python parts, in one process.

OpenCV (YUYV to BGR, resize), YAMNet on LiteRT, NanoDet on ncnn, paho-mqtt. Fed with raw YUYV 640x480 at 15
frames per second and 48 kHz 16-bit mono sound, as a USB camera and its microphone deliver them; per snippet
of 0.96 s one YAMNet patch and two frames. One core, no pacing. Prints one line of JSON.

Where there was a choice, the one cheaper for the peer was taken: frames that are not looked at are not even
read, NanoDet runs at 320 pixels, only detections above the threshold are decoded, and nothing is tracked.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import cv2
import ncnn
import numpy as np
import paho.mqtt.client as mqtt
from ai_edge_litert.interpreter import Interpreter

WIDTH, HEIGHT, FPS, RATE = 640, 480, 15, 48_000
SNIPPET_S, SNIPPET_SAMPLES, CARRY_SAMPLES = 0.96, 15_360, 240
FRAME_AT_S = (0.24, 0.72)
WARM_UP = 5
THRESHOLD = 0.4


class Hearing:
    """48 kHz samples to YAMNet scores."""

    def __init__(self, network: Path):
        taps = np.arange(48) - 23.5
        low_pass = np.sinc(taps * 2 * 7_600 / RATE) * np.hamming(48)
        self._low_pass = (low_pass / low_pass.sum()).astype(np.float32)
        self._window = np.hanning(401)[:-1].astype(np.float32)
        self._mel = self._mel_filters()
        self._tail = np.zeros(CARRY_SAMPLES, np.float32)
        self._yamnet = Interpreter(str(network), num_threads=1)
        self._yamnet.allocate_tensors()
        self._input = self._yamnet.get_input_details()[0]["index"]
        self._output = self._yamnet.get_output_details()[0]["index"]

    @staticmethod
    def _mel_filters() -> np.ndarray:
        def mel(hertz):
            return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

        bins = mel(np.linspace(0.0, 8_000.0, 257))[:, None]
        edges = np.linspace(mel(125.0), mel(7_500.0), 66)
        up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
        down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
        return np.maximum(0.0, np.minimum(up, down)).astype(np.float32)

    def scores(self, samples: np.ndarray) -> np.ndarray:
        mono = samples.astype(np.float32) / 32_768.0
        at_16k = np.convolve(mono, self._low_pass, mode="same")[::3]
        patch = np.concatenate([self._tail, at_16k])
        self._tail = at_16k[-CARRY_SAMPLES:]
        frames = np.lib.stride_tricks.sliding_window_view(patch, 400)[::160]
        magnitude = np.abs(np.fft.rfft(frames * self._window, 512)).astype(np.float32)
        self._yamnet.set_tensor(self._input, np.log(magnitude @ self._mel + np.float32(0.001))[None])
        self._yamnet.invoke()
        return self._yamnet.get_tensor(self._output)[0]


class Sight:
    """YUYV frames to NanoDet's detections."""

    STRIDES = ((8, "792", "795"), (16, "814", "817"), (32, "836", "839"))
    MEAN, SCALE = (103.53, 116.28, 123.675), (0.017429, 0.017507, 0.017125)

    def __init__(self, param: Path, weights: Path):
        self._net = ncnn.Net()
        self._net.opt.num_threads = 1
        self._net.load_param(str(param))
        self._net.load_model(str(weights))

    def detections(self, yuyv: np.ndarray) -> list[tuple[int, float, list[float]]]:
        """(class, score, box in pixels of the 320x256 input), after suppression of overlaps."""
        bgr = cv2.cvtColor(yuyv, cv2.COLOR_YUV2BGR_YUYV)
        small = cv2.copyMakeBorder(cv2.resize(bgr, (320, 240)), 8, 8, 0, 0, cv2.BORDER_CONSTANT)
        pixels = ncnn.Mat.from_pixels(small, ncnn.Mat.PixelType.PIXEL_BGR, 320, 256)
        pixels.substract_mean_normalize(self.MEAN, self.SCALE)
        extractor = self._net.create_extractor()
        extractor.input("input.1", pixels)
        classes, scores, boxes = [], [], []
        for stride, score_blob, distance_blob in self.STRIDES:
            score = np.array(extractor.extract(score_blob)[1]).reshape(-1, 80)
            distance = np.array(extractor.extract(distance_blob)[1]).reshape(-1, 4, 8)
            for cell in np.flatnonzero(score.max(axis=1) > THRESHOLD):
                row, column = divmod(int(cell), 320 // stride)
                weight = np.exp(distance[cell] - distance[cell].max(axis=1, keepdims=True))
                reach = (weight @ np.arange(8)) / weight.sum(axis=1) * stride
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                boxes.append([x - reach[0], y - reach[1], reach[0] + reach[2], reach[1] + reach[3]])
                classes.append(int(score[cell].argmax()))
                scores.append(float(score[cell].max()))
        keep = cv2.dnn.NMSBoxesBatched(boxes, scores, classes, THRESHOLD, 0.5) if boxes else ()
        return [(classes[i], scores[i], boxes[i]) for i in keep]


def resident_kb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS in /proc/self/status")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="folder with yamnet/ and nanodet-m/")
    parser.add_argument("--video", type=Path, required=True, help="raw YUYV 640x480 at 15 frames per second")
    parser.add_argument("--audio", type=Path, required=True, help="raw 48 kHz s16le mono")
    parser.add_argument("--port", type=int, required=True, help="port of a broker on this machine")
    parser.add_argument("--core", type=int, default=0)
    options = parser.parse_args()

    os.sched_setaffinity(0, {options.core})
    cv2.setNumThreads(1)
    hearing = Hearing(options.models / "yamnet/yamnet_spectra_in.tflite")
    nanodet = options.models / "nanodet-m"
    sight = Sight(nanodet / "nanodet_m.param", nanodet / "nanodet_m.bin")
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "peer", protocol=mqtt.MQTTv5)
    client.connect("127.0.0.1", options.port)
    client.loop_start()

    frame_bytes, snippet_bytes = WIDTH * HEIGHT * 2, 2 * round(RATE * SNIPPET_S)
    snippets = options.audio.stat().st_size // snippet_bytes
    frames = options.video.stat().st_size // frame_bytes
    published = 0
    steady_from = time.process_time()
    with options.video.open("rb") as video, options.audio.open("rb") as audio:
        for snippet in range(snippets):
            if snippet == WARM_UP:
                steady_from = time.process_time()
            scores = hearing.scores(np.frombuffer(audio.read(snippet_bytes), "<i2"))
            heard = [(int(i), round(float(scores[i]), 3)) for i in np.flatnonzero(scores > THRESHOLD)]
            seen = []
            for at in FRAME_AT_S:
                video.seek(min(round((snippet * SNIPPET_S + at) * FPS), frames - 1) * frame_bytes)
                yuyv = np.frombuffer(video.read(frame_bytes), np.uint8).reshape(HEIGHT, WIDTH, 2)
                seen += [(label, round(score, 3)) for label, score, _ in sight.detections(yuyv)]
            if heard or seen:
                client.publish("peer/event", json.dumps({"heard": heard, "seen": seen}), qos=1)
                published += 1
    cpu_s = time.process_time() - steady_from
    resident = resident_kb()
    client.disconnect()
    client.loop_stop()
    result = {
        "snippets": snippets - WARM_UP,
        "cpu_ms": 1000 * cpu_s / (snippets - WARM_UP),
        "rss_kb": resident,
    }
    print(json.dumps({**result, "published": published}))


if __name__ == "__main__":
    main()
