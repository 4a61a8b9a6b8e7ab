//! OpenMetrics text of what was gathered: the format that can carry exemplars, and that Prometheus
//! asks for. The other format's encoder is Prometheus' own.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use prometheus::proto::LabelPair;
use prometheus::proto::Metric;
use prometheus::proto::MetricFamily;
use prometheus::proto::MetricType;

use super::exemplars::Lasts;

/// What it is called on the wire.
pub(super) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Units that names end in.
const UNITS: [&str; 4] = ["seconds", "bytes", "ratio", "usd"];

/// Whether an `Accept` header wants it no less than the plain text format.
pub(super) fn is_wanted(accept: &str) -> bool {
    let weight = |kind: &str| {
        let of_kind = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts.next().filter(|name| name.eq_ignore_ascii_case(kind))?;
            let quality = parts.find_map(|part| part.strip_prefix("q="));
            Some(quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0)))
        });
        of_kind.fold(0.0, f64::max)
    };
    let ours = weight("application/openmetrics-text");
    ours > 0.0 && ours >= weight("text/plain")
}

/// The text of all families. `exemplars` knows those of a series, by its family and labels.
pub(super) fn encode(
    families: &[MetricFamily],
    exemplars: impl Fn(&str, &[LabelPair]) -> Option<Arc<Lasts>>,
) -> String {
    let mut text = Text::default();
    for family in families {
        let name = family.name();
        match family.get_field_type() {
            MetricType::COUNTER => text.counters(name, family),
            MetricType::GAUGE => text.gauges(name, family),
            MetricType::HISTOGRAM => text.histograms(name, family, &exemplars),
            // The gateway has no other.
            MetricType::SUMMARY | MetricType::UNTYPED => {}
        }
    }
    text.0.push_str("# EOF\n");
    text.0
}

/// The text so far. Writing to it cannot fail.
#[derive(Default)]
struct Text(String);

impl Text {
    /// A counter's family is called as its samples are, without `_total`; a counter that is called
    /// otherwise is not one that the format knows.
    fn counters(&mut self, name: &str, family: &MetricFamily) {
        match name.strip_suffix("_total") {
            Some(base) => self.head(base, "counter", family.help()),
            None => self.head(name, "unknown", family.help()),
        }
        for metric in family.get_metric() {
            self.series(name, "", metric, None);
            self.value(metric.get_counter().get_value());
            self.0.push('\n');
        }
    }

    fn gauges(&mut self, name: &str, family: &MetricFamily) {
        self.head(name, "gauge", family.help());
        for metric in family.get_metric() {
            self.series(name, "", metric, None);
            self.value(metric.get_gauge().get_value());
            self.0.push('\n');
        }
    }

    fn histograms(
        &mut self,
        name: &str,
        family: &MetricFamily,
        exemplars: impl Fn(&str, &[LabelPair]) -> Option<Arc<Lasts>>,
    ) {
        self.head(name, "histogram", family.help());
        for metric in family.get_metric() {
            let lasts = exemplars(name, metric.get_label());
            let histogram = metric.get_histogram();
            let buckets = histogram.get_bucket().iter();
            let buckets = buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
            let all = (f64::INFINITY, histogram.get_sample_count());
            for (number, (bound, count)) in buckets.chain([all]).enumerate() {
                self.series(name, "_bucket", metric, Some(bound));
                let _ = write!(self.0, "{count}");
                self.exemplar(lasts.as_deref(), number);
                self.0.push('\n');
            }
            self.series(name, "_count", metric, None);
            let _ = writeln!(self.0, "{}", histogram.get_sample_count());
            self.series(name, "_sum", metric, None);
            self.value(histogram.get_sample_sum());
            self.0.push('\n');
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        let unit = UNITS.iter().find(|unit| {
            name.strip_suffix(*unit).is_some_and(|rest| rest.ends_with('_') && kind != "unknown")
        });
        if let Some(unit) = unit {
            let _ = writeln!(self.0, "# UNIT {name} {unit}");
        }
        let _ = write!(self.0, "# HELP {name} ");
        self.escaped(help);
        self.0.push('\n');
    }

    /// The name and the labels of a sample, and the blank before its value.
    fn series(&mut self, name: &str, suffix: &str, metric: &Metric, bound: Option<f64>) {
        self.0.push_str(name);
        self.0.push_str(suffix);
        let mut separator = '{';
        for pair in metric.get_label() {
            self.0.push(separator);
            self.0.push_str(pair.name());
            self.0.push_str("=\"");
            self.escaped(pair.value());
            self.0.push('"');
            separator = ',';
        }
        if let Some(bound) = bound {
            self.0.push(separator);
            self.0.push_str("le=\"");
            self.value(bound);
            // A bound is a float, and is to look like one.
            if bound.is_finite() && bound.fract().abs() < f64::EPSILON {
                self.0.push_str(".0");
            }
            self.0.push('"');
            separator = ',';
        }
        self.0.push_str(if separator == ',' { "} " } else { " " });
    }

    fn exemplar(&mut self, lasts: Option<&Lasts>, bucket: usize) {
        let Some(last) = lasts.and_then(|lasts| lasts.of(bucket)) else { return };
        let at = last.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let _ = write!(self.0, " # {{trace_id=\"{}\"}} ", last.trace);
        self.value(last.value);
        let _ = write!(self.0, " {}.{:03}", at.as_secs(), at.subsec_millis());
    }

    fn value(&mut self, value: f64) {
        let _ = match value {
            f64::INFINITY => write!(self.0, "+Inf"),
            f64::NEG_INFINITY => write!(self.0, "-Inf"),
            value => write!(self.0, "{value}"),
        };
    }

    fn escaped(&mut self, text: &str) {
        for letter in text.chars() {
            match letter {
                '\\' => self.0.push_str("\\\\"),
                '\n' => self.0.push_str("\\n"),
                '"' => self.0.push_str("\\\""),
                letter => self.0.push(letter),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::exemplars::Exemplars;
    use crate::telemetry::traces::TraceId;
    use prometheus::Opts;
    use prometheus::Registry;
    use prometheus::core::Collector;

    #[test]
    fn who_asks_for_openmetrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                          version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let cases = [
            (prometheus, true),
            ("application/openmetrics-text", true),
            ("text/plain;version=0.0.4;q=0.6, application/openmetrics-text;q=0.5", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=soon", false),
            ("text/html, */*", false),
            ("", false),
        ];
        for (accept, wanted) in cases {
            assert_eq!(is_wanted(accept), wanted, "{accept}");
        }
    }

    fn register(registry: &Registry, one: &(impl Collector + Clone + 'static)) {
        registry.register(Box::new(one.clone())).unwrap();
    }

    #[test]
    fn every_kind_of_series_is_written_as_the_standard_wants_it() {
        let registry = Registry::new();
        let opts = Opts::new("calls_total", "Calls, \"all\"\nof them");
        let calls = prometheus::CounterVec::new(opts, &["model"]).unwrap();
        let odd = prometheus::Counter::new("odd_count_of", "x").unwrap();
        let left = prometheus::Gauge::new("left_usd", "Left").unwrap();
        let opts = prometheus::HistogramOpts::new("took_seconds", "Took").buckets(vec![0.5, 2.0]);
        let took = prometheus::HistogramVec::new(opts, &["op"]).unwrap();
        register(&registry, &calls);
        register(&registry, &odd);
        register(&registry, &left);
        register(&registry, &took);
        calls.with_label_values(&["a\\\"b"]).inc_by(2.5);
        left.set(-1.0);
        for seconds in [0.25, 0.75, 9.0] {
            took.with_label_values(&["chat"]).observe(seconds);
        }
        let lasts = Exemplars::new(&[0.5, 2.0], &["op"]);
        let at = |series: &Lasts, value| series.note(TraceId::from(0xabc), value);
        at(&lasts.with(&["chat"]), 0.75);
        at(&lasts.with(&["chat"]), 9.0);
        at(&lasts.with(&["other"]), 0.1);
        let text = encode(&registry.gather(), |family, labels| {
            lasts.of(labels).filter(|_| family == "took_seconds")
        });
        // Times of exemplars are left out.
        let lines = text.lines().map(|line| match line.split_once("} 0.75 ") {
            Some((before, _)) => format!("{before}}} 0.75"),
            None => {
                line.split_once("} 9 ").map_or(line.to_owned(), |(before, _)| before.to_owned())
            }
        });
        let lines: Vec<String> = lines.collect();
        let id = "00000000000000000000000000000abc";
        assert_eq!(
            lines,
            [
                "# TYPE calls counter",
                r#"# HELP calls Calls, \"all\"\nof them"#,
                r#"calls_total{model="a\\\"b"} 2.5"#,
                "# TYPE left_usd gauge",
                "# UNIT left_usd usd",
                "# HELP left_usd Left",
                "left_usd -1",
                "# TYPE odd_count_of unknown",
                "# HELP odd_count_of x",
                "odd_count_of 0",
                "# TYPE took_seconds histogram",
                "# UNIT took_seconds seconds",
                "# HELP took_seconds Took",
                r#"took_seconds_bucket{op="chat",le="0.5"} 1"#,
                &format!(
                    r##"took_seconds_bucket{{op="chat",le="2.0"}} 2 # {{trace_id="{id}"}} 0.75"##
                ),
                &format!(r##"took_seconds_bucket{{op="chat",le="+Inf"}} 3 # {{trace_id="{id}""##),
                r#"took_seconds_count{op="chat"} 3"#,
                r#"took_seconds_sum{op="chat"} 10"#,
                "# EOF",
            ]
        );
    }
}
