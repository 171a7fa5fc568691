//! One pool at work: operations in, in batches, each batch one transaction; whoever waits for an agent's message is told, and for any change is woken.
//!
//! A batch locks the pool's row, takes what other controllers stored since, lets `pool-core` do the operations and decide, and stores what they touched. Answers go out
//! after the commit. When the database fails, nobody is told that anything happened, and everything is loaded anew. A database that is ours alone (SQLite) is asked
//! for nothing that is known, and locked only to store.

use crate::statistics::{Counts, Statistics};
use crate::store::{Kind, Store, StoreError, Submission, Transaction};
use pool_core::Millis;
use pool_core::agent::AgentId;
use pool_core::job::{JobId, JobState};
use pool_core::pool::{Doing, Head, Message, Pool, Refusal};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};

/// Most operations in one transaction.
const BATCH: usize = 512;
/// How often deadlines are held.
const TICK: Duration = Duration::from_secs(1);
/// How often a shared database is asked what others did.
const LOOK: Duration = Duration::from_millis(150);
/// Operations that may wait for their batch; more wait at the door.
const QUEUE: usize = 4096;
/// Most rows of a kind that are forgotten at once.
const FORGET: i64 = 500;
/// How often it is looked whether there is anything to forget.
const FORGET_EVERY: Duration = Duration::from_secs(60);

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
/// What an operation says when decisions have been made, and before anything is forgotten that has ended.
type Then = Box<dyn FnOnce(&Pool) -> Answer + Send>;
type Run = Box<dyn FnOnce(&mut Pool, Millis) -> Result<(Then, After), Refusal> + Send>;

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
    keys: Arc<Keys>,
    statistics: Arc<Statistics>,
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: Arc<str>,
}

/// What ends the wait of an agent.
#[derive(Debug)]
pub enum Woken {
    /// This is what it is told if it does nothing.
    Message(Message),
    /// It is not registered any more.
    Gone,
}

/// Who waits at this controller, and where the answer goes.
#[derive(Debug, Default)]
struct Waiters(Mutex<HashMap<AgentId, Vec<oneshot::Sender<Woken>>>>);

impl Waiters {
    fn all(&self) -> MutexGuard<'_, HashMap<AgentId, Vec<oneshot::Sender<Woken>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells an agent, if it waits and there is something to tell.
    fn wake(&self, pool: &Pool, id: AgentId) {
        let mut all = self.all();
        if !all.contains_key(&id) {
            return;
        }
        let message = pool.message(id, Doing::Idle);
        if message.is_none() && pool.agent(id).is_some() {
            return;
        }
        for waiter in all.remove(&id).into_iter().flatten() {
            let _ = waiter.send(message.clone().map_or(Woken::Gone, Woken::Message));
        }
    }
}

/// An agent that waits, until it is dropped.
#[derive(Debug)]
pub struct Wait {
    id: AgentId,
    woken: oneshot::Receiver<Woken>,
    waiters: Arc<Waiters>,
}

impl Wait {
    /// What ends the wait; never, if the pool stops.
    pub async fn woken(&mut self) -> Woken {
        match (&mut self.woken).await {
            Ok(woken) => woken,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.woken.close();
        let mut all = self.waiters.all();
        if let Some(waiters) = all.get_mut(&self.id) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                all.remove(&self.id);
            }
        }
    }
}

/// Hashes of the agents' keys, as of the last transaction.
#[derive(Debug, Default)]
struct Keys(RwLock<HashMap<AgentId, String>>);

impl Keys {
    fn change(&self, change: impl FnOnce(&mut HashMap<AgentId, String>)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Engine {
    /// Starts the pool's task.
    #[must_use]
    pub fn start(store: Arc<Store>, id: i64, name: &str) -> Self {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let (sender, changed) = watch::channel(0);
        let waiters = Arc::<Waiters>::default();
        let keys = Arc::<Keys>::default();
        let statistics = Arc::<Statistics>::default();
        let task = Task {
            store,
            id,
            pool: Pool::new(Head::default()),
            seen: 0,
            now: Millis(0),
            changed: sender,
            forgotten: None,
            waiters: Arc::clone(&waiters),
            keys: Arc::clone(&keys),
            statistics: Arc::clone(&statistics),
        };
        tokio::spawn(task.run(receiver));
        Self { commands, changed, waiters, keys, statistics, id, name: name.into() }
    }

    /// Does an operation that needs nothing of the database.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Pool, Millis) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, EngineError> {
        self.run_with(Before::Nothing, |pool, now| Ok((operation(pool, now)?, After::default())), |_, value| value).await
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

    /// Does an operation; `then` looks at what was decided after it.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn run_with<T: Send + 'static, U: Send + 'static>(
        &self,
        before: Before,
        operation: impl FnOnce(&mut Pool, Millis) -> Result<(T, After), Refusal> + Send + 'static,
        then: impl FnOnce(&Pool, T) -> U + Send + 'static,
    ) -> Result<U, EngineError> {
        let (answer, answered) = oneshot::channel();
        let run: Run = Box::new(|pool, now| {
            let (value, after) = operation(pool, now)?;
            Ok((Box::new(|pool: &Pool| Box::new(then(pool, value)) as Answer) as Then, after))
        });
        let command = Command { at: Instant::now(), before, run, answer };
        self.commands.send(command).await.map_err(|_| EngineError::Stopping)?;
        let value = answered.await.map_err(|_| EngineError::Stopping)??;
        // The type is the one that was boxed above.
        value.downcast::<U>().map(|value| *value).map_err(|_| EngineError::Stopping)
    }

    /// Begins to wait for something to tell an agent. Before it is looked whether there is, so that nothing falls between.
    #[must_use]
    pub fn wait(&self, id: AgentId) -> Wait {
        let (sender, woken) = oneshot::channel();
        self.waiters.all().entry(id).or_default().push(sender);
        Wait { id, woken, waiters: Arc::clone(&self.waiters) }
    }

    /// Whether this is the hash of an agent's key. If not, the database may know of an agent that has registered elsewhere just now. That an agent is gone shows
    /// itself with whatever it asks for.
    #[must_use]
    pub fn knows_key(&self, id: AgentId, hash: &str) -> bool {
        let keys = self.keys.0.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(&id).is_some_and(|known| known == hash)
    }

    /// The pool's revision, and a way to wait for the next.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.changed.clone()
    }

    /// For the metrics.
    #[must_use]
    pub fn statistics(&self) -> Counts {
        let polls = self.waiters.all().values().map(Vec::len).sum::<usize>() as u64;
        Counts { polls, ..self.statistics.read() }
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
    /// When everything that is old was last forgotten.
    forgotten: Option<Instant>,
    waiters: Arc<Waiters>,
    keys: Arc<Keys>,
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
                self.keys.change(HashMap::clear);
                for answer in answers {
                    let _ = answer.send(Err(EngineError::Store(e.to_string())));
                }
                tokio::time::sleep(LOOK).await;
            } else if ticked && self.forgotten.is_none_or(|at| at.elapsed() >= FORGET_EVERY) {
                self.forget().await;
            }
        }
    }

    /// Forgets what is older than the pool keeps it, a little at a time: what is left is the next second's.
    async fn forget(&mut self) {
        let settings = self.pool.head().settings;
        let before = |age: u64| Millis(self.now.0.saturating_sub(age));
        match self.store.forget(self.id, before(settings.keep_jobs), before(settings.keep_keys), FORGET).await {
            Ok(gone) if gone >= FORGET as u64 => self.forgotten = None,
            Ok(_) => self.forgotten = Some(Instant::now()),
            Err(e) => {
                tracing::warn!(pool = self.id, error = %e, "old jobs are not forgotten");
                self.forgotten = Some(Instant::now());
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
        let mut woken = Vec::new();
        let questions = Questions::of(batch);
        let asks = questions != Questions::default();
        let mut tx = None;
        // Nobody else writes into a file of ours: what we know is so.
        if self.store.kind() == Kind::Postgres || self.seen == 0 || asks {
            tx = Some(self.begin(&mut woken).await?);
        }
        // A clock that is set back does not set anything else back.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
        self.now = self.now.max(Millis(now));
        let now = self.now;
        if ticked {
            self.pool.tick(now);
        }
        let mut known = match &mut tx {
            Some(tx) if asks => Known::ask(tx, &questions, now).await?,
            _ => Known::default(),
        };
        let (mut done, mut keys) = (Vec::with_capacity(batch.len()), Vec::new());
        for Command { at: _, before, run, answer } in batch.drain(..) {
            let result = known.lets(&before).and_then(|()| run(&mut self.pool, now).map_err(EngineError::Refused));
            done.push((
                answer,
                result.map(|(then, after)| {
                    keys.extend(after.agent_key);
                    if let (Before::Key { actor, key, request }, Some(job)) = (before, after.job) {
                        known.submitted(Submission { actor, key, request, job });
                    }
                    then
                }),
            ));
        }
        let deciding = Instant::now();
        // A decision to update somebody is reckoned with in another pass.
        for _ in 0..3 {
            self.pool.schedule(now);
        }
        let decided = deciding.elapsed();
        answers.extend(done.into_iter().map(|(answer, result)| (answer, result.map(|then| then(&self.pool)))));
        let touched = self.pool.take_touched();
        if touched.is_empty() && keys.is_empty() && !known.used {
            if let Some(tx) = tx {
                tx.rollback().await?;
            }
        } else {
            let mut tx = match tx {
                Some(tx) => tx,
                None => {
                    let tx = self.store.begin(self.id).await?;
                    if tx.revision != self.seen {
                        return Err(StoreError::Unusable("somebody else has written into the database".into()));
                    }
                    tx
                }
            };
            tx.put(&touched, &keys, &known.new, now).await?;
            let revision = tx.revision;
            tx.commit().await?;
            self.seen = revision;
        }
        self.keys.change(|known| {
            known.extend(keys);
            touched.removed.iter().for_each(|id| drop(known.remove(id)));
        });
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
            self.waiters.wake(&self.pool, id);
        }
        self.changed.send_if_modified(|revision| core::mem::replace(revision, self.seen) != self.seen);
        Ok(())
    }

    /// Begins a transaction, and takes what others stored.
    async fn begin(&mut self, woken: &mut Vec<AgentId>) -> Result<Transaction, StoreError> {
        let mut tx = self.store.begin(self.id).await?;
        if tx.revision != self.seen {
            self.refresh(&mut tx, woken).await?;
        }
        Ok(tx)
    }

    async fn refresh(&mut self, tx: &mut Transaction, woken: &mut Vec<AgentId>) -> Result<(), StoreError> {
        let changes = tx.changes(self.seen).await?;
        if let Some(head) = changes.head {
            self.pool.load_head(head);
        }
        self.keys.change(|keys| {
            keys.extend(changes.agents.iter().map(|(agent, key)| (agent.id, key.clone())));
            changes.removed.iter().for_each(|id| drop(keys.remove(id)));
        });
        for (agent, _) in changes.agents {
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

/// What the operations of a batch ask the database.
#[derive(Default, PartialEq, Eq)]
struct Questions {
    tokens: Vec<[String; 1]>,
    keys: Vec<[String; 2]>,
}

impl Questions {
    fn of(batch: &[Command]) -> Self {
        let mut questions = Self::default();
        for command in batch {
            match &command.before {
                Before::Nothing => {}
                Before::Token(hash) => questions.tokens.push([hash.clone()]),
                Before::Key { actor, key, .. } => questions.keys.push([actor.clone(), key.clone()]),
            }
        }
        questions
    }
}

/// What it says.
#[derive(Default)]
struct Known {
    /// One-time tokens that were used up, and that nobody has had yet.
    tokens: HashSet<String>,
    /// By actor and key: hash of the request, and the job.
    submissions: HashMap<(String, String), (String, JobId)>,
    /// What is submitted in this batch.
    new: Vec<Submission>,
    /// Whether a token was used up. It is by whoever presents it: the name that it was refused for is to be told, not tried again at will.
    used: bool,
}

impl Known {
    async fn ask(tx: &mut Transaction, questions: &Questions, now: Millis) -> Result<Self, StoreError> {
        let mut known = Self::default();
        if !questions.tokens.is_empty() {
            known.tokens.extend(tx.use_tokens(&questions.tokens, now).await?);
            known.used = !known.tokens.is_empty();
        }
        if !questions.keys.is_empty() {
            let stored = tx.submissions(&questions.keys).await?;
            known.submissions.extend(stored.into_iter().map(|s| ((s.actor, s.key), (s.request, s.job))));
        }
        Ok(known)
    }

    /// Whether an operation may run.
    fn lets(&mut self, before: &Before) -> Result<(), EngineError> {
        match before {
            Before::Nothing => Ok(()),
            Before::Token(hash) => self.tokens.remove(hash).then_some(()).ok_or(EngineError::Token),
            Before::Key { actor, key, request } => match self.submissions.get(&(actor.clone(), key.clone())) {
                None => Ok(()),
                Some((stored, job)) if stored == request => Err(EngineError::Repeated(*job)),
                Some(_) => Err(EngineError::KeyReused),
            },
        }
    }

    fn submitted(&mut self, submission: Submission) {
        let Submission { actor, key, request, job } = submission.clone();
        self.submissions.insert((actor, key), (request, job));
        self.new.push(submission);
    }
}
