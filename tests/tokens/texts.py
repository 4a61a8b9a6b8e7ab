"""Texts that are at hand: this project, the shared assets, Python's library, and translations."""
import gettext
import json
import os
import pathlib
import sysconfig

ROOT = pathlib.Path(__file__).parents[2]
SHARED = pathlib.Path(os.environ["SHARED_DIR"])
TRANSLATIONS = pathlib.Path(os.environ["TEXTS_DIR"])


def documents(text, size):
    """A text in parts of about `size` characters, cut at ends of lines."""
    part, length = [], 0
    for line in text.splitlines(keepends=True):
        part.append(line)
        length += len(line)
        if length >= size:
            yield "".join(part)
            part, length = [], 0
    if part:
        yield "".join(part)


def files(*patterns):
    for folder, pattern in patterns:
        for path in sorted(pathlib.Path(folder).rglob(pattern)):
            if not {"target", ".git", "site-packages", "test", "tests"} & set(path.parts[len(pathlib.Path(folder).parts):]):
                yield path.read_text("utf-8", errors="ignore")


def code():
    """Python's library, and this project."""
    library = sysconfig.get_paths()["stdlib"]
    return files((library, "*.py"), (ROOT / "src", "*.rs"))


def prose():
    """English with markup: this project's documentation and OpenAI's API description."""
    return files((ROOT / "docs", "*.md"), (SHARED / "data", "*.yml"), (SHARED / "facts", "*.md"))


def requests():
    """Recorded requests, as JSON and the texts in them."""
    for line in (SHARED / "data" / "usage_pairs.jsonl").open():
        request = json.loads(line)["request"]
        yield json.dumps(request, ensure_ascii=False)
        yield json.dumps(request, indent=2)
    for path in sorted((SHARED / "data" / "conversations").glob("*.jsonl")):
        yield from path.open()


def translated(language):
    """What Django and JupyterLab say in a language (zh, ja, ru, ar, …), message by message."""
    for path in sorted(TRANSLATIONS.rglob("*.mo")):
        if any(part.lower() == language or part.lower().startswith(language + "_") for part in path.parts):
            with path.open("rb") as file:
                catalog = gettext.GNUTranslations(file)._catalog
            yield from (str(text) for key, text in catalog.items() if key and text)
