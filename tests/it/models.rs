//! The catalogue as people see it: `weir models`, `weir cost`, and `/api/models`.

use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Upstream;
use crate::support::cli::weir;
use crate::support::http::Response;
use crate::support::http::get;

const POLICY: &str = r#"
models:
  gpt-5: { price: { input: 1.1 }, context: 9000 }
  house-small: { as: gpt-5.4 }
  "acme/llama:8b": { price: { input: 0.1, output: 0.2 } }
"#;

fn home(policy: &str) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("policies")).unwrap();
    std::fs::write(home.path().join("policies/models.yaml"), policy).unwrap();
    home
}

/// What `weir` prints for machines when all is well.
fn report(home: &TempDir, arguments: &[&str], input: &str) -> Value {
    let (code, out, err) = weir(home.path(), &[arguments, &["--json"]].concat(), input);
    assert_eq!((code, &*err), (Some(0), ""));
    serde_json::from_str(&out).unwrap()
}

#[test]
fn list_has_a_line_for_each_model_that_the_filter_lets_through() {
    let home = home(POLICY);
    let (code, out, _) = weir(home.path(), &["models", "list", "*mall*"], "");
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(code, Some(0));
    assert_eq!(lines[0], ["model", "mode", "input", "cached", "output", "context", "shutdown"]);
    assert_eq!(lines[1], ["house-small", "chat", "2.5", "0.25", "15", "1050000", "-"]);

    let names = |filter: &str| {
        let page = report(&home, &["models", "list", filter], "");
        let data = page["data"].as_array().unwrap().clone();
        data.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("gpt-4o-m?ni"), ["gpt-4o-mini"]);
    assert_eq!(names("LLAMA"), ["acme/llama:8b"]);
    assert!(names("nothing-has-this").is_empty());
    // 177 of the catalogue, and the 2 that only the policy names.
    assert_eq!(names("").len(), 179);
}

#[test]
fn show_marks_what_the_policy_says() {
    let home = home(POLICY);
    let (code, out, _) = weir(home.path(), &["models", "show", "gpt-5"], "");
    assert_eq!(code, Some(0));
    let lines: Vec<String> =
        out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "input 1.1 (policy)",
        "context 9000 (policy)",
        "output 10",
        "each web_search_call 0.01 USD (high)",
        "figures without (policy) are the catalogue's of gpt-5: https://developers.openai.com/api/docs/pricing",
    ] {
        assert!(lines.iter().any(|known| known == line), "{line} in\n{out}");
    }
    assert!(out.contains("2026-12-11") && out.contains("litellm 1.109.1"), "{out}");
}

#[test]
fn an_unknown_model_is_an_error_with_the_nearest_names() {
    let home = home(POLICY);
    let (code, out, err) = weir(home.path(), &["models", "show", "house-smal"], "");
    let message = "weir: unknown model `house-smal`: did you mean house-small?\n";
    assert_eq!((code, &*out, &*err), (Some(1), "", message));
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error() {
    let broken = home("models: 7");
    for command in
        [&["models", "list"][..], &["models", "show", "gpt-5"], &["cost", "--model", "a"]]
    {
        let (code, out, err) = weir(broken.path(), command, "{}");
        assert_eq!(code, Some(1), "{command:?}");
        assert!(out.contains("`models` must be") && err.contains("cannot be used"), "{out}{err}");
    }
    let (code, _, err) = weir(broken.path(), &["models", "list", "--policies", "nowhere"], "");
    assert_eq!((code, &*err), (Some(1), "weir: nowhere is no folder; check the path\n"));
}

#[test]
fn a_usage_is_priced_part_by_part() {
    let home = home(POLICY);
    let usage = r#"{"prompt_tokens":2006,"completion_tokens":300,"prompt_tokens_details":{"cached_tokens":1920}}"#;
    let bill = report(&home, &["cost", "--model", "gpt-5", "--tier", "flex"], usage);
    // 86 x 0.625e-6 + 1920 x 0.0625e-6 + 300 x 5e-6 = 0.00005375 + 0.00012 + 0.0015
    assert_eq!((&bill["cost_usd"], &bill["status"]), (&json!("0.00167375"), &json!("exact")));
    assert_eq!(
        bill["parts"][1],
        json!({ "kind": "cached_input", "tokens": 1920, "usd_per_million_tokens": "0.0625", "cost_usd": "0.00012" })
    );
    // The standard input is the policy's: 86 x 1.1e-6 + 1920 x 0.125e-6 + 300 x 10e-6
    let bill = report(&home, &["cost", "--model", "gpt-5"], usage);
    assert_eq!(bill["cost_usd"], "0.0033346");
    let (_, out, _) = weir(home.path(), &["cost", "--model", "gpt-5"], usage);
    assert!(out.ends_with("total 0.0033346 USD, exact\n"), "{out}");
}

#[test]
fn what_is_billed_by_the_second_is_a_fee() {
    let home = home(POLICY);
    let usage = r#"{"type":"duration","seconds":12.5}"#;
    let bill = report(&home, &["cost", "--model", "whisper-1"], usage);
    // 12.5 x 0.0001
    let fee = json!([{ "unit": "second_input", "thousandths": 12_500, "cost_usd": "0.00125" }]);
    assert_eq!((&bill["fees"], &bill["cost_usd"]), (&fee, &json!("0.00125")));
}

#[test]
fn what_has_no_price_is_null_and_no_failure() {
    let home = home(POLICY);
    let bill = report(&home, &["cost", "--model", "nobody"], r#"{"prompt_tokens":1}"#);
    assert_eq!((&bill["cost_usd"], &bill["status"]), (&Value::Null, &json!("unpriced")));
    let (code, out, _) =
        weir(home.path(), &["cost", "--model", "nobody"], r#"{"prompt_tokens":1}"#);
    assert!(code == Some(0) && out.ends_with("total null, unpriced\n"), "{out}");
}

#[test]
fn a_usage_that_cannot_be_read_is_named() {
    let home = home(POLICY);
    let cost = |usage: &str| weir(home.path(), &["cost", "--model", "gpt-5"], usage);
    for (usage, words) in [
        ("{", "standard input: this is no JSON"),
        ("", "standard input: this is no JSON"),
        ("{}", "names neither input nor output tokens"),
        (r#"{"prompt_tokens":-1}"#, "no whole number"),
    ] {
        let (code, _, err) = cost(usage);
        assert!(code == Some(1) && err.contains(words), "{usage}: {err}");
    }
    let (code, _, err) = weir(home.path(), &["cost", "--model", "a", "--usage", "no.json"], "");
    assert!(code == Some(1) && err.contains("no.json"), "{err}");
    assert_eq!(weir(home.path(), &["cost"], "{}").0, Some(2));
}

#[test]
fn many_usages_are_priced_line_by_line() {
    let home = home(POLICY);
    let lines = "{\"model\":\"house-small\",\"usage\":{\"input_tokens\":1000000}}\n\n\
        {\"model\":\"gpt-5\",\"tier\":\"batch\",\"usage\":{\"output_tokens\":1000000}}\n";
    let (code, out, _) = weir(home.path(), &["cost", "--jsonl"], lines);
    let costs: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["cost_usd"].clone())
        .collect();
    // A million is beyond the 272,000 from which gpt-5.4 takes 5 USD; a batch halves 10 USD.
    assert_eq!((code, costs), (Some(0), vec![json!("5"), json!("5")]));
    for (line, words) in [
        ("{\"model\":1}", "line 2"),
        ("{\"model\":\"a\",\"usage\":{}}", "line 2: this is no `usage`"),
    ] {
        let (code, out, err) = weir(home.path(), &["cost", "--jsonl"], &format!("\n{line}\n"));
        assert!(code == Some(1) && out.is_empty() && err.contains(words), "{err}");
    }
}

fn ask(gateway: &Gateway, path: &str) -> Response {
    get(gateway.control(), path).unwrap()
}

#[test]
fn the_api_pages_through_every_model_once() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).policy(POLICY).start();
    for order in ["asc", "desc"] {
        let (mut ids, mut after) = (Vec::new(), String::new());
        loop {
            let page = ask(&gateway, &format!("/api/models?limit=50&order={order}{after}")).json();
            assert_eq!(page["object"], "list");
            let data = page["data"].as_array().unwrap();
            ids.extend(data.iter().map(|model| model["id"].as_str().unwrap().to_owned()));
            assert_eq!(page["first_id"], data[0]["id"]);
            assert_eq!(page["last_id"], data[data.len() - 1]["id"]);
            if page["has_more"] == false {
                break;
            }
            assert_eq!(data.len(), 50);
            let last = page["last_id"].as_str().unwrap();
            after = format!("&after={}", last.replace('/', "%2F").replace(':', "%3A"));
        }
        assert_eq!(ids.len(), 179);
        assert!(ids.is_sorted_by(|one, next| if order == "asc" { one < next } else { one > next }));
    }
    assert_eq!(ask(&gateway, "/api/models").json()["data"].as_array().unwrap().len(), 100);
    let end = ask(&gateway, "/api/models?after=zzz").json();
    assert_eq!(
        (&end["data"], &end["last_id"], &end["has_more"]),
        (&json!([]), &Value::Null, &json!(false))
    );
}

#[test]
fn a_parameter_that_cannot_be_used_is_named() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    for (query, param) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("before=a", "before"),
    ] {
        let answer = ask(&gateway, &format!("/api/models?{query}"));
        answer.assert_error(400, "invalid_request_error", "invalid_parameter");
        assert_eq!(answer.json()["error"]["param"], param, "{query}");
    }
}

#[test]
fn a_model_is_the_same_in_the_api_and_on_the_command_line() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).policy(POLICY).start();
    let home = home(POLICY);
    for (model, path) in [
        ("gpt-5", "gpt-5"),
        ("house-small", "house-small"),
        ("acme/llama:8b", "acme%2Fllama%3A8b"),
        ("ft:gpt-4.1-mini-2025-04-14:acme::x", "ft:gpt-4.1-mini-2025-04-14:acme::x"),
    ] {
        let answer = ask(&gateway, &format!("/api/models/{path}"));
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        let shown = report(&home, &["models", "show", model], "");
        // Midnight may fall between the two.
        let timeless = |mut view: Value| {
            view["days_to_shutdown"].take();
            view
        };
        assert_eq!(timeless(answer.json()), timeless(shown), "{model}");
    }
    let listed = ask(&gateway, "/api/models?limit=1").json();
    assert_eq!(listed["data"][0], ask(&gateway, "/api/models/acme%2Fllama%3A8b").json());
}

#[test]
fn an_unknown_model_is_not_found_and_the_routes_are_described() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let answer = ask(&gateway, "/api/models/gpt-6-lunna");
    answer.assert_error(404, "invalid_request_error", "model_not_found");
    assert!(answer.text().contains("Did you mean gpt-6-luna"), "{}", answer.text());
    let broken = ask(&gateway, "/api/models/%FF");
    broken.assert_error(400, "invalid_request_error", "invalid_parameter");
    let described = ask(&gateway, "/openapi.json").json();
    for path in ["/api/models", "/api/models/{model}"] {
        assert!(described["paths"][path]["get"].is_object(), "{path}");
    }
}
