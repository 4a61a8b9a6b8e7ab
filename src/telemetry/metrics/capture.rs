//! Records of calls on their way to the store.

use prometheus::IntCounterVec;
use prometheus::IntGauge;

use crate::telemetry::shelf::Shelf;
use crate::telemetry::shelf::counters;
use crate::telemetry::shelf::gauge;

use super::Metrics;

/// What becomes of a record: it is appended to the spool, then stored, or there already. It is lost
/// when dropped for want of room, torn by a kill, corrupt, or in a file that cannot be read; what
/// the store refuses is set aside. In the store it is stripped to its bill once it has expired, or
/// was erased.
pub const CAPTURE_OUTCOMES: [&str; 11] = [
    "appended",
    "stored",
    "duplicate",
    "body_dropped",
    "dropped",
    "torn",
    "corrupt",
    "unreadable",
    "refused",
    "expired",
    "erased",
];

pub(super) struct Capture {
    records: IntCounterVec,
    spool_bytes: IntGauge,
    spool_limit: IntGauge,
}

impl Capture {
    pub(super) fn new(shelf: &mut Shelf) -> prometheus::Result<Self> {
        let records = counters(
            shelf,
            "weir_capture_records_total",
            "Records of calls on their way to the store, by what became of them",
            &["outcome"],
        )?;
        // An alert on losses needs the 0 before the first one.
        for outcome in CAPTURE_OUTCOMES {
            records.with_label_values(&[outcome]);
        }
        Ok(Self {
            records,
            spool_bytes: gauge(
                shelf,
                "weir_capture_spool_bytes",
                "Bytes of records that wait on disk for the store",
            )?,
            spool_limit: gauge(
                shelf,
                "weir_capture_spool_limit_bytes",
                "Bytes that the spool may hold, spool.max_bytes",
            )?,
        })
    }
}

impl Metrics {
    /// Counts records of calls by what became of them, one of [`CAPTURE_OUTCOMES`].
    pub fn capture_records(&self, outcome: &str, records: u64) {
        self.capture.records.with_label_values(&[outcome]).inc_by(records);
    }

    /// Bytes of records that wait on disk.
    pub fn spool_bytes(&self) -> &IntGauge {
        &self.capture.spool_bytes
    }

    /// Bytes that the spool may hold.
    pub fn spool_limit(&self) -> &IntGauge {
        &self.capture.spool_limit
    }
}
