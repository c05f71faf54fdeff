"""A stand-in for llama.cpp's ``llama-quantize``: a real process with its arguments, which writes a real GGUF file.

Its matrices become Q5_0, as llama.cpp makes Q4_K_M of rows that 256 does not divide. `test_llama_quantize` runs the
real one too, where there is one in PATH.
"""

from __future__ import annotations

import sys
from pathlib import Path


def program(folder: Path, *, fails: bool = False) -> Path:
    """Write the program into a folder, and return it."""
    file = folder / "llama-quantize"
    file.write_text(f"#!{sys.executable}\nFAILS = {fails}\n{PROGRAM}")
    file.chmod(0o755)
    return file


PROGRAM = """
import sys

import gguf
import numpy as np

source, target, kind, threads = sys.argv[1:]
print("main: build = 4242 (c0ffee)", flush=True)
if FAILS:
    sys.exit("llama_model_quantize: failed to quantize: no such tensor")
reader = gguf.GGUFReader(source)
writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
writer.add_file_type(gguf.LlamaFileType["MOSTLY_" + kind])
for name, field in reader.fields.items():
    if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
        inner = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
for tensor in reader.tensors:
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    shape = [int(length) for length in reversed(tensor.shape)]
    if len(shape) > 1:
        q5 = gguf.GGMLQuantizationType.Q5_0
        writer.add_tensor(tensor.name, gguf.quantize(values.reshape(shape), q5), raw_dtype=q5)
    else:
        writer.add_tensor(tensor.name, values.astype(np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""
