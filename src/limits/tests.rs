use std::sync::Barrier;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use super::*;
use crate::policy::Policy;
use crate::policy::Settings;
use crate::policy::Sources;

/// 2099-11-23T13:21:09Z, a Monday. A permit that is dropped reads the real clock: for these counters it
/// has stepped back, which changes nothing.
const MONDAY_MS: u64 = 4_099_123_269_000;
const HOUR_MS: u64 = 3_600_000;

fn limits_of(yaml: &str) -> Vec<Arc<Limit>> {
    let sources = Sources::of([("a.yaml".to_owned(), yaml.to_owned())].into());
    Policy::check(&sources, &Settings::default()).policy.unwrap().limits().to_vec()
}

/// Claims of `subject` on every limit of this policy.
fn claims(yaml: &str, subject: &str) -> Vec<Claim> {
    let claim = |limit| Claim { limit, subject: subject.to_owned() };
    limits_of(yaml).into_iter().map(claim).collect()
}

fn at(seconds: u64) -> Now {
    Now { unix_ms: MONDAY_MS + seconds * 1_000, steady_ms: 3_600_000 + seconds * 1_000 }
}

fn usd(text: &str) -> Usd {
    text.parse().unwrap()
}

fn costs(text: &str) -> Demand {
    Demand { usd: usd(text), pays: true, ..Demand::default() }
}

fn tokens(tokens: u64) -> Demand {
    Demand { tokens, pays: true, ..Demand::default() }
}

fn spent(usd: Usd) -> Real {
    Real { counts: true, tokens: 0, usd }
}

const DOLLAR: &str = "limits: [{ name: l, budget: { usd: 1, every: day } }]";

#[test]
fn of_sixty_four_clients_who_want_a_cent_a_hundred_get_one_of_a_dollar() {
    let limits = Arc::new(Limits::default());
    let claims = claims(DOLLAR, "k");
    let (admitted, start) = (AtomicU64::new(0), Barrier::new(64));
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..20 {
                    if let Ok(mut permit) = limits.try_admit(&claims, &costs("0.01"), at(0)) {
                        admitted.fetch_add(1, Ordering::Relaxed);
                        permit.end(&spent(usd("0.01")), at(0));
                    }
                }
            });
        }
    });
    assert_eq!(admitted.into_inner(), 100);
    assert_eq!(limits.budget_left(&claims, at(0)), Some((Usd::ZERO, 1.0)));
}

#[test]
fn of_sixty_four_clients_each_limit_by_the_minute_lets_in_what_it_says() {
    // 10,000 / 7 = 1,428 whole ones.
    for (yaml, want, most) in [
        ("limits: [{ name: l, requests: 100/min }]", tokens(0), 100),
        ("limits: [{ name: l, tokens: 10000/min }]", tokens(7), 1_428),
    ] {
        let limits = Arc::new(Limits::default());
        let claims = claims(yaml, "k");
        let (admitted, start) = (AtomicU64::new(0), Barrier::new(64));
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..200 {
                        if let Ok(mut permit) = limits.try_admit(&claims, &want, at(0)) {
                            admitted.fetch_add(1, Ordering::Relaxed);
                            let tokens = want.tokens;
                            permit.end(&Real { counts: true, tokens, usd: Usd::ZERO }, at(1));
                        }
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), most, "{yaml}");
    }
}

#[test]
fn a_request_is_on_all_of_its_limits_or_on_none() {
    let limits = Arc::new(Limits::default());
    let yaml = "limits:\n  - { name: wide, requests: 5/min }\n  - { name: tight, requests: 1/min }";
    let claims = claims(yaml, "k");
    let _one = limits.try_admit(&claims, &tokens(0), at(0)).unwrap();
    for _ in 0..10 {
        assert_eq!(&*limits.try_admit(&claims, &tokens(0), at(0)).unwrap_err().limit, "tight");
    }
    let policy = limits_of(yaml);
    let remaining: Vec<_> =
        limits.states(&policy, at(0)).iter().map(|s| (s.limit.to_string(), s.remaining)).collect();
    assert_eq!(remaining, [("tight".to_owned(), 0), ("wide".to_owned(), 4)]);
}

#[test]
fn what_a_call_did_not_use_is_given_back_and_what_it_overran_counts() {
    let limits = Arc::new(Limits::default());
    let claims = claims(DOLLAR, "k");
    let left = || limits.budget_left(&claims, at(0)).unwrap().0.to_string();
    let mut permit = limits.try_admit(&claims, &costs("0.6"), at(0)).unwrap();
    assert_eq!(left(), "0.4");
    permit.end(&spent(usd("0.25")), at(0));
    assert_eq!(left(), "0.75");
    drop(limits.try_admit(&claims, &costs("0.75"), at(0)).unwrap());
    assert_eq!(left(), "0.75");
    // An answer that was longer than anybody expected: then nothing more passes.
    let mut permit = limits.try_admit(&claims, &costs("0.5"), at(0)).unwrap();
    permit.end(&spent(usd("0.9")), at(0));
    assert_eq!(left(), "0");
    assert!(limits.try_admit(&claims, &costs("0.000001"), at(0)).is_err());
    assert!(
        limits.try_admit(&claims, &costs("0"), at(0)).is_err(),
        "unpriced, and nothing is left"
    );
    let free = Demand { pays: false, ..costs("0") };
    assert!(limits.try_admit(&claims, &free, at(0)).is_ok(), "what costs nothing passes");
}

#[test]
fn calls_at_the_same_time_are_counted_while_they_run() {
    let limits = Arc::new(Limits::default());
    let claims = claims("limits: [{ name: l, concurrent: 2 }]", "k");
    let one = limits.try_admit(&claims, &tokens(0), at(0)).unwrap();
    let _two = limits.try_admit(&claims, &tokens(0), at(0)).unwrap();
    let refused = limits.try_admit(&claims, &tokens(0), at(0)).unwrap_err();
    assert_eq!((refused.kind, refused.most), (Some(Kind::Concurrent), 2));
    drop(one);
    assert!(limits.try_admit(&claims, &tokens(0), at(0)).is_ok());
}

#[test]
fn a_minute_is_any_sixty_seconds_and_retry_after_says_when_it_is_over() {
    let limits = Arc::new(Limits::default());
    let claims = claims("limits: [{ name: l, requests: 2/min }]", "k");
    let take = |seconds| {
        let permit = limits.try_admit(&claims, &tokens(0), at(seconds));
        permit.map(|mut permit| permit.end(&spent(Usd::ZERO), at(seconds)))
    };
    take(1).unwrap();
    take(58).unwrap();
    let refused = take(59).unwrap_err();
    // The first one's slot is from 0 to 5 s and leaves at 65 s, 6 s from now.
    assert_eq!(refused.retry_after, Some(Duration::from_secs(6)));
    // The second one's slot leaves at 120 s.
    let standing = refused.standing.unwrap();
    assert_eq!((standing.limit, standing.remaining), (2, 0));
    assert_eq!(standing.resets_in, Duration::from_secs(61));
    assert!(take(64).is_err());
    take(65).unwrap();
    assert!(take(66).is_err());
    take(125).unwrap();
}

#[test]
fn a_request_larger_than_the_limit_is_told_that_no_time_will_help() {
    let limits = Arc::new(Limits::default());
    let claims = claims("limits: [{ name: l, tokens: 1000/min }]", "k");
    let refused = limits.try_admit(&claims, &tokens(1_001), at(0)).unwrap_err();
    assert_eq!(
        (refused.kind, refused.wanted, refused.retry_after),
        (Some(Kind::Tokens), 1_001, None)
    );
    assert!(limits.try_admit(&claims, &tokens(1_000), at(0)).is_ok());
}

#[test]
fn a_budget_begins_again_with_its_window_in_utc() {
    let limits = Arc::new(Limits::default());
    let claims = claims(DOLLAR, "k");
    limits.try_admit(&claims, &costs("1"), at(0)).unwrap().end(&spent(usd("1")), at(0));
    let refused = limits.try_admit(&claims, &costs("0.01"), at(0)).unwrap_err();
    // From 13:21:09 to midnight there are 10 h 38 min 51 s.
    assert_eq!(refused.retry_after, Some(Duration::from_secs(38_331)));
    assert!(limits.try_admit(&claims, &costs("0.01"), at(38_330)).is_err());
    assert!(limits.try_admit(&claims, &costs("0.01"), at(38_331)).is_ok());
}

#[test]
fn a_clock_that_steps_back_an_hour_refills_nothing() {
    let yaml = "limits: [{ name: l, budget: { usd: 1, every: hour }, requests: 5/min }]";
    let limits = Arc::new(Limits::default());
    let claims = claims(yaml, "k");
    limits.try_admit(&claims, &costs("1"), at(0)).unwrap().end(&spent(usd("1")), at(0));
    let back = Now { unix_ms: at(0).unix_ms - HOUR_MS, ..at(1) };
    let refused = limits.try_admit(&claims, &costs("0.5"), back).unwrap_err();
    assert_eq!(refused.kind, Some(Kind::Budget));
    // It comes to the end of the window in which the money was spent a second time: not yet.
    let again = Now { unix_ms: at(2_330).unix_ms, ..at(5_930) };
    assert!(limits.try_admit(&claims, &costs("0.5"), again).is_err());
    let next = Now { unix_ms: at(2_331).unix_ms, ..at(5_931) };
    assert!(limits.try_admit(&claims, &costs("0.5"), next).is_ok());
    // By the minute nothing depends on that clock.
    assert_eq!(limits.states(&limits_of(yaml), next).first().map(|state| state.remaining), Some(5));
}

#[test]
fn a_change_of_the_policy_keeps_what_is_counted() {
    let limits = Arc::new(Limits::default());
    let before = claims(DOLLAR, "k");
    limits.try_admit(&before, &costs("0.9"), at(0)).unwrap().end(&spent(usd("0.9")), at(0));
    let less = DOLLAR.replace("usd: 1", "usd: 0.5");
    assert!(limits.try_admit(&claims(&less, "k"), &costs("0.01"), at(0)).is_err());
    let more = DOLLAR.replace("usd: 1", "usd: 2");
    let more = claims(&more, "k");
    assert_eq!(limits.budget_left(&more, at(0)).unwrap().0.to_string(), "1.1");
    // Another window is another counter.
    let hourly = claims(&DOLLAR.replace("day", "hour"), "k");
    assert_eq!(limits.budget_left(&hourly, at(0)).unwrap().0.to_string(), "1");
}

#[test]
fn a_restart_refills_nothing() {
    let yaml =
        "limits: [{ name: l, budget: { usd: 1, every: day }, requests: 3/min, concurrent: 2 }]";
    let before = Arc::new(Limits::default());
    let claimed = claims(yaml, "k");
    let _running = before.try_admit(&claimed, &costs("0.3"), at(0)).unwrap();
    before.try_admit(&claimed, &costs("0.5"), at(0)).unwrap().end(&spent(usd("0.4")), at(0));
    let kept = before.changed(at(1));
    assert_eq!(before.changed(at(1)), [], "only what has changed");
    let after = Arc::new(Limits::default());
    after.restore(kept, &limits_of(yaml), at(20));
    let remaining: Vec<_> =
        after.states(&limits_of(yaml), at(20)).iter().map(|s| (s.kind, s.remaining)).collect();
    // Two of three requests, no running call, and 0.7 of a dollar in 10^-12 USD.
    assert_eq!(
        remaining,
        [(Kind::Requests, 1), (Kind::Concurrent, 2), (Kind::Budget, 300_000_000_000)]
    );
    // Written at 1 s, the requests count until 61 s at the earliest.
    let requests = |seconds| {
        let states = after.states(&limits_of(yaml), at(seconds));
        states.first().map(|state| state.remaining)
    };
    assert_eq!((requests(60), requests(61)), (Some(1), Some(3)));
    // What this process writes is its own alone.
    after.try_admit(&claimed, &costs("0.1"), at(61)).unwrap().end(&spent(usd("0.1")), at(61));
    let used: Vec<_> = after.changed(at(61)).iter().map(|counter| counter.used).collect();
    assert_eq!(used, [1, 100_000_000_000]);
}

#[test]
fn somebody_is_told_once_at_four_fifths_and_once_at_the_end() {
    let limits = Arc::new(Limits::default());
    let claims = claims(DOLLAR, "k");
    let spend = |text: &str, seconds| {
        let permit = limits.try_admit(&claims, &costs(text), at(seconds));
        if let Ok(mut permit) = permit {
            permit.end(&spent(usd(text)), at(seconds));
        }
        let news = limits.take_news();
        news.iter().map(|news| (news.event, news.spent.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(spend("0.79", 0), []);
    assert_eq!(spend("0.01", 0), [("budget.threshold", "0.8".to_owned())]);
    assert_eq!(spend("0.01", 0), []);
    // Refused: it does not fit.
    assert_eq!(spend("0.2", 0), [("budget.exceeded", "0.81".to_owned())]);
    assert_eq!(spend("0.19", 0), []);
    // The next day.
    assert_eq!(spend("1", 40_000), [("budget.exceeded", "1".to_owned())]);
}

#[test]
fn a_spent_budget_names_the_model_to_go_to_and_lets_it_pass() {
    let yaml = "limits:
  - { name: l, budget: { usd: 1, every: day }, on_budget: { downgrade: gpt-4.1-mini }, requests: 3/min }
";
    let limits = Arc::new(Limits::default());
    let claims = claims(yaml, "k");
    limits.try_admit(&claims, &costs("1"), at(0)).unwrap().end(&spent(usd("1")), at(0));
    let refused = limits.try_admit(&claims, &costs("0.1"), at(0)).unwrap_err();
    assert_eq!(refused.downgrade.as_deref(), Some("gpt-4.1-mini"));
    let cheaper = Demand { downgraded: true, ..costs("0.001") };
    limits.try_admit(&claims, &cheaper, at(0)).unwrap().end(&spent(usd("0.001")), at(0));
    limits.try_admit(&claims, &cheaper, at(0)).unwrap().end(&spent(usd("0.001")), at(0));
    // Its other limits hold all the same.
    let refused = limits.try_admit(&claims, &cheaper, at(0)).unwrap_err();
    assert_eq!((refused.kind, refused.downgrade), (Some(Kind::Requests), None));
}

#[test]
fn idle_subjects_are_forgotten_and_money_is_not() {
    let yaml = "limits: [{ name: l, budget: { usd: 1, every: day }, requests: 5/min }]";
    let limits = Arc::new(Limits::default());
    for (subject, cost) in [("spender", "0.5"), ("free", "0")] {
        let claims = claims(yaml, subject);
        limits.try_admit(&claims, &costs(cost), at(0)).unwrap().end(&spent(usd(cost)), at(0));
    }
    let subjects = |seconds| {
        limits.sweep(at(seconds));
        limits.accounts.len()
    };
    assert_eq!(subjects(70), 2, "nothing is written down yet");
    limits.changed(at(70));
    assert_eq!(subjects(70), 1);
    assert_eq!(limits.budget_left(&claims(yaml, "spender"), at(80)).unwrap().0, usd("0.5"));
    // The next day.
    assert_eq!(subjects(40_000), 0);
}

#[test]
fn subjects_beyond_the_bound_share_a_counter() {
    let limits = Arc::new(Limits::default());
    let one = claims("limits: [{ name: l, requests: 1/min }]", "k").remove(0);
    limits.subjects.insert(Arc::clone(&one.limit.name), MOST_SUBJECTS);
    let named = |subject: &str| {
        let claim = Claim { subject: subject.to_owned(), ..one.clone() };
        limits.try_admit(&[claim], &tokens(0), at(0)).map(std::mem::forget)
    };
    assert!(named("a").is_ok());
    assert!(named("b").is_err());
    assert_eq!(limits.accounts.len(), 1);
}
