"""An environment with a stand-in for vLLM: a real interpreter, a real process, and a server of the same contract.

It was written beside vLLM 0.32.0's answers to the same requests. `tests/integration/test_vllm.py` runs the real one
too, if `SFT_TEST_VLLM_PYTHON` names an interpreter that has it.
"""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path

VERSION = "0.0.1"


def environment(folder: Path, *, with_vllm: bool = True) -> Path:
    """Make a virtual environment, and return its interpreter."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")  # torch and transformers
    if with_vllm:
        server = packages / "vllm" / "entrypoints" / "openai"
        server.mkdir(parents=True)
        for package in (server, server.parent, server.parent.parent):
            (package / "__init__.py").touch()
        (server / "api_server.py").write_text(SERVER)
        facts = packages / f"vllm-{VERSION}.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n")
        (facts / "top_level.txt").write_text("vllm\n")
    return folder / "bin" / "python"


SERVER = '''\
"""Answers as vLLM's server of completions does. STAND_IN_* in the environment says how it misbehaves."""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
for name in ("model", "served-model-name", "host", "dtype"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--seed", type=int)
parser.add_argument("--tensor-parallel-size", type=int)
parser.add_argument("--max-model-len", type=int, default=512)
for name in ("trust-remote-code", "enforce-eager", "disable-uvicorn-access-log"):
    parser.add_argument(f"--{name}", action="store_true")
asked = parser.parse_args()
OWN = sorted(name for name in os.environ if name.startswith(("VLLM_", "NVIDIA_")))
print("arguments", sys.argv[1:], "of its environment", OWN, flush=True)

# The real one has an engine, which is a process of its own, and ignores what is asked of the server alone.
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
engine = subprocess.Popen([sys.executable, "-c", deaf])
with open(os.environ.get("STAND_IN_PIDS", os.devnull), "w") as file:
    file.write(f"{os.getpid()} {engine.pid}")
if how := os.environ.get("STAND_IN_FAILS"):
    print("ValueError: no such thing as", how, flush=True)
    os._exit(3)
if os.environ.get("STAND_IN_HANGS"):
    time.sleep(600)

if not os.environ.get("STAND_IN_WITHOUT_MODEL"):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=getattr(torch, asked.dtype)).eval()
one_at_a_time = threading.Lock()


def logprobs_of(ids):
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1)


def echoed(ids):
    """Every token of the prompt and one more, with the likeliest token at its place."""
    rows = logprobs_of(ids)
    ids = [*ids, int(rows[-1].argmax())]
    values, tops = [None], [None]
    for row, token in zip(rows, ids[1:]):
        best = int(row.argmax())
        values.append(float(row[token]))
        tops.append({f"token_id:{token}": float(row[token]), f"token_id:{best}": float(row[best])})
    return {"text": "", "logprobs": {"token_logprobs": values, "top_logprobs": tops}}


def written(ids, request):
    ids, start, text = list(ids), len(ids), ""
    for _ in range(request["max_tokens"]):
        token = int(logprobs_of(ids)[-1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
        text = tokenizer.decode(ids[start:], skip_special_tokens=True)
        if cut := [text.index(stop) for stop in request.get("stop") or () if stop in text]:
            text = text[: min(cut)]
            break
    return {"text": text}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def is_allowed(self):
        if self.headers.get("Authorization") == "Bearer " + os.environ["VLLM_API_KEY"]:
            return True
        self.answer(401, {"error": "Unauthorized"})
        return False

    def do_GET(self):
        if self.is_allowed():
            model = {"id": asked.served_model_name, "max_model_len": asked.max_model_len}
            self.answer(200, {"object": "list", "data": [model]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.is_allowed():
            return
        if os.environ.get("STAND_IN_DIES"):
            print("RuntimeError: the engine is lost", flush=True)
            os._exit(9)
        assert request["model"] == asked.served_model_name
        with one_at_a_time:
            answers = [echoed(ids) if request.get("echo") else written(ids, request) for ids in request["prompt"]]
        self.answer(200, {"choices": [{"index": place, **answer} for place, answer in enumerate(answers)]})


ThreadingHTTPServer((asked.host, asked.port), Handler).serve_forever()
'''
