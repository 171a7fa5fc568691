//! One pool at work: operations in, in batches, each batch one transaction; whoever waits for an agent's message or for any change is woken.
//!
//! A batch locks the pool's row, takes what other controllers stored since, lets `pool-core` do the operations and decide, and stores what they touched. Answers go out
//! after the commit. When the database fails, nobody is told that anything happened, and everything is loaded anew.

use crate::statistics::{Counts, Statistics};
use crate::store::{Kind, Store, StoreError, Transaction};
use pool_core::Millis;
use pool_core::agent::AgentId;
use pool_core::job::{JobId, JobState};
use pool_core::pool::{Doing, Head, Pool, Refusal};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Most operations in one transaction.
const BATCH: usize = 512;
/// How often deadlines are held.
const TICK: Duration = Duration::from_secs(1);
/// How often a shared database is asked what others did.
const LOOK: Duration = Duration::from_millis(150);
/// Operations that may wait for their batch; more wait at the door.
const QUEUE: usize = 4096;

/// What an operation needs of the database before it may run.
#[derive(Debug)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// A one-time token of this hash, which it uses up.
    Token(String),
    /// That the same was not submitted before under this key.
    Key {
        /// Whose key.
        actor: String,
        /// The key.
        key: String,
        /// Hash of the request.
        request: String,
    },
}

/// What an operation wants stored besides what it touched.
#[derive(Debug, Default)]
pub struct After {
    /// Hash of a new agent's key.
    pub agent_key: Option<(AgentId, String)>,
    /// The job of an idempotency key.
    pub job: Option<JobId>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum EngineError {
    /// The operation was refused.
    Refused(Refusal),
    /// The one-time token is unknown or used up.
    Token,
    /// The idempotency key stands for another request.
    KeyReused,
    /// It was submitted before: this is the job.
    Repeated(JobId),
    /// The database does not do its part; nothing happened as far as anybody knows.
    Store(String),
    /// The controller is stopping.
    Stopping,
}

type Answer = Box<dyn std::any::Any + Send>;
type Run = Box<dyn FnOnce(&mut Pool, Millis) -> Result<(Answer, After), Refusal> + Send>;

type Reply = oneshot::Sender<Result<Answer, EngineError>>;

struct Command {
    /// When it arrived.
    at: Instant,
    before: Before,
    run: Run,
    answer: Reply,
}

/// A handle to one pool.
#[derive(Debug, Clone)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    changed: watch::Receiver<i64>,
    waiters: Arc<Waiters>,
    statistics: Arc<Statistics>,
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: Arc<str>,
}

#[derive(Debug, Default)]
struct Waiters(std::sync::Mutex<HashMap<AgentId, Arc<Notify>>>);

impl Waiters {
    fn of(&self, id: AgentId) -> Arc<Notify> {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(all.entry(id).or_default())
    }

    fn wake(&self, id: AgentId) {
        if let Some(waiter) = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&id) {
            waiter.notify_waiters();
        }
    }
}

impl Engine {
    /// Starts the pool's task.
    #[must_use]
    pub fn start(store: Arc<Store>, id: i64, name: &str) -> Self {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let (sender, changed) = watch::channel(0);
        let waiters = Arc::<Waiters>::default();
        let statistics = Arc::<Statistics>::default();
        let task = Task {
            store,
            id,
            pool: Pool::new(Head::default()),
            seen: 0,
            now: Millis(0),
            changed: sender,
            waiters: Arc::clone(&waiters),
            statistics: Arc::clone(&statistics),
        };
        tokio::spawn(task.run(receiver));
        Self { commands, changed, waiters, statistics, id, name: name.into() }
    }

    /// Does an operation that needs nothing of the database.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Pool, Millis) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, EngineError> {
        self.run_with(Before::Nothing, |pool, now| Ok((operation(pool, now)?, After::default()))).await
    }

    /// Looks at the pool as it is.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Pool, Millis) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        self.run(|pool, now| Ok(look(pool, now))).await
    }

    /// Does an operation.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn run_with<T: Send + 'static>(
        &self,
        before: Before,
        operation: impl FnOnce(&mut Pool, Millis) -> Result<(T, After), Refusal> + Send + 'static,
    ) -> Result<T, EngineError> {
        let (answer, answered) = oneshot::channel();
        let run: Run = Box::new(|pool, now| operation(pool, now).map(|(value, after)| (Box::new(value) as Answer, after)));
        self.commands.send(Command { at: Instant::now(), before, run, answer }).await.map_err(|_| EngineError::Stopping)?;
        let value = answered.await.map_err(|_| EngineError::Stopping)??;
        // The type is the one that was boxed above.
        value.downcast::<T>().map(|value| *value).map_err(|_| EngineError::Stopping)
    }

    /// Resolves when there may be something to tell an agent. Ask for it before looking, so that nothing falls between.
    #[must_use]
    pub fn waiter(&self, id: AgentId) -> Arc<Notify> {
        self.waiters.of(id)
    }

    /// The pool's revision, and a way to wait for the next.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.changed.clone()
    }

    /// For the metrics.
    #[must_use]
    pub fn statistics(&self) -> Counts {
        self.statistics.read()
    }

    /// Counts an agent that waits, until what is returned is dropped.
    #[must_use]
    pub fn waits(&self) -> Waits {
        self.statistics.change(|counts| counts.polls += 1);
        Waits(Arc::clone(&self.statistics))
    }
}

/// An agent that waits.
#[derive(Debug)]
pub struct Waits(Arc<Statistics>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.change(|counts| counts.polls = counts.polls.saturating_sub(1));
    }
}

struct Task {
    store: Arc<Store>,
    id: i64,
    pool: Pool,
    /// Up to which revision `pool` is right; 0: it knows nothing.
    seen: i64,
    now: Millis,
    changed: watch::Sender<i64>,
    waiters: Arc<Waiters>,
    statistics: Arc<Statistics>,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let ticked = tokio::select! {
                received = commands.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return;
                    }
                    false
                }
                _ = tick.tick() => true,
                _ = look.tick(), if self.store.kind() == Kind::Postgres => {
                    match self.store.revision(self.id).await {
                        Ok(revision) if revision > self.seen => false,
                        // A failure shows itself with the next transaction.
                        _ => continue,
                    }
                }
            };
            self.statistics.change(|counts| {
                counts.batches += 1;
                counts.operations += batch.len() as u64;
            });
            if let Err((e, answers)) = self.batch(&mut batch, ticked).await {
                tracing::error!(pool = self.id, error = %e, "a transaction failed");
                self.statistics.change(|counts| counts.failures += 1);
                // What is in memory may not be what is stored.
                self.pool = Pool::new(Head::default());
                self.seen = 0;
                for answer in answers {
                    let _ = answer.send(Err(EngineError::Store(e.to_string())));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// One transaction. Answers that could not be given come back with the error.
    async fn batch(&mut self, batch: &mut Vec<Command>, ticked: bool) -> Result<(), (StoreError, Vec<Reply>)> {
        let mut answers = Vec::with_capacity(batch.len());
        match self.transact(batch, ticked, &mut answers).await {
            Ok(()) => {
                for (answer, result) in answers {
                    let _ = answer.send(result);
                }
                Ok(())
            }
            Err(e) => {
                let unanswered =
                    answers.into_iter().map(|(answer, _)| answer).chain(batch.drain(..).map(|command| command.answer));
                Err((e, unanswered.collect()))
            }
        }
    }

    async fn transact(
        &mut self,
        batch: &mut Vec<Command>,
        ticked: bool,
        answers: &mut Vec<(Reply, Result<Answer, EngineError>)>,
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        let arrived = batch.iter().map(|command| command.at).min().unwrap_or(began);
        let mut tx = self.store.begin(self.id).await?;
        // A clock that is set back does not set anything else back.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
        self.now = self.now.max(Millis(now));
        let now = self.now;
        let mut woken = Vec::new();
        if tx.revision != self.seen {
            self.refresh(&mut tx, &mut woken).await?;
        }
        if ticked {
            self.pool.tick(now);
        }
        let mut keys = Vec::new();
        let mut used = false;
        // Taken one by one: what an error interrupts is still in the batch, with its answer.
        batch.reverse();
        while let Some(command) = batch.pop() {
            let Command { at: _, before, run, answer } = command;
            let result = match before_runs(&mut tx, &before, now).await {
                Err(e) => {
                    answers.push((answer, Err(EngineError::Stopping)));
                    return Err(e);
                }
                Ok(Err(refused)) => Err(refused),
                Ok(Ok(())) => match run(&mut self.pool, now) {
                    // A one-time token is used up by whoever presents it: the name that it was refused for is to be told, not tried again at will.
                    Err(refusal) => Err(EngineError::Refused(refusal)),
                    Ok((value, after)) => {
                        keys.extend(after.agent_key);
                        if let (Before::Key { actor, key, request }, Some(job)) = (&before, after.job) {
                            let stored = tx.put_submission(actor, key, request, job, now).await;
                            if let Err(e) = stored {
                                answers.push((answer, Err(EngineError::Stopping)));
                                return Err(e);
                            }
                        }
                        Ok(value)
                    }
                },
            };
            used |= matches!(before, Before::Token(_));
            answers.push((answer, result));
        }
        let deciding = Instant::now();
        // A decision to update somebody is reckoned with in another pass.
        for _ in 0..3 {
            self.pool.schedule(now);
        }
        let decided = deciding.elapsed();
        let touched = self.pool.take_touched();
        if touched.is_empty() && keys.is_empty() && !used {
            tx.rollback().await?;
        } else {
            tx.put(&touched, &keys).await?;
            let revision = tx.revision;
            tx.commit().await?;
            self.seen = revision;
        }
        let given = touched.jobs.iter().filter(|job| matches!(job.state, JobState::Assigned { at, .. } if at == now)).count();
        self.statistics.change(|counts| {
            counts.decisions.add(decided, 1);
            counts.transactions.add(began.elapsed(), 1);
            if given > 0 {
                counts.dispatches.add(arrived.elapsed(), given as u64);
            }
        });
        woken.extend(touched.agents.iter().map(|agent| agent.id));
        woken.extend(&touched.removed);
        for id in woken {
            if self.pool.agent(id).is_none() || self.pool.message(id, Doing::Idle).is_some() {
                self.waiters.wake(id);
            }
        }
        self.changed.send_if_modified(|revision| core::mem::replace(revision, self.seen) != self.seen);
        Ok(())
    }

    async fn refresh(&mut self, tx: &mut Transaction, woken: &mut Vec<AgentId>) -> Result<(), StoreError> {
        let changes = tx.changes(self.seen).await?;
        if let Some(head) = changes.head {
            self.pool.load_head(head);
        }
        for agent in changes.agents {
            woken.push(agent.id);
            self.pool.load_agent(agent);
        }
        for id in changes.removed {
            woken.push(id);
            self.pool.unload_agent(id);
        }
        for job in changes.jobs {
            self.pool.load_job(job);
        }
        self.seen = tx.revision;
        Ok(())
    }
}

/// Whether an operation may run.
async fn before_runs(tx: &mut Transaction, before: &Before, now: Millis) -> Result<Result<(), EngineError>, StoreError> {
    Ok(match before {
        Before::Nothing => Ok(()),
        Before::Token(hash) => tx.use_token(hash, now).await?.then_some(()).ok_or(EngineError::Token),
        Before::Key { actor, key, request } => match tx.submission(actor, key).await? {
            None => Ok(()),
            Some((stored, job)) if stored == *request => Err(EngineError::Repeated(job)),
            Some(_) => Err(EngineError::KeyReused),
        },
    })
}
