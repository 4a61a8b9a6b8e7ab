#!/usr/bin/env python3
"""Writes the Grafana dashboards beside it: cost, traffic, policy and capture.

Panels are listed here as title, unit and queries; the JSON that Grafana reads is made of them.
    dashboards/build.py            writes the files
    dashboards/build.py --check    fails when a file is not what this script writes
"""
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "${source}"}
COST = "gen_ai_client_cost_usd_total"
WHO = 'team=~"$team",key=~"$key",route=~"$route",gen_ai_response_model=~"$model"'
CALL = 'gen_ai_response_model=~"$model"'
REQUESTS = 'weir_requests_total{route=~"$route"}'
RATE = "$__rate_interval"
INTERACTIONS = {
    "title": "Its calls in weir",
    "url": "${control}/api/interactions?route=${__field.labels.route}&since=${__from:date:iso}&until=${__to:date:iso}",
    "targetBlank": True,
}


def quantile(q, metric, by="", where=CALL):
    group = f"le,{by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({group}) (rate({metric}_bucket{{{where}}}[{RATE}])))"


def cost_by(label):
    return f"sum by ({label}) (increase({COST}{{{WHO}}}[1h]))"


# title, kind, unit, width, [(query, legend)], description
DASHBOARDS = {
    "cost": ("weir: cost", [
        ("Spent in this period", "stat", "currencyUSD", 6, [(f"sum(increase({COST}{{{WHO}}}[$__range]))", "USD")],
         "All priced calls. Calls without a price are counted beside it, never as 0."),
        ("Spent per hour now", "stat", "currencyUSD", 6, [(f"sum(rate({COST}{{{WHO}}}[1h])) * 3600", "USD/h")], ""),
        ("At this pace, per day", "stat", "currencyUSD", 6, [(f"sum(rate({COST}{{{WHO}}}[1h])) * 86400", "USD/day")], ""),
        ("Cost of 1,000 requests", "stat", "currencyUSD", 6,
         [(f"1000 * sum(increase({COST}[$__range])) / sum(increase(weir_requests_total[$__range]))", "USD")], ""),
        ("Spend per hour by team", "bars", "currencyUSD", 12, [(cost_by("team"), "{{team}}")], ""),
        ("Spend per hour by model", "bars", "currencyUSD", 12, [(cost_by("gen_ai_response_model"), "{{gen_ai_response_model}}")], ""),
        ("Spend per hour by key", "bars", "currencyUSD", 12, [(f"topk(10, {cost_by('key')})", "{{key}}")], "The ten that spend most."),
        ("Spend per hour by route", "bars", "currencyUSD", 12, [(cost_by("route"), "{{route}}")], "", INTERACTIONS),
        ("Spend per day", "bars", "currencyUSD", 12, [(f"sum(increase({COST}{{{WHO}}}[1d]))", "USD")], "Over the 24 hours before each point."),
        ("Budgets left", "table", "currencyUSD", 12, [("sort(min by (limit, subject) (weir_budget_remaining_usd))", "{{limit}} {{subject}}")],
         "In this hour, day, week or month; the tightest gateway's view."),
        ("Budgets, if the last hour goes on for four", "lines", "currencyUSD", 12,
         [("predict_linear(weir_budget_remaining_usd[1h], 4 * 3600)", "{{limit}} {{subject}}")], "Below 0: spent before then."),
        ("Calls without a price", "lines", "percentunit", 6,
         [(f"sum(rate(weir_unpriced_requests_total[{RATE}])) / sum(rate(weir_requests_total[{RATE}]))", "share")],
         "Usage was reported and nobody knows a price: add one under `models:`."),
        ("Calls with estimated usage", "lines", "percentunit", 6,
         [(f"sum(rate(weir_usage_estimated_total[{RATE}])) / sum(rate(weir_requests_total[{RATE}]))", "share")],
         "The provider reported none, or the client left."),
        ("Tokens per second", "lines", "short", 12,
         [(f"sum by (gen_ai_token_type) (rate(gen_ai_client_token_usage_sum{{{CALL}}}[{RATE}]))", "{{gen_ai_token_type}}")],
         "cached_input is part of input, reasoning part of output."),
        ("Input served from the provider's cache", "lines", "percentunit", 12,
         [(f'sum(rate(gen_ai_client_token_usage_sum{{gen_ai_token_type="cached_input",{CALL}}}[{RATE}])) '
           f'/ sum(rate(gen_ai_client_token_usage_sum{{gen_ai_token_type="input",{CALL}}}[{RATE}]))', "share")], ""),
    ]),
    "traffic": ("weir: traffic", [
        ("Requests per second by status", "lines", "reqps", 12, [(f"sum by (status) (rate({REQUESTS}[{RATE}]))", "{{status}}")],
         "499: the client left before its answer."),
        ("Requests per second by route", "lines", "reqps", 12, [(f"sum by (route) (rate({REQUESTS}[{RATE}]))", "{{route}}")], "", INTERACTIONS),
        ("Errors by kind", "lines", "reqps", 12,
         [(f'sum by (error_type) (rate(gen_ai_server_request_duration_seconds_count{{error_type!="",{CALL}}}[{RATE}]))', "{{error_type}}")], ""),
        ("Share of failed requests", "lines", "percentunit", 12,
         [(f'sum(rate(weir_requests_total{{status=~"5..|429",route=~"$route"}}[{RATE}])) / sum(rate({REQUESTS}[{RATE}]))', "5xx and 429")], ""),
        ("Duration", "lines", "s", 8,
         [(quantile(q, "gen_ai_server_request_duration_seconds"), f"p{int(q * 100)}") for q in (0.5, 0.95, 0.99)],
         "From the request's first byte to the answer's last."),
        ("Time to first token", "lines", "s", 8,
         [(quantile(q, "gen_ai_server_time_to_first_token_seconds"), f"p{int(q * 100)}") for q in (0.5, 0.95, 0.99)], "Of streams."),
        ("Time per output token", "lines", "s", 8,
         [(quantile(q, "gen_ai_server_time_per_output_token_seconds"), f"p{int(q * 100)}") for q in (0.5, 0.95)], "Of streams, after the first."),
        ("Duration p95 by model", "lines", "s", 12,
         [(quantile(0.95, "gen_ai_server_request_duration_seconds", "gen_ai_response_model"), "{{gen_ai_response_model}}")], ""),
        ("What the gateway adds", "lines", "s", 12,
         [(quantile(q, "weir_overhead_seconds", where=""), f"p{int(q * 100)}") for q in (0.5, 0.95, 0.99)],
         "Its own share of the time until an answer's head left."),
        ("Tries at upstreams", "lines", "ops", 12,
         [(f"sum by (upstream, outcome) (rate(weir_attempts_total[{RATE}]))", "{{upstream}} {{outcome}}")], ""),
        ("In flight", "lines", "short", 6, [("sum(weir_in_flight_requests)", "requests"), ("sum(weir_downstream_connections)", "connections")], ""),
        ("Requests without a valid key", "lines", "reqps", 6,
         [(f"sum by (error_type) (rate(gen_ai_server_request_duration_seconds_count{{error_type=\"invalid_api_key\"}}[{RATE}])) or vector(0)", "refused")], ""),
        ("Memory", "lines", "bytes", 12, [("process_resident_memory_bytes{job=\"weir\"}", "{{instance}}")], ""),
        ("CPU", "lines", "percentunit", 12, [(f'rate(process_cpu_seconds_total{{job="weir"}}[{RATE}])', "{{instance}}")], "1 is one core."),
    ]),
    "policy": ("weir: policy and models", [
        ("In sync", "stat", "short", 6, [("min(weir_policy_in_sync)", "1: what the folder says is in force")],
         "0: the folder's content was refused; the policy before it goes on. GET /api/policies says why."),
        ("Revisions in force", "stat", "short", 6, [("count(count by (revision) (weir_policy_info == 1))", "revisions")], "More than 1 for longer than a roll-out: gateways disagree."),
        ("Reloads", "lines", "short", 12, [('sum by (result) (increase(weir_policy_reloads_total[1h])) or label_replace(vector(0), "result", "none", "", "")', "{{result}}")], ""),
        ("Decisions by rule", "lines", "reqps", 12, [(f'sum by (route) (rate(weir_route_decisions_total{{route=~"$route"}}[{RATE}]))', "{{route}}")], "", INTERACTIONS),
        ("Decisions by rule and model", "lines", "reqps", 12,
         [(f'sum by (route, model) (rate(weir_route_decisions_total{{route=~"$route"}}[{RATE}]))', "{{route}}: {{model}}")],
         "The arms of a split among them."),
        ("Conditions without a value", "lines", "reqps", 12,
         [(f"sum by (route) (rate(weir_policy_rule_errors_total[{RATE}])) or label_replace(vector(0), \"route\", \"none\", \"\", \"\")", "{{route}}")],
         "Such as a tag that a request does not have: the rule does not match."),
        ("Prompts counted", "lines", "reqps", 12,
         [(f"sum by (method) (rate(weir_prompt_counts_total[{RATE}])) or label_replace(vector(0), \"method\", \"none\", \"\", \"\")", "{{method}}")], ""),
        ("Days to shutdown", "table", "d", 24, [("sort(min by (model) (weir_model_days_to_shutdown))", "{{model}}")],
         "Models that the policy names and OpenAI shuts down."),
    ]),
    "capture": ("weir: capture and training data", [
        ("Records stored per second", "lines", "ops", 12, [(f'sum(rate(weir_capture_records_total{{outcome="stored"}}[{RATE}]))', "stored")], ""),
        ("Lost or set aside", "lines", "ops", 12,
         [(f'sum by (outcome) (rate(weir_capture_records_total{{outcome=~"dropped|torn|corrupt|unreadable|refused|body_dropped"}}[{RATE}]))', "{{outcome}}")],
         "Any of these above 0 wants a look at the log."),
        ("Waiting on disk", "lines", "bytes", 12, [("sum(weir_capture_spool_bytes)", "spool")], "Grows while the store is away."),
        ("Erased and expired", "lines", "ops", 12,
         [(f'sum by (outcome) (rate(weir_capture_records_total{{outcome=~"erased|expired"}}[{RATE}]))', "{{outcome}}")], ""),
        ("Posts to webhooks", "lines", "ops", 12,
         [(f"sum by (event, outcome) (rate(weir_hook_deliveries_total[{RATE}])) or label_replace(vector(0), \"event\", \"none\", \"\", \"\")", "{{event}} {{outcome}}")], ""),
        ("Events for webhooks", "lines", "short", 12,
         [("max(weir_webhook_pending)", "waiting"), ("max(weir_webhook_dead_letters)", "dead letters")],
         "Dead letters: GET /api/webhooks/{id}/deliveries?state=dead tells why, POST …/redeliver sends them again."),
        ("How far estimates are from reports", "lines", "percentunit", 12,
         [("histogram_quantile(0.95, sum by (le, gen_ai_token_type) (increase(weir_usage_estimate_error_ratio_bucket[1h])))", "{{gen_ai_token_type}} p95")],
         "Of one stream in 64."),
    ]),
}

VARIABLES = [
    ("team", f"label_values({COST}, team)"),
    ("key", f"label_values({COST}, key)"),
    ("model", "label_values(gen_ai_server_request_duration_seconds_count, gen_ai_response_model)"),
    ("route", "label_values(weir_requests_total, route)"),
]


def variables():
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0}
    control = {"name": "control", "label": "Control plane", "type": "textbox", "query": "http://127.0.0.1:8081",
               "current": {"text": "http://127.0.0.1:8081", "value": "http://127.0.0.1:8081"}}
    lists = [{
        "name": name, "label": name.capitalize(), "type": "query", "datasource": SOURCE,
        "query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1,
        "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
    } for name, query in VARIABLES]
    return [source, *lists, control]


def panel(number, x, y, title, kind, unit, width, queries, about, link=None):
    custom = {"lines": {"drawStyle": "line", "fillOpacity": 10, "showPoints": "never"},
              "bars": {"drawStyle": "bars", "fillOpacity": 80, "stacking": {"mode": "normal", "group": "A"}}}
    defaults = {"unit": unit, "custom": custom.get(kind, {})}
    if link:
        defaults["links"] = [link]
    options = {"stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name"},
               "table": {"showHeader": True}}
    legend = {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]}, "tooltip": {"mode": "multi"}}
    return {
        "id": number, "title": title, "description": about, "datasource": SOURCE,
        "type": {"lines": "timeseries", "bars": "timeseries"}.get(kind, kind),
        "gridPos": {"h": 4 if kind == "stat" else 8, "w": width, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options.get(kind, legend),
        "targets": [{
            "refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query, "legendFormat": legend_text,
            **({"instant": True, "format": "table"} if kind == "table" else {}),
        } for at, (query, legend_text) in enumerate(queries)],
    }


def dashboard(name, title, panels):
    x = y = height = 0
    placed = []
    for number, entry in enumerate(panels, 1):
        width = entry[3]
        if x + width > 24:
            x, y = 0, y + height
        made = panel(number, x, y, *entry)
        height = made["gridPos"]["h"]
        placed.append(made)
        x += width
    return {
        "uid": f"weir-{name}", "title": title, "tags": ["weir"], "schemaVersion": 39, "version": 1, "editable": True,
        "timezone": "browser", "refresh": "30s", "time": {"from": "now-6h", "to": "now"}, "graphTooltip": 1,
        "links": [{"type": "dashboards", "tags": ["weir"], "title": "weir", "asDropdown": True}],
        "templating": {"list": variables()}, "annotations": {"list": []}, "panels": placed,
    }


def main():
    stale = []
    for name, (title, panels) in DASHBOARDS.items():
        path = HERE / f"{name}.json"
        text = json.dumps(dashboard(name, title, panels), indent=1, ensure_ascii=False) + "\n"
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"not what dashboards/build.py writes; run it: {', '.join(stale)}")


if __name__ == "__main__":
    main()
