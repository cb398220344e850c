"""The decoders that the package index has equal transformers' reading of the same files."""

import os
import resource
import subprocess
import sys

import pytest
import torch
from tokenizers import pre_tokenizers

from lastblock.decoder import hub
from lastblock.decoder.catalog import MODELS
from lastblock.decoder.loading import load_decoder
from lastblock.runtime import cache_folder
from lastblock.tokenization.tokenizer import Tokenizer

DEFAULT, GEMMA = "smollm2-135m-instruct", "gemma3-270m"
TEXTS = [
    "You are a winner you have been specially selected to receive $1000 cash or a $2000 award.",
    "Hey, just wanted to check if we're still on for dinner tonight? Let me know!",
    "Ünïcödé 東京 👍🏽  two  spaces, 12345\n\nlines",
    "",
    "one <|endoftext|><bos> two",
]


@pytest.fixture(scope="module", params=[DEFAULT, pytest.param(GEMMA, marks=pytest.mark.slow)])
def model(request):
    """Name, the folder that ``resolve`` makes, and the GGUF file that it is made from."""
    name = request.param
    gguf = cache_folder() / "tests" / f"{name}.gguf"
    if not gguf.is_file():
        gguf.parent.mkdir(parents=True, exist_ok=True)
        hub.fetch_gguf(MODELS[name].source, gguf)
    return name, hub.resolve(name).folder, gguf


@pytest.mark.network
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
def test_logits_and_ids_equal_transformers(model, relative_error):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name, folder, gguf = model
    options = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**options, split_special_tokens=True)
    if name == DEFAULT:  # transformers passes over the pre-tokenizer that the file names, smollm
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        )
    ours = Tokenizer.from_pretrained(folder)
    texts = TEXTS + _messages()
    ids = ours.encode_batch(texts)
    for text, mine, theirs in zip(texts, ids, tokenizer(texts)["input_ids"], strict=True):
        assert mine.tolist() == theirs, repr(text)

    decoder = load_decoder(folder).eval()
    reference = AutoModelForCausalLM.from_pretrained(**options, dtype=torch.float32).eval()
    torch.set_num_threads(os.cpu_count() or 1)
    head = reference.lm_head.weight
    for each in (*ids[:2], max(ids[:1000], key=len)):
        row = torch.from_numpy(each).long()[None]
        with torch.inference_mode():
            mine = decoder(row)
            theirs = reference(row, output_hidden_states=True)
            assert relative_error(mine, theirs.hidden_states[-1]) < 1e-4
            assert relative_error(mine @ head.T, theirs.logits) < 1e-4


def _messages():
    """Real ones, where they can be had."""
    folder = os.environ.get("LASTBLOCK_DATA")
    if not folder:
        return []
    with open(f"{folder}/sms_spam/SMSSpamCollection", encoding="utf-8", newline="\n") as file:
        return [line.rstrip("\n").split("\t", 1)[1] for line in file]


@pytest.mark.network
def test_second_start_is_mapped_and_soon():
    hub.resolve(DEFAULT)
    code = f"""
import resource, sys, time
import torch
from lastblock.decoder import hub, loading
from lastblock.tokenization.tokenizer import Tokenizer
memory = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before, start = memory(), time.perf_counter()
files = hub.resolve({DEFAULT!r})
decoder = loading.load_decoder(files.folder, depth=20)
seconds, grown = time.perf_counter() - start, memory() - before
assert "gguf" not in sys.modules and "transformers" not in sys.modules
print(seconds, grown)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, grown = map(float, done.stdout.split())
    assert seconds < 1.0  # and below 0.3 on a machine that has nothing else to do
    assert grown < 50e6
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0
