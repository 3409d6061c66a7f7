"""Makes tests/fixtures/greedy.json: what other engines answer, greedily, to prompts.json,
and how they tokenize texts.json.

Three programs that share no code with the engine: jinja2 renders the model's chat
template, llama.cpp tokenizes and generates, and the numpy code below generates in
float32 from dequantised weights and says how close each choice was. Where the two
best logits nearly tie, engines that round differently may part.

    pip install numpy jinja2
    python reference.py render MODEL rendered.json
    npm install node-llama-cpp && node llama.mjs MODEL rendered.json llama.json
    python reference.py fixture MODEL llama.json ../../../tests/fixtures/greedy.json
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np

STEPS = 32
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_gguf(path):
    """Metadata, and tensors as float32."""
    data = Path(path).read_bytes()
    at = 4

    def scalar(code):
        nonlocal at
        (value,) = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize(code)
        return value

    def string():
        nonlocal at
        size = scalar("Q")
        at += size
        return data[at - size : at].decode()

    def value(kind):
        if kind == 8:
            return string()
        if kind == 9:
            element = scalar("I")
            return [value(element) for _ in range(scalar("Q"))]
        return scalar(SCALARS[kind])

    scalar("I")  # version
    tensors, keys = scalar("Q"), scalar("Q")
    meta = {}
    for _ in range(keys):
        key = string()
        meta[key] = value(scalar("I"))
    infos = []
    for _ in range(tensors):
        name = string()
        dims = [scalar("Q") for _ in range(scalar("I"))]
        infos.append((name, dims[::-1], scalar("I"), scalar("Q")))
    start = (at + 31) // 32 * 32
    return meta, {n: dequantise(data, start + o, dims, kind) for n, dims, kind, o in infos}


def dequantise(data, offset, dims, kind):
    count = int(np.prod(dims))
    if kind == 0:  # F32
        return np.frombuffer(data, "<f4", count, offset).reshape(dims)
    if kind == 3:  # Q4_1: 32 values = scale, minimum, 16 bytes of two nibbles
        block = np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])
        b = np.frombuffer(data, block, count // 32, offset)
        q = np.concatenate([b["q"] & 15, b["q"] >> 4], axis=1).astype(np.float32)
        w = q * b["d"].astype(np.float32)[:, None] + b["m"].astype(np.float32)[:, None]
    elif kind == 8:  # Q8_0: 32 values = scale, 32 signed bytes
        block = np.dtype([("d", "<f2"), ("q", "i1", 32)])
        b = np.frombuffer(data, block, count // 32, offset)
        w = b["q"].astype(np.float32) * b["d"].astype(np.float32)[:, None]
    else:
        raise SystemExit(f"tensor type {kind} is not written here")
    return w.reshape(dims)


class Llama:
    def __init__(self, meta, weights):
        self.w = weights
        self.layers = meta["llama.block_count"]
        self.heads = meta["llama.attention.head_count"]
        self.kv_heads = meta["llama.attention.head_count_kv"]
        self.eps = meta["llama.attention.layer_norm_rms_epsilon"]
        self.head_dim = meta["llama.rope.dimension_count"]
        self.freqs = meta["llama.rope.freq_base"] ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        self.cache = [None] * self.layers

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.w[name]

    def rope(self, x, positions):
        """Pairs are neighbours: GGUF permutes the rows of llama's q and k for that."""
        angles = (positions[:, None] * self.freqs).astype(np.float32)[:, None, :]
        cos, sin, out = np.cos(angles), np.sin(angles), np.empty_like(x)
        even, odd = x[..., 0::2], x[..., 1::2]
        out[..., 0::2], out[..., 1::2] = even * cos - odd * sin, even * sin + odd * cos
        return out

    def forward(self, ids):
        """Logits after the last of `ids`, which go on from what came before."""
        past = 0 if self.cache[0] is None else len(self.cache[0][0])
        positions = np.arange(past, past + len(ids))
        x = self.w["token_embd.weight"][ids]
        for i in range(self.layers):
            layer = lambda name: self.w[f"blk.{i}.{name}.weight"]
            h = self.norm(x, f"blk.{i}.attn_norm.weight")
            q = self.rope((h @ layer("attn_q").T).reshape(len(ids), self.heads, -1), positions)
            k = self.rope((h @ layer("attn_k").T).reshape(len(ids), self.kv_heads, -1), positions)
            v = (h @ layer("attn_v").T).reshape(len(ids), self.kv_heads, -1)
            if past:
                k, v = np.concatenate([self.cache[i][0], k]), np.concatenate([self.cache[i][1], v])
            self.cache[i] = (k, v)
            share = self.heads // self.kv_heads
            scores = np.einsum("qhd,khd->hqk", q, np.repeat(k, share, 1)) / np.sqrt(self.head_dim)
            scores = np.where(np.arange(len(k))[None, None] <= positions[None, :, None], scores, -np.inf)
            p = np.exp(scores - scores.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            mixed = np.einsum("hqk,khd->qhd", p, np.repeat(v, share, 1)).reshape(len(ids), -1)
            x = x + mixed @ layer("attn_output").T
            h = self.norm(x, f"blk.{i}.ffn_norm.weight")
            gate = h @ layer("ffn_gate").T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ layer("ffn_up").T)) @ layer("ffn_down").T
        return self.norm(x[-1], "output_norm.weight") @ self.w.get("output.weight", self.w["token_embd.weight"]).T


def greedy(meta, weights, prompt_ids):
    """Ids, and for each how far its logit was above the second best."""
    model, ids, gaps = Llama(meta, weights), [], []
    logits = model.forward(prompt_ids)
    while True:
        second, best = np.argsort(logits)[-2:]
        ids.append(int(best))
        gaps.append(round(float(logits[best] - logits[second]), 4))
        if len(ids) == STEPS or best == meta["tokenizer.ggml.eos_token_id"]:
            return ids, gaps
        logits = model.forward([best])


def read(name):
    return json.loads((Path(__file__).parent / name).read_text())


def render(model, out):
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    meta, _ = read_gguf(model)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(meta["tokenizer.chat_template"])
    rendered = [
        {"name": p["name"], "text": template.render(messages=p["messages"], add_generation_prompt=True)}
        for p in read("prompts.json")
    ]
    Path(out).write_text(json.dumps({"steps": STEPS, "prompts": rendered, "texts": read("texts.json")}))


def fixture(model, llama, out):
    meta, weights = read_gguf(model)
    llama = json.loads(Path(llama).read_text())
    cases = []
    for prompt, answer in zip(read("prompts.json"), llama["answers"], strict=True):
        assert prompt["name"] == answer["name"]
        ids, gaps = greedy(meta, weights, answer["prompt_ids"])
        case = {**prompt, "prompt_ids": answer["prompt_ids"], "llama_cpp_ids": answer["ids"]}
        cases.append({**case, "f32_ids": ids, "f32_gaps": gaps})
    lines = lambda values: ",\n  ".join(json.dumps(value, ensure_ascii=False) for value in values)
    head = json.dumps({"model": meta["general.name"], "llama_cpp": llama["engine"], "steps": STEPS})
    tables = f'"cases": [\n  {lines(cases)}\n], "texts": [\n  {lines(llama["texts"])}\n]'
    Path(out).write_text(f"{head[:-1]}, {tables}}}\n")


if __name__ == "__main__":
    {"render": render, "fixture": fixture}[sys.argv[1]](*sys.argv[2:])
