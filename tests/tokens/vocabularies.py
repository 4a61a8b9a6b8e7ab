"""Lays the vocabularies of the tiktoken-rs crate where Python's tiktoken looks for its downloads.

tiktoken itself refuses a file whose SHA-256 is not the one that OpenAI published for it.
"""
import hashlib
import inspect
import os
import pathlib
import re
import shutil
import sys

import tiktoken
import tiktoken_ext.openai_public

assets, cache = pathlib.Path(sys.argv[1]), pathlib.Path(os.environ["TIKTOKEN_CACHE_DIR"])
cache.mkdir(parents=True, exist_ok=True)
for url in re.findall(r'"(https://\S+\.tiktoken)"', inspect.getsource(tiktoken_ext.openai_public)):
    shutil.copyfile(assets / url.rsplit("/", 1)[1], cache / hashlib.sha1(url.encode()).hexdigest())
for name in ("o200k_base", "cl100k_base", "p50k_base", "r50k_base"):
    tiktoken.get_encoding(name)
