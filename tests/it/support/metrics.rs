//! Prometheus' text format, read back.

/// Every series of a scrape.
#[derive(Debug)]
pub(crate) struct Metrics(Vec<Series>);

#[derive(Debug)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self(lines.map(series).collect())
    }

    /// The sum of the series that carry these labels; 0 where there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |series: &Series, (name, value): &(&str, &str)| {
            series.labels.iter().any(|(n, v)| n == name && v == value)
        };
        self.0
            .iter()
            .filter(|series| series.name == name && labels.iter().all(|l| carries(series, l)))
            .map(|series| series.value)
            .sum()
    }
}

fn series(line: &str) -> Series {
    let (head, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = head.split_once('{').unwrap_or((head, ""));
    let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
    let labels = labels.map(|label| {
        let (name, value) = label.split_once("=\"").unwrap();
        (name.to_owned(), value.trim_end_matches('"').to_owned())
    });
    Series { name: name.to_owned(), labels: labels.collect(), value: value.parse().unwrap() }
}
