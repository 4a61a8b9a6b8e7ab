"""Writes texts with their tokens as Python's tiktoken counts them: a JSON line [text, {encoding: tokens}] each.

    corpus.py > FILE
"""
import json
import random
import sys
import unicodedata

import tiktoken

import texts

ENCODINGS = {name: tiktoken.get_encoding(name) for name in ("o200k_base", "cl100k_base", "p50k_base", "r50k_base")}
AT_LEAST = 400_000
LANGUAGES = ("zh", "ja", "ru", "ar", "fa", "hi", "ko", "th", "de", "vi", "el", "he", "ka", "ta")
# Told apart by one encoding or another, or by no other tokenizer.
TRICKY = "'sſKtTdDlLvVeErRmMǅǄʰªº\u0301\u0903\u20dd\u0085\u00a0\u2028\u3000\ufeff\u180e\u200b\u200d\ufe0f \t\r\n//.,-_{}[]\"\\0189٣Ⅷ½你あдé😀"
SPACES = " \t\r\n\u0085\u00a0\u2028\u3000"
SPECIAL = ["<|endoftext|>", "<|endofprompt|>", "<|fim_prefix|>", "<|im_start|>", "<|im_end|>", "<|start|>"]
CONTRACTIONS = ["'s", "'S", "'t", "'re", "'RE", "'Ve", "'m", "'ll", "'lL", "'d", "'ſ", "'l", "'v", "\u2019s", "''s"]
random.seed(20261123)


def tokens_as_text(name):
    """Every entry of a vocabulary that is text by itself."""
    for token in ENCODINGS[name].token_byte_values():
        try:
            yield token.decode()
        except UnicodeDecodeError:
            pass


def by_category():
    """Characters of every general category, some hundreds of each."""
    categories = {}
    for code in range(sys.maxunicode + 1):
        if not 0xD800 <= code < 0xE000:
            categories.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    return [random.sample(chars, min(len(chars), 500)) for chars in categories.values()]


def generated(vocabulary):
    pick, times = random.choice, random.randint
    classes = by_category()
    for _ in range(40_000):
        yield "".join(chr(times(0, 0xD7FF) if times(0, 3) else times(0xE000, sys.maxunicode)) for _ in range(times(1, 12)))
    for _ in range(50_000):
        yield "".join(pick(pick(classes)) for _ in range(times(1, 24)))
    for _ in range(40_000):
        yield "".join(pick(TRICKY) for _ in range(times(1, 30)))
    for _ in range(20_000):
        yield pick(["", "a", "1", ".", "\n"]) + "".join(pick(SPACES) for _ in range(times(1, 12))) + pick(["", "a", "1", ".", "'s"])
    for _ in range(15_000):
        yield pick(["", "I", "it", "DON", "camelCase", "Ω", "1", "."]) + pick(CONTRACTIONS) + pick(["", " ", "x", "X", "\n", "'s"])
    for _ in range(60_000):
        yield "".join(pick(vocabulary) for _ in range(times(2, 8)))
    for _ in range(3_000):
        yield pick(vocabulary) + pick(SPECIAL) + pick(["", " ", "\n", pick(SPECIAL), pick(vocabulary)])
    for unit in (*TRICKY, "ab", "=-", "aA", "a1", "你好", "\r\n", " \n", "'s", "//\n", "ABCabc"):
        for length in (2, 3, 15, 16, 17, 63, 128, 129, 1000, 2047, 2048, 2049, 2400, 5000):
            yield (unit * length)[:length]
            yield (unit * length)[:length] + "x"
    letters = "abcdefghijklmnopqrstuvwxyz"
    for alphabet in (letters, letters.upper(), letters + letters.upper(), "!#$%&()*+,-./:;<=>?@", "абвгдежзиклмнопрст", "的一是不了人我在有他这"):
        for length in (100, 500, 2100, 4500, 20_000):
            yield from ("".join(random.choices(alphabet, k=length)) for _ in range(5))


def real():
    for text in (*texts.code(), *texts.prose(), *texts.requests()):
        yield from texts.documents(text, 2000)
    for language in LANGUAGES:
        messages = list(texts.translated(language))
        yield from messages
        yield from texts.documents("\n".join(messages), 3000)


vocabulary = sorted({text for name in ENCODINGS for text in tokens_as_text(name)})
corpus = dict.fromkeys(vocabulary)
corpus.update(dict.fromkeys(real()))
corpus.update(dict.fromkeys(generated(vocabulary)))
assert len(corpus) >= AT_LEAST, f"only {len(corpus)} texts"
for text in corpus:
    print(json.dumps([text, {name: len(encoding.encode_ordinary(text)) for name, encoding in ENCODINGS.items()}], ensure_ascii=False))
print(f"{len(corpus)} texts, {sum(len(text.encode()) for text in corpus) / 1e6:.1f} MB", file=sys.stderr)
