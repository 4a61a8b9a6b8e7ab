#!/usr/bin/env python3
"""Writes the Grafana dashboards beside it: cost, traffic, policy and training.

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
# The statuses of a job in which nobody waits for a person.
AT_WORK = "pending|uploading|submitting|submit_unknown|validating_files|queued|running"


def calls_of(label, parameter=None):
    """A link from a series to the calls that it counts: `parameter` of the route holds the label's value."""
    parameter = parameter or label
    period = "since=${__from:date:iso}&until=${__to:date:iso}"
    url = f"${{control}}/api/interactions?{parameter}=${{__field.labels.{label}}}&{period}"
    return {"title": "Its calls in weir", "url": url, "targetBlank": True}


def or_none(query, label):
    """What has no series before its first event: 0 under the name `none`."""
    return f'{query} or label_replace(vector(0), "{label}", "none", "", "")'


def quantile(q, metric, by="", where=CALL):
    group = f"le,{by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({group}) (rate({metric}_bucket{{{where}}}[{RATE}])))"


def cost_by(label, window="1h"):
    return f"sum by ({label}) (increase({COST}{{{WHO}}}[{window}]))"


def saved(window, by=""):
    what = 'route=~"$route",gen_ai_response_model=~"$model"'
    asked, real = (f"sum{by} (increase({name}{{{what}}}[{window}]))"
                   for name in ("weir_rerouted_asked_cost_usd_total", "weir_rerouted_cost_usd_total"))
    return f"{asked} - {real}"


def per_thousand(by=""):
    return (f'1000 * sum{by} (increase({COST}{{route=~"$route"}}[$__range])) '
            f"/ sum{by} (increase({REQUESTS}[$__range]))")


MODEL = "gen_ai_response_model"
LOST = "dropped|torn|corrupt|unreadable|refused|body_dropped"

# title, kind, unit, width, [(query, legend)], description, link
DASHBOARDS = {
    "cost": ("weir: cost", [
        ("Spent in this period", "stat", "currencyUSD", 4, [(f"sum(increase({COST}{{{WHO}}}[$__range]))", "USD")],
         "All priced calls. Calls without a price are counted beside it, never as 0."),
        ("Spent per hour now", "stat", "currencyUSD", 4, [(f"sum(rate({COST}{{{WHO}}}[1h])) * 3600", "USD/h")], ""),
        ("At this pace, per day", "stat", "currencyUSD", 4, [(f"sum(rate({COST}{{{WHO}}}[1h])) * 86400", "USD/day")], ""),
        ("Cost of 1,000 requests", "stat", "currencyUSD", 4, [(per_thousand(), "USD")], "By the variable *Route* alone: requests are not counted by team or key."),
        ("Saved by routing in this period", "stat", "currencyUSD", 8, [(saved("$__range"), "USD")],
         "What calls that another model answered would have cost at the model that was asked for, with the same tokens, less what they "
         "did cost. Below 0: routing costs more. Names without a price, such as `auto`, have nothing to be compared with."),
        *[(f"Spend per hour by {name}", "bars", "currencyUSD", 12, [(query(cost_by(label)), f"{{{{{label}}}}}")], about, link)
          for name, label, query, about, link in (
              ("team", "team", str, "", calls_of("team")),
              ("model", MODEL, str, "", calls_of(MODEL, "response_model")),
              ("key", "key", "topk(10, {})".format, "The ten that spend most. `other`: keys beyond those that have series of their own; `weir spend` knows each.", calls_of("key")),
              ("route", "route", str, "", calls_of("route")))],
        *[(f"Spend per day by {name}", "bars", "currencyUSD", 12, [(query(cost_by(label, "1d")), f"{{{{{label}}}}}")],
           "Over the 24 hours before each point.", link)
          for name, label, query, link in (
              ("team", "team", str, calls_of("team")),
              ("model", MODEL, str, calls_of(MODEL, "response_model")),
              ("key", "key", "topk(10, {})".format, calls_of("key")),
              ("route", "route", str, calls_of("route")))],
        ("Saved by routing per hour, by route", "bars", "currencyUSD", 12, [(saved("1h", " by (route)"), "{{route}}")],
         "Against the model that was asked for, see above.", calls_of("route")),
        ("Cost of 1,000 requests by route", "table", "currencyUSD", 12, [(per_thousand(" by (route)"), "{{route}}")], "In this period."),
        ("Budgets left", "table", "currencyUSD", 8, [("sort(min by (limit, subject) (weir_budget_remaining_usd))", "{{limit}} {{subject}}")],
         "In this hour, day, week or month; the tightest gateway's view."),
        ("Budgets used", "lines", "percentunit", 8,
         [("1 - min by (limit, subject) (weir_budget_remaining_usd) / on (limit) group_left () max by (limit) (weir_budget_limit_usd)", "{{limit}} {{subject}}")], ""),
        ("Budgets are spent in", "lines", "s", 8,
         [("min by (limit, subject) (weir_budget_remaining_usd / (-deriv(weir_budget_remaining_usd[1h]) > 0))", "{{limit}} {{subject}}")],
         "If the last hour's pace goes on. Windows may begin anew before."),
        ("Calls without a price", "lines", "percentunit", 6,
         [(f"(sum(rate(weir_unpriced_requests_total[{RATE}])) or vector(0)) / sum(rate(weir_requests_total[{RATE}]))", "share")],
         "Usage was reported and nobody knows a price: add one under `models:`."),
        ("Calls with estimated usage", "lines", "percentunit", 6,
         [(f"(sum(rate(weir_usage_estimated_total[{RATE}])) or vector(0)) / sum(rate(weir_requests_total[{RATE}]))", "share")],
         "The provider reported none, or the client left."),
        ("Tokens per second", "lines", "short", 6,
         [(f"sum by (gen_ai_token_type) (rate(gen_ai_client_token_usage_sum{{{CALL}}}[{RATE}]))", "{{gen_ai_token_type}}")],
         "cached_input is part of input, reasoning part of output."),
        ("Input served from the provider's cache", "lines", "percentunit", 6,
         [(f'sum(rate(gen_ai_client_token_usage_sum{{gen_ai_token_type="cached_input",{CALL}}}[{RATE}])) '
           f'/ sum(rate(gen_ai_client_token_usage_sum{{gen_ai_token_type="input",{CALL}}}[{RATE}]))', "share")], ""),
    ]),
    "traffic": ("weir: traffic", [
        ("Requests per second by status", "lines", "reqps", 12, [(f"sum by (status) (rate({REQUESTS}[{RATE}]))", "{{status}}")],
         "499: the client left before its answer.", calls_of("status")),
        ("Requests per second by route", "lines", "reqps", 12, [(f"sum by (route) (rate({REQUESTS}[{RATE}]))", "{{route}}")], "", calls_of("route")),
        ("Errors by kind", "lines", "reqps", 12,
         [(f'sum by (error_type) (rate(gen_ai_server_request_duration_seconds_count{{error_type!="",{CALL}}}[{RATE}]))', "{{error_type}}")], ""),
        ("Share of failed requests", "lines", "percentunit", 12,
         [(f'(sum(rate(weir_requests_total{{status=~"5..|429",route=~"$route"}}[{RATE}])) or vector(0)) / sum(rate({REQUESTS}[{RATE}]))', "5xx and 429")], ""),
        ("Duration", "lines", "s", 8,
         [(quantile(q, "gen_ai_server_request_duration_seconds"), f"p{int(q * 100)}") for q in (0.5, 0.95, 0.99)],
         "From the request's first byte to the answer's last."),
        ("Time to first token", "lines", "s", 8,
         [(quantile(q, "gen_ai_server_time_to_first_token_seconds"), f"p{int(q * 100)}") for q in (0.5, 0.95, 0.99)], "Of streams."),
        ("Time per output token", "lines", "s", 8,
         [(quantile(q, "gen_ai_server_time_per_output_token_seconds"), f"p{int(q * 100)}") for q in (0.5, 0.95, 0.99)], "Of streams, after the first."),
        ("Duration p95 by model", "lines", "s", 12,
         [(quantile(0.95, "gen_ai_server_request_duration_seconds", MODEL), f"{{{{{MODEL}}}}}")], "", calls_of(MODEL, "response_model")),
        ("What the gateway adds", "lines", "s", 12,
         [(quantile(q, "weir_overhead_seconds", where=""), f"p{int(q * 100)}") for q in (0.5, 0.95, 0.99)],
         "Its own share of the time until an answer's head left."),
        ("Tries at upstreams", "lines", "ops", 12,
         [(f"sum by (upstream, outcome) (rate(weir_attempts_total[{RATE}]))", "{{upstream}} {{outcome}}")], "", calls_of("upstream")),
        ("Gates open", "lines", "short", 6, [("max by (upstream, reason) (weir_gates_open)", "{{upstream}} {{reason}}")],
         "Models of an upstream that are left alone: it asked for a pause, or they fail."),
        ("In flight", "lines", "short", 6, [("sum(weir_in_flight_requests)", "requests"), ("sum(weir_downstream_connections)", "connections")], ""),
        ("Callers that were not let in", "lines", "reqps", 8, [(f"sum by (reason) (rate(weir_auth_failures_total[{RATE}]))", "{{reason}}")], ""),
        ("Memory", "lines", "bytes", 8, [("process_resident_memory_bytes{job=\"weir\"}", "{{instance}}")], ""),
        ("CPU", "lines", "percentunit", 8, [(f'rate(process_cpu_seconds_total{{job="weir"}}[{RATE}])', "{{instance}}")], "1 is one core."),
        ("Work beside the requests: turns that failed", "lines", "short", 12,
         [("sum by (task) (increase(weir_background_task_failures_total[15m]))", "{{task}}")], "In 15 minutes; /healthz says why."),
        ("Work beside the requests: down", "stat", "short", 6, [("count(weir_background_task_up == 0) or vector(0)", "tasks")], "A task that has ended before its process."),
        ("Shared limits and keys", "lines", "short", 6,
         [("min(weir_redis_up)", "Redis shares limits"), ("min(weir_keys_in_sync)", "keys are the store's"), ("max(weir_gateways)", "gateways")], ""),
    ]),
    "policy": ("weir: policy and models", [
        ("In sync", "stat", "short", 6, [("min(weir_policy_in_sync)", "1: what the folder says is in force")],
         "0: the folder's content was refused; the policy before it goes on. GET /api/policies says why."),
        ("Revisions in force", "stat", "short", 6, [("count(count by (revision) (weir_policy_info == 1))", "revisions")], "More than 1 for longer than a roll-out: gateways disagree."),
        ("Revision by gateway", "table", "short", 12, [("max by (instance, revision) (weir_policy_info == 1)", "{{instance}} {{revision}}")], ""),
        ("Decisions by rule", "lines", "reqps", 12, [(f'sum by (route) (rate(weir_route_decisions_total{{route=~"$route"}}[{RATE}]))', "{{route}}")], "", calls_of("route")),
        ("Decisions by rule and model", "lines", "reqps", 12,
         [(f'sum by (route, model) (rate(weir_route_decisions_total{{route=~"$route",model=~"$model"}}[{RATE}]))', "{{route}}: {{model}}")],
         "The arms of a split among them.", calls_of("model")),
        ("Canary arms: share of each alias's calls", "lines", "percentunit", 12,
         [('max by (alias, model) (weir_alias_share) or label_replace(vector(0), "alias", "none", "", "")', "{{alias}}: {{model}}")],
         "Promoted models and those on trial. GET /api/aliases says what they are compared by."),
        ("Reloads", "lines", "short", 12, [(or_none("sum by (result) (increase(weir_policy_reloads_total[1h]))", "result"), "{{result}}")], ""),
        ("Conditions without a value", "lines", "reqps", 12,
         [(or_none(f"sum by (route) (rate(weir_policy_rule_errors_total[{RATE}]))", "route"), "{{route}}")],
         "Such as a tag that a request does not have: the rule does not match."),
        ("Prompts counted", "lines", "reqps", 12,
         [(or_none(f"sum by (method) (rate(weir_prompt_counts_total[{RATE}]))", "method"), "{{method}}")], ""),
        ("Days to shutdown", "table", "d", 24, [("sort(min by (model) (weir_model_days_to_shutdown))", "{{model}}")],
         "Models that the policy names and OpenAI shuts down."),
    ]),
    "training": ("weir: training and documents", [
        ("Records stored per second", "lines", "ops", 8, [(f'sum(rate(weir_capture_records_total{{outcome="stored"}}[{RATE}]))', "stored")], ""),
        ("Lost or set aside", "lines", "ops", 8,
         [(f'sum by (outcome) (rate(weir_capture_records_total{{outcome=~"{LOST}"}}[{RATE}]))', "{{outcome}}")],
         "Any of these above 0 wants a look at the log."),
        ("Erased and expired", "lines", "ops", 8,
         [(f'sum by (outcome) (rate(weir_capture_records_total{{outcome=~"erased|expired"}}[{RATE}]))', "{{outcome}}")], ""),
        ("Waiting on disk", "lines", "bytes", 8,
         [("sum by (instance) (weir_capture_spool_bytes)", "{{instance}}"), ("max(weir_capture_spool_limit_bytes)", "limit of each")],
         "Grows while the store is away."),
        ("How far estimates are from reports", "lines", "percentunit", 8,
         [("histogram_quantile(0.95, sum by (le, gen_ai_token_type) (increase(weir_usage_estimate_error_ratio_bucket[1h])))", "{{gen_ai_token_type}} p95")],
         "Of one stream in 64."),
        ("Datasets", "lines", "short", 8, [("max by (status) (weir_datasets)", "{{status}}")], "Every gateway of a store shows the same."),
        ("Fine-tune jobs", "lines", "short", 12, [("max by (status) (weir_training_jobs)", "{{status}}")], "Every gateway of a store shows the same."),
        ("Oldest fine-tune job", "lines", "s", 12,
         [(f'max by (status) (weir_training_oldest_job_seconds{{status=~"{AT_WORK}"}})', "{{status}}")],
         "How long it has been in its status. What waits for a person (approval, paused) and what has ended is left out."),
        ("Documents", "lines", "short", 8,
         [(or_none("max by (source, state) (weir_embeddings_documents)", "source"), "{{source}} {{state}}")], "Of the indexes that answer."),
        ("Refreshes of sources", "lines", "short", 8,
         [(or_none("sum by (state) (increase(weir_embeddings_runs_total[1h]))", "state"), "{{state}}")], ""),
        ("Passages embedded", "lines", "ops", 8, [(f"sum(rate(weir_embeddings_chunks_embedded_total[{RATE}]))", "passages")], ""),
        ("Searches", "lines", "reqps", 12, [(or_none(f"sum by (outcome) (rate(weir_search_total[{RATE}]))", "outcome"), "{{outcome}}")], ""),
        ("Duration of searches", "lines", "s", 12,
         [(quantile(q, "weir_search_duration_seconds", where=""), f"p{int(q * 100)}") for q in (0.5, 0.95, 0.99)],
         "The question's vector included."),
        ("Posts to webhooks", "lines", "ops", 12,
         [(or_none(f"sum by (event, outcome) (rate(weir_hook_deliveries_total[{RATE}]))", "event"), "{{event}} {{outcome}}")], ""),
        ("Events for webhooks", "lines", "short", 12,
         [("max(weir_webhook_pending)", "waiting"), ("max(weir_webhook_dead_letters)", "dead letters")],
         "Dead letters: GET /api/webhooks/{id}/deliveries?state=dead tells why, POST …/redeliver sends them again."),
    ]),
}

VARIABLES = [
    ("team", f"label_values({COST}, team)"),
    ("key", f"label_values({COST}, key)"),
    ("model", "label_values(gen_ai_server_request_duration_seconds_count, gen_ai_response_model)"),
    ("route", "label_values(weir_requests_total, route)"),
]


def variables():
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus",
              "current": {"text": "Prometheus", "value": "prometheus"}}
    control = {"name": "control", "label": "Control plane", "type": "textbox", "query": "http://127.0.0.1:8081",
               "current": {"text": "http://127.0.0.1:8081", "value": "http://127.0.0.1:8081"}}
    lists = [{
        "name": name, "label": name.capitalize(), "type": "query", "datasource": SOURCE,
        "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1,
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
    legend = {"legend": {"showLegend": True, "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
              "tooltip": {"mode": "multi", "sort": "desc"}}
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
        "uid": f"weir-{name}", "title": title, "tags": ["weir"], "schemaVersion": 41, "version": 1, "editable": True,
        "timezone": "browser", "refresh": "30s", "time": {"from": "now-6h", "to": "now"}, "graphTooltip": 1,
        "links": [{"type": "dashboards", "tags": ["weir"], "title": "weir", "icon": "dashboard", "tooltip": "", "asDropdown": True,
                   "targetBlank": False, "includeVars": True, "keepTime": True}],
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
