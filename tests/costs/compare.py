"""Prices a grid of models, tiers and usages with weir and with LiteLLM, and counts where they differ and why.

Arguments: the weir binary, its catalogue, and the file for the tables. To be started by tests/costs/compare.
Fails when a difference is of no class that is known.
"""
import collections
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # the prices of that version, not of today
import litellm  # noqa: E402
from litellm.cost_calculator import batch_cost_calculator  # noqa: E402

weir, catalogue, table = (os.path.abspath(path) for path in sys.argv[1:])
TIERS = ("standard", "flex", "priority", "batch")
USAGES = {
    "plain": (1000, {}, 500, {}),
    "cached": (2006, {"cached_tokens": 1920}, 300, {}),
    "reasoning": (1000, {}, 900, {"reasoning_tokens": 640}),
    "at 272,000 tokens": (272_000, {}, 1000, {}),
    "above 272,000 tokens": (300_000, {"cached_tokens": 100_000}, 1000, {}),
    "cache write": (10_000, {"cached_tokens": 2000, "cache_write_tokens": 5000}, 100, {}),
    "audio": (1000, {"audio_tokens": 800}, 500, {"audio_tokens": 400}),
    "image": (1000, {"image_tokens": 900}, 100, {}),
}
# Beyond the float's own error; the smallest price is 2e-8 USD a token.
TOLERANCE = 1e-9
NOT_EXPLAINED = "not explained"


def usage(name):
    given, given_details, made, made_details = USAGES[name]
    return {
        "prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made,
        "prompt_tokens_details": given_details, "completion_tokens_details": made_details,
    }


def by_weir(grid):
    lines = [json.dumps({"model": model, "tier": tier, "usage": usage(name)}) for model, tier, name in grid]
    with tempfile.TemporaryDirectory() as empty:  # no policy: the catalogue alone
        done = subprocess.run([weir, "cost", "--jsonl"], cwd=empty, input="\n".join(lines), env={}, text=True,
                              capture_output=True)
    if done.returncode != 0:
        sys.exit(f"weir cost failed: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def by_litellm(model, tier, name):
    """The cost in USD, or None where LiteLLM has none or fails."""
    used = litellm.Usage(**usage(name))
    provider = litellm.model_cost[model]["litellm_provider"]
    try:
        if tier == "batch":
            parts = batch_cost_calculator(used, model, provider)
        else:
            asked = None if tier == "standard" else tier
            parts = litellm.cost_per_token(model=model, custom_llm_provider=provider, usage_object=used,
                                           service_tier=asked)
        return sum(parts)
    except Exception:  # whatever it raises: it has no price
        return None


def same(one, other):
    return abs(one - other) <= TOLERANCE * max(abs(one), abs(other))


def verdict(bill, cost):
    ours = bill["cost_usd"]
    if ours is None:
        return "neither prices" if cost is None else "only LiteLLM prices"
    if cost is None:
        return "only weir prices"
    # LiteLLM adds the fees elsewhere.
    tokens = sum(float(part["cost_usd"]) for part in bill["parts"])
    return "equal" if same(tokens, cost) else "different"


def reason(row, model, standard):
    """The class of a difference; `standard` is LiteLLM's cost in the standard tier."""
    prices = model.get("usd_per_million_tokens", {})
    kinds = {part["kind"] for part in row["parts"]}
    long = row["usage"].startswith("above") and "above_input_tokens" in prices.get("standard", {})
    if row["verdict"] == "only LiteLLM prices":
        if not prices:
            return "no price per token at all: LiteLLM says $0"
        if row["tier"] not in prices:
            return reason_without_tier(row, standard)
        if any(part["cost_usd"] is None for part in row["parts"]):
            return "no price for this kind of token: LiteLLM takes that of text, or $0"
    if row["verdict"] == "different":
        if model["mode"] in ("image_generation", "audio_speech") and kinds & {"image_output", "audio_output"}:
            return "images or speech whose usage does not name them: LiteLLM takes them for text"
        if long and "above_input_tokens" not in prices[row["tier"]]:
            return "a long prompt in a tier without prices for them: LiteLLM takes the standard tier's long ones"
    return NOT_EXPLAINED


def reason_without_tier(row, standard):
    suffix = "batches" if row["tier"] == "batch" else row["tier"]
    if f"input_cost_per_token_{suffix}" in litellm.model_cost[row["model"]]:
        return "no price in this tier: the older list of LiteLLM has one"
    if row["tier"] != "batch" and same(row["litellm"], standard):
        return "no price in this tier: LiteLLM takes the standard one"
    if row["tier"] == "batch" and same(row["litellm"], standard / 2):
        return "no price in this tier: LiteLLM takes half of the standard one"
    if row["tier"] == "batch" and row["litellm"] < standard / 2:
        return "no price in this tier: LiteLLM takes half of the standard one for some of the tokens, $0 for others"
    return NOT_EXPLAINED


def heading(*cells):
    return [f"| {' | '.join(cells)} |", "|" + "---|" * len(cells)]


def report(rows, both, known):
    verdicts = ("equal", "neither prices", "only LiteLLM prices", "only weir prices", "different")
    lines = [f"weir beside LiteLLM {importlib.metadata.version('litellm')}: {len(both)} models x {len(TIERS)} tiers x "
             f"{len(USAGES)} usages = {len(rows)} bills. Known to weir alone: {', '.join(sorted(set(known) - set(both)))}.",
             "", *heading("tier", *verdicts)]
    for tier in (*TIERS, "all"):
        count = collections.Counter(row["verdict"] for row in rows if tier in (row["tier"], "all"))
        lines.append(f"| {tier} | {' | '.join(str(count[verdict]) for verdict in verdicts)} |")
    lines += ["", *heading("verdict", "class", "bills", "models", "for example", "weir", "LiteLLM")]
    classes = collections.defaultdict(list)
    for row in rows:
        if row["verdict"] not in ("equal", "neither prices"):
            classes[row["verdict"], row["reason"]].append(row)
    for (what, why), found in sorted(classes.items()):
        first, models = found[0], len({row["model"] for row in found})
        cost = ["none" if cost is None else f"${float(cost):.7g}" for cost in (first["weir"], first["litellm"])]
        lines.append(f"| {what} | {why} | {len(found)} | {models} | {first['model']}, {first['tier']}, {first['usage']} | "
                     f"{cost[0]} | {cost[1]} |")
    return "\n".join(lines) + "\n"


def main():
    known = json.loads(pathlib.Path(catalogue).read_text())["models"]
    both = sorted(model for model in known if model in litellm.model_cost)
    grid = [(model, tier, name) for model in both for tier in TIERS for name in USAGES]
    rows = []
    for (model, tier, name), bill in zip(grid, by_weir(grid), strict=True):
        cost = by_litellm(model, tier, name)
        row = {"model": model, "tier": tier, "usage": name, "weir": bill["cost_usd"], "litellm": cost,
               "verdict": verdict(bill, cost), "parts": bill["parts"]}
        differs = row["verdict"] not in ("equal", "neither prices")
        standard = cost if tier == "standard" else by_litellm(model, "standard", name)
        rows.append(row | {"reason": reason(row, known[model], standard) if differs else None})
    text = report(rows, both, known)
    pathlib.Path(table).write_text(text)
    pathlib.Path(table).with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(text, end="")
    unknown = [row for row in rows if row["reason"] == NOT_EXPLAINED]
    for row in unknown[:20]:
        print(f"not explained: {json.dumps(row)}", file=sys.stderr)
    sys.exit(1 if unknown else 0)


main()
