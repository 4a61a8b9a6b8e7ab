"""Python's half of benches/tokens.

    tokens.py texts FOLDER       writes the texts that are counted: a JSON list per file
    tokens.py measure FOLDER     times tiktoken on them; prints lines as benches/tokens.rs does
    tokens.py summary RESULTS    the fastest of all rounds, side by side
"""
import json
import pathlib
import random
import statistics
import sys
import time

ENCODINGS = ("o200k_base", "cl100k_base")
LANGUAGES = {"chinese": "zh", "arabic": "ar", "japanese": "ja", "russian": "ru"}
# How many times Python's speed each kind of text is to reach.
GOALS = {"english+code": 4.0, "hot": 8.0, **dict.fromkeys(LANGUAGES, 2.0)}


def write_texts(folder):
    import texts

    def save(name, documents):
        (folder / f"{name}.json").write_text(json.dumps(documents, ensure_ascii=False), "utf-8")

    def mixed(*sources, size, limit):
        found = (part for source in sources for text in source for part in texts.documents(text, size))
        # Longer ones are images in base64, which the gateway does not count as text.
        found = list(dict.fromkeys(part for part in found if len(part) < 20_000))
        random.Random(1).shuffle(found)
        return found[:limit]

    code, prose, requests = list(texts.code()), list(texts.prose()), list(texts.requests())
    save("english+code", [*mixed(code, size=1500, limit=3500), *mixed(prose, requests, size=1500, limit=3500)])
    for name, language in LANGUAGES.items():
        save(name, list(texts.documents("\n".join(texts.translated(language)), 800)))
    save("hot-english", ["".join(path.read_text() for path in sorted((texts.ROOT / "docs").glob("*.md")))[:10_000]])
    save("hot-code", [max(code, key=len)[20_000:30_000]])
    save("hot-json", [next(text for text in requests if len(text) > 12_000)[:10_000]])


def measure(folder):
    import tiktoken

    for name in ENCODINGS:
        encoding = tiktoken.get_encoding(name)
        for path in sorted(folder.iterdir()):
            documents = json.loads(path.read_text("utf-8"))
            size = sum(len(text.encode()) for text in documents)

            def timed():
                start = time.perf_counter()
                tokens = sum(len(encoding.encode_ordinary(text)) for text in documents)
                return (time.perf_counter() - start) * 1e6, tokens

            first, tokens = timed()
            again = statistics.median(timed()[0] for _ in range(max(3, min(300, 500 * 1024 // size))))
            for kind, us in (("first", first), ("again", again)):
                print(kind, path.stem, name, us, tokens, size, sep="\t")


def read(path):
    """{(kind, text, encoding): [(us, tokens, bytes) of each round]}, and the other lines."""
    timed, other = {}, []
    for line in pathlib.Path(path).read_text().splitlines():
        kind, *fields = line.split("\t")
        if kind in ("first", "again", "hostile"):
            timed.setdefault((kind, *fields[:2]), []).append(tuple(map(float, fields[2:])))
        else:
            other.append((kind, fields))
    return timed, other


def summary(folder):
    weir, other = read(folder / "weir")
    python, _ = read(folder / "python")
    missed = []
    print(f"\n{'text':<15}{'encoding':<13}{'MB':>6}{'weir MB/s':>11}{'Python':>8}{'ratio':>7}{'goal':>6}")
    for (kind, name, encoding), rounds in python.items():
        hot = name.startswith("hot")
        if hot != (kind == "again"):
            continue
        ours = weir[kind, name, encoding]
        if ours[0][1] != rounds[0][1]:
            missed.append(f"{name} {encoding}: {ours[0][1]:.0f} tokens instead of {rounds[0][1]:.0f}")
        size, mine, theirs = rounds[0][2], *(min(run[0] for run in runs) for runs in (ours, rounds))
        goal = GOALS["hot" if hot else name]
        print(f"{name:<15}{encoding:<13}{size / 1e6:>6.2f}{size / mine:>11.1f}{size / theirs:>8.1f}{theirs / mine:>7.1f}{goal:>6.0f}")
        if theirs / mine < goal:
            missed.append(f"{name} {encoding}: {theirs / mine:.1f} times Python, not {goal:.0f}")
    allocations = sum(int(fields[2]) for kind, fields in other if kind == "allocations")
    print(f"\nallocations of all counts: {allocations}")
    if allocations:
        missed.append(f"{allocations} allocations")
    hostile = sorted((min(run[0] / run[2] for run in runs), name, encoding)
                     for (kind, name, encoding), runs in weir.items() if kind == "hostile")
    print(f"{len(hostile) // len(ENCODINGS)} hostile texts of 1 MB, us/byte (goal 1): "
          + ", ".join(f"{us:.2f} {name} {encoding}" for us, name, encoding in hostile[:-6:-1]))
    if hostile[-1][0] > 1:
        missed.append(f"{hostile[-1][1]}: {hostile[-1][0]:.2f} us/byte")
    loads = {}
    for kind, fields in other:
        if kind == "load":
            loads.setdefault(fields[0], []).append((float(fields[1]) / 1e3, float(fields[2]) / 1e3))
    medians = {name: [statistics.median(column) for column in zip(*runs)] for name, runs in loads.items()}
    print("vocabularies: " + ", ".join(f"{name} {ms:.0f} ms {mb:.0f} MB" for name, (ms, mb) in medians.items()) + " (goal 70 MB both)")
    if sum(mb for _, mb in medians.values()) > 70:
        missed.append("the vocabularies take more than 70 MB")
    sys.exit("missed: " + "; ".join(missed) if missed else 0)


if __name__ == "__main__":
    {"texts": write_texts, "measure": measure, "summary": summary}[sys.argv[1]](pathlib.Path(sys.argv[2]))
