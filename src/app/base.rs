//! What every gateway stands on, that of `weir serve` and that of a single command.

use std::sync::Arc;
use std::time::Duration;

use crate::cli;
use crate::config::Auth;
use crate::config::Config;
use crate::config::Environment;
use crate::limits::Courier;
use crate::limits::Keeper;
use crate::limits::Limits;
use crate::policy;
use crate::policy::Policy;
use crate::policy::PolicyHandle;
use crate::proxy::Access;
use crate::proxy::Gateway;
use crate::proxy::LiveStats;
use crate::proxy::today;
use crate::store;
use crate::store::Database;
use crate::store::Fingerprinter;
use crate::store::KeyRing;
use crate::store::LimitCounters;
use crate::store::Recorder;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Upstreams;

use super::AppError;

/// Longest wait for the keys at the start.
const KEYS_FIRST: Duration = Duration::from_secs(3);
/// Longest wait at the start for what was used of limits before.
pub(super) const RESTORE: Duration = Duration::from_secs(5);

/// Settings, policy and what they lead to.
pub(super) struct Base {
    pub(super) config: Config,
    pub(super) environment: Environment,
    pub(super) policy_settings: policy::Settings,
    pub(super) policy: Arc<PolicyHandle>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) live: Arc<LiveStats>,
    /// None where the store is off.
    pub(super) database: Option<Database>,
    pub(super) recorder: Option<Arc<Recorder>>,
    pub(super) limits: Arc<Limits>,
    /// Who talks to Redis, where limits are shared.
    pub(super) courier: Option<Courier>,
}

impl Base {
    /// Loads the policy and starts what records calls.
    pub(super) fn lay(
        config: Config,
        environment: Environment,
        mut policy_settings: policy::Settings,
    ) -> Result<Self, AppError> {
        policy_settings.today = Some(today());
        let policy = Policy::load(&config.policies, &policy_settings)?;
        let metrics = Arc::new(Metrics::new()?);
        let upstreams = Arc::new(Upstreams::new(&policy)?);
        let database = config.open_store(&environment)?;
        let recorder = start_recorder(&config, &environment, database.as_ref(), &metrics)?;
        let (limits, courier) = limits(&config, &metrics)?;
        Ok(Self {
            config,
            environment,
            policy_settings,
            policy: Arc::new(PolicyHandle::new(policy)),
            metrics,
            upstreams,
            live: Arc::default(),
            database,
            recorder,
            limits,
            courier,
        })
    }

    /// A gateway on it.
    pub(super) fn gateway(&self, access: Access) -> Gateway {
        Gateway::new(
            Arc::clone(&self.policy),
            Arc::clone(&self.upstreams),
            Arc::clone(&self.metrics),
            Arc::clone(&self.live),
            self.recorder.clone(),
            access,
            self.config.limits.body.0,
        )
    }

    /// Who gets in. Where nobody does without a virtual key, the keys are read before the start;
    /// when the store is away then, callers are told so until it is back.
    pub(super) fn access(&self) -> Result<Access, AppError> {
        let secret = self.environment.user_secret();
        let spool = self.database.as_ref().map(|_| self.config.spool.dir.as_path());
        let requires_key = self.config.auth == Auth::Keys;
        let keys = self.database.as_ref().map(|_| Arc::new(KeyRing::default()));
        if let (true, Some(keys), Some(database)) = (requires_key, &keys, &self.database) {
            let loading = async { tokio::time::timeout(KEYS_FIRST, keys.load(database)).await };
            let loaded = cli::wait_for(loading)?;
            if !matches!(loaded, Ok(Ok(()))) {
                tracing::warn!(
                    "the store is away: no key is known yet, and callers get 503 until it is back"
                );
            }
        }
        let fingerprints = Fingerprinter::new(secret.as_ref(), spool);
        Ok(Access { requires_key, keys, fingerprints, limits: Arc::clone(&self.limits) })
    }

    /// Counters of limits that outlive the process: those of before are read now, as far as the
    /// store answers soon.
    pub(super) fn keep_limits(&self) -> Result<Keeper, AppError> {
        let mut keeper = self.keeper();
        if !self.policy.current().limits().is_empty() {
            cli::wait_for(async {
                if tokio::time::timeout(RESTORE, keeper.restore()).await.is_err() {
                    tracing::warn!(
                        "the store does not answer; what was used of limits comes later"
                    );
                }
            })?;
        }
        Ok(keeper)
    }

    /// Who writes counters of limits down.
    pub(super) fn keeper(&self) -> Keeper {
        let store = self.database.clone().map(LimitCounters::of);
        let (limits, policy) = (Arc::clone(&self.limits), Arc::clone(&self.policy));
        Keeper::new(limits, policy, Arc::clone(&self.metrics), store)
    }
}

fn start_recorder(
    config: &Config,
    environment: &Environment,
    database: Option<&Database>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Recorder>>, AppError> {
    let Some(database) = database else {
        tracing::warn!("`store` is off: no call is recorded, and there is no spend to read");
        return Ok(None);
    };
    let settings = store::Settings {
        database: database.clone(),
        spool: config.spool.dir.clone(),
        max_bytes: config.spool.max_bytes.0,
        user_secret: environment.user_secret(),
    };
    let recorder = Recorder::start(settings, metrics)
        .map_err(|error| AppError::Other(format!("the spool's threads cannot start: {error}")))?;
    Ok(Some(Arc::new(recorder)))
}

/// The limits' counters; shared, and then with who talks to Redis, where there is one.
fn limits(
    config: &Config,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<Limits>, Option<Courier>), AppError> {
    let Some(redis) = config.redis()? else { return Ok((Arc::default(), None)) };
    let limits = Arc::new(Limits::shared());
    let courier = Courier::new(&limits, redis, Arc::clone(metrics));
    Ok((limits, courier))
}
