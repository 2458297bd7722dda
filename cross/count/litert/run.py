"""Runs LiteRT models once and then three times, with marks as `ops_count` writes them: `run.py NAME=MODEL...`."""

import os
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

for argument in sys.argv[1:]:
    name, path = argument.split("=")
    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    noise = np.random.default_rng(0).normal(0, 0.5, source["shape"]).astype(np.float32)
    interpreter.set_tensor(source["index"], noise)
    for runs, until in ((0, 1), (1, 3), (4, 0)):
        os.write(1, f"litert {name} 0 1 {runs}\n".encode())
        for _ in range(until):
            interpreter.invoke()
