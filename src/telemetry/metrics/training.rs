//! Datasets and fine-tune jobs, as the store has them.

use prometheus::IntCounter;
use prometheus::IntGaugeVec;

use crate::telemetry::shelf::Shelf;
use crate::telemetry::shelf::counter;
use crate::telemetry::shelf::gauges;

use super::Metrics;

/// What becomes of a fine-tune job, in the order in which it comes.
pub const TRAINING_STATUSES: [&str; 12] = [
    "awaiting_approval",
    "pending",
    "uploading",
    "submitting",
    "submit_unknown",
    "validating_files",
    "queued",
    "running",
    "paused",
    "succeeded",
    "failed",
    "cancelled",
];

/// What a dataset may be.
pub const DATASET_STATUSES: [&str; 4] = ["building", "ready", "failed", "archived"];

pub(super) struct Training {
    jobs: IntGaugeVec,
    oldest: IntGaugeVec,
    datasets: IntGaugeVec,
    unknown_status: IntCounter,
}

impl Training {
    pub(super) fn new(shelf: &mut Shelf) -> prometheus::Result<Self> {
        let training = Self {
            jobs: gauges(
                shelf,
                "weir_training_jobs",
                "Fine-tune jobs in the store by status",
                &["status"],
            )?,
            oldest: gauges(
                shelf,
                "weir_training_oldest_job_seconds",
                "How long the oldest fine-tune job of a status has been in it; 0 without one",
                &["status"],
            )?,
            datasets: gauges(
                shelf,
                "weir_datasets",
                "Datasets in the store by status",
                &["status"],
            )?,
            unknown_status: counter(
                shelf,
                "weir_training_unknown_status_total",
                "Looks at fine-tune jobs whose trainer told a status that nobody knows",
            )?,
        };
        // The statuses are known: an alert needs the 0 before the first job.
        for status in TRAINING_STATUSES {
            training.jobs.with_label_values(&[status]);
            training.oldest.with_label_values(&[status]);
        }
        for status in DATASET_STATUSES {
            training.datasets.with_label_values(&[status]);
        }
        Ok(training)
    }
}

impl Metrics {
    /// Sets how many fine-tune jobs there are by status, and for how many seconds the oldest of
    /// them has been in it.
    pub fn training_jobs(&self, jobs: &[(String, i64, i64)]) {
        for status in TRAINING_STATUSES {
            let found = jobs.iter().find(|(known, ..)| known == status);
            let (count, age) = found.map_or((0, 0), |(_, count, age)| (*count, *age));
            self.training.jobs.with_label_values(&[status]).set(count);
            self.training.oldest.with_label_values(&[status]).set(age);
        }
    }

    /// Sets how many datasets there are, by status.
    pub fn datasets(&self, counts: &[(String, i64)]) {
        for status in DATASET_STATUSES {
            let found = counts.iter().find(|(known, _)| known == status);
            let count = found.map_or(0, |(_, count)| *count);
            self.training.datasets.with_label_values(&[status]).set(count);
        }
    }

    /// Counts a look at a fine-tune job whose trainer says something new.
    pub fn unknown_training_status(&self) {
        self.training.unknown_status.inc();
    }
}
