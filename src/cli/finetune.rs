//! `weir finetune`: makes, shows, cancels and promotes fine-tune jobs, in the store; a running
//! gateway moves them on.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Subcommand;
use serde_json::Value;
use serde_json::json;
use uuid::Uuid;

use crate::app::AppError;
use crate::metering::catalogue::Catalogue;
use crate::store::AliasRow;
use crate::store::Aliases;
use crate::store::Database;
use crate::store::Datasets;
use crate::store::JobQuery;
use crate::store::TrainingJob;
use crate::store::TrainingQueue;
use crate::training::order;
use crate::training::order::Order;
use crate::training::order::Refusal;
use crate::training::promotion;
use crate::training::promotion::Promotion;
use crate::training::promotion::Terms;
use crate::training::show;
use crate::training::suggest;
use crate::training::suggest::Group;
use crate::training::suggest::Wanted;
use crate::training::trainer::Place;

use super::migrate::store as open_store;
use super::migrate::wait_for;
use super::policy::fail;
use super::policy::print;
use super::spend::text;

/// What is done with fine-tune jobs.
#[derive(Debug, clap::Args)]
pub(super) struct Finetune {
    #[command(subcommand)]
    action: Action,
    /// Settings; without it ./weir.yaml where there is one.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Puts a job in line.
    Create(Create),
    /// Shows one job, or the last ones.
    Status {
        /// The job's id.
        job: Option<Uuid>,
        /// How many.
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
    /// Lists groups of traffic that may pay for a model of their own: what training would cost, what
    /// it would save a day, and when that is even.
    Suggest {
        /// The base.
        #[arg(long, default_value = "gpt-4.1-mini")]
        model: String,
        /// From when: a time, or a duration before now.
        #[arg(long, default_value = "30d")]
        since: String,
        /// Fewest different pairs of a group.
        #[arg(long, default_value_t = 50)]
        min_pairs: u64,
        /// Most pairs that are trained on.
        #[arg(long, default_value_t = 1000)]
        max_pairs: u64,
    },
    /// Leads a share of an alias's calls to the model that a job has trained; running gateways do
    /// so within 2 s.
    Promote {
        /// The job's id.
        job: Uuid,
        /// What clients ask for as `model`.
        #[arg(long)]
        alias: String,
        /// The first share; 100 takes over at once.
        #[arg(long, default_value_t = 5.0)]
        percent: f64,
    },
    /// Cancels a job, also at the trainer.
    Cancel {
        /// The job's id.
        job: Uuid,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// An id, a name (its last version), or a version such as support@3.
    dataset: String,
    /// The base.
    #[arg(long)]
    model: String,
    /// supervised or dpo; the dataset's when left out.
    #[arg(long)]
    method: Option<String>,
    /// As JSON, such as {"n_epochs": 3}.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    hyperparameters: String,
    /// A part of the tuned model's name.
    #[arg(long)]
    suffix: Option<String>,
    /// For the same result twice.
    #[arg(long)]
    seed: Option<i64>,
    /// Above it somebody has to approve.
    #[arg(long, value_name = "USD")]
    max_cost_usd: Option<String>,
    /// The same key is the same job; a new one each time when left out.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Only says what it would cost.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(arguments: &Finetune, json: bool) -> Result<(), AppError> {
    let (config, database) = open_store(arguments.config.as_deref())?;
    // The gateway that moves it on has the key.
    let trainer = Place { has_key: true, ..config.trainer_place(None)? };
    wait_for(async {
        let datasets = Datasets::open(&database).await?;
        let queue = TrainingQueue::of(&database)?;
        match &arguments.action {
            Action::Create(asked) => create(&datasets, &queue, &trainer, asked, json).await,
            Action::Status { job: Some(id), .. } => tell(&found(&queue, *id).await?, json),
            Action::Status { job: None, limit } => list(&queue, *limit, json).await,
            Action::Suggest { model, since, min_pairs, max_pairs } => {
                let wanted = Wanted {
                    model,
                    since,
                    min_pairs: *min_pairs,
                    max_pairs: *max_pairs,
                    trainer: trainer.profile,
                };
                let groups = suggest::suggest(&datasets, &wanted, &Catalogue::builtin()).await;
                tell_groups(&groups.map_err(|error| fail(error.to_string()))?, &wanted, json)
            }
            Action::Promote { job, alias, percent } => {
                let job = found(&queue, *job).await?;
                let body = json!({ "alias": alias, "percent": percent });
                let row = promote(&database, &datasets, &job, &body).await.map_err(told)?;
                tell_alias(&row, json)
            }
            Action::Cancel { job } => {
                let mut job = found(&queue, *job).await?;
                order::wish(&queue, &mut job, "cancel").await.map_err(told)?;
                tell(&found(&queue, job.job_id).await?, json)
            }
        }
    })?
}

async fn create(
    datasets: &Datasets,
    queue: &TrainingQueue,
    trainer: &Place,
    asked: &Create,
    json: bool,
) -> Result<(), AppError> {
    let hyperparameters: Value = serde_json::from_str(&asked.hyperparameters)
        .map_err(|error| fail(format!("--hyperparameters: {error}")))?;
    let body = json!({
        "dataset_id": asked.dataset, "model": asked.model, "method": asked.method,
        "hyperparameters": hyperparameters, "suffix": asked.suffix, "seed": asked.seed,
        "max_cost_usd": asked.max_cost_usd, "dry_run": asked.dry_run,
    });
    let parsed = Order::parse(body.to_string().as_bytes());
    let (wanted, hash) = parsed.map_err(|error| told(error.into()))?;
    let key = asked.idempotency_key.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
    let job = if asked.dry_run {
        order::plan(datasets, queue, trainer, &wanted, (&key, &hash)).await
    } else {
        order::place(datasets, queue, trainer, &wanted, (&key, &hash)).await.map(|(job, _)| job)
    };
    tell(&job.map_err(told)?, json)
}

fn tell_groups(groups: &[Group], wanted: &Wanted<'_>, json: bool) -> Result<(), AppError> {
    if json {
        return print(&format!("{}\n", text(&json!({ "object": "list", "data": groups }))?));
    }
    if groups.is_empty() {
        let Wanted { since, min_pairs, .. } = wanted;
        return print(&format!(
            "No group of calls since {since} has {min_pairs} different pairs that are fit for training.\n"
        ));
    }
    let or = |known: &Option<String>, none: &str| known.clone().unwrap_or_else(|| none.to_owned());
    let told = groups.iter().map(|group| {
        format!(
            "{}  {}  {} pairs, {} calls a day\n  training {} USD, saves {} USD a day, even {}\n  {}\n",
            group.route,
            group.models.join(", "),
            group.pairs,
            group.calls_per_day,
            or(&group.training_usd, "unknown"),
            or(&group.saves_usd_per_day, "unknown"),
            or(&group.even_on, "never"),
            group.system
        )
    });
    print(&told.collect::<String>())
}

async fn promote(
    database: &Database,
    datasets: &Datasets,
    job: &TrainingJob,
    body: &Value,
) -> Result<AliasRow, Refusal> {
    let terms = Terms::parse(body.to_string().as_bytes())?;
    let arm = promotion::arm_of(job, promotion::pruned_by(datasets, job.dataset_id).await?)?;
    let now = chrono::DateTime::<chrono::Utc>::from(SystemTime::now()).timestamp_millis();
    let today = now / 86_400_000;
    let asked = Promotion::of(terms, arm, &job.model, &Catalogue::builtin(), today)?;
    promotion::begin(&Aliases::of(database)?, &asked, now).await
}

fn tell_alias(row: &AliasRow, json: bool) -> Result<(), AppError> {
    if json {
        return print(&format!("{}\n", text(&promotion::show::alias(row))?));
    }
    let said = match &row.canary {
        Some(canary) => format!(
            "{}: {} % of the calls go to {}, the others to {}\n",
            row.name, canary.percent, canary.arm.model, row.serving.model
        ),
        None => format!("{}: all calls go to {}\n", row.name, row.serving.model),
    };
    print(&said)
}

async fn list(queue: &TrainingQueue, limit: u32, json: bool) -> Result<(), AppError> {
    let jobs = queue.list(&JobQuery { limit, ..JobQuery::default() }).await?;
    if json {
        let data: Vec<Value> = jobs.iter().map(show::job).collect();
        return print(&format!("{}\n", text(&json!({ "object": "list", "data": data }))?));
    }
    print(&jobs.iter().map(line).collect::<String>())
}

async fn found(queue: &TrainingQueue, id: Uuid) -> Result<TrainingJob, AppError> {
    let job = queue.find(id).await?;
    job.ok_or_else(|| fail(format!("there is no fine-tune job `{id}`")))
}

fn tell(job: &TrainingJob, json: bool) -> Result<(), AppError> {
    let shown = show::job(job);
    if json {
        return print(&format!("{}\n", text(&shown)?));
    }
    let log = job.completion_log.lines().map(|line| format!("  {line}\n")).collect::<String>();
    print(&format!("{}{log}", line(job)))
}

/// One job in one line.
fn line(job: &TrainingJob) -> String {
    let shown = show::job(job);
    let text = |name: &str| shown.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let reason = job.status_reason.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
    format!(
        "{}  {}  {}  {}{reason}  estimate {} USD  {}\n",
        text("created_at"),
        job.job_id,
        job.model,
        job.status,
        text("cost_estimate"),
        text("fine_tuned_model")
    )
}

fn told(refusal: Refusal) -> AppError {
    match refusal {
        Refusal::Refused(error) => fail(error.message.to_string()),
        Refusal::Store(error) => error.into(),
    }
}
