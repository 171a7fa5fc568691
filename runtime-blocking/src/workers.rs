//! Threads for what blocks: started when a job comes and nobody is idle, kept for a while, never more than the bound.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Stack of a worker. Bytes; only what is touched costs memory.
const STACK: usize = 256 * 1024;
/// How long a worker stays for the next look-up.
pub const LOOKUP_IDLE: Duration = Duration::from_secs(5);

/// What a worker does.
pub type Job = Box<dyn FnOnce() + Send>;

/// A pool that starts a thread when a job comes and nobody is idle.
pub struct Workers(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    max: usize,
    idle: Duration,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
}

impl Workers {
    /// At most `max` threads; jobs beyond wait. A thread that is idle for `idle` ends.
    #[must_use]
    pub fn new(max: usize, idle: Duration) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new(), max, idle }))
    }

    /// Runs the job on an idle worker, or a new one. If there is none and none can be started, the job is dropped: whoever waits for
    /// its answer must learn of that (`Answer` in `serve`).
    pub fn run(&self, job: Job) {
        let mut queue = self.0.lock();
        queue.jobs.push_back(job);
        if queue.idle >= queue.jobs.len() {
            self.0.wake.notify_one();
        } else if queue.threads < self.0.max {
            queue.threads += 1;
            drop(queue);
            let shared = Arc::clone(&self.0);
            let started = std::thread::Builder::new().name("worker".into()).stack_size(STACK).spawn(move || shared.work());
            if let Err(e) = started {
                log::error!("A thread could not be started: {e}");
                self.0.give_up();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread could not be started. Jobs wait for those that there are; without any they are dropped, outside the lock: that answers
    /// whoever waits.
    fn give_up(&self) {
        let mut queue = self.lock();
        queue.threads -= 1;
        let hopeless = if queue.threads == 0 { std::mem::take(&mut queue.jobs) } else { VecDeque::new() };
        drop(queue);
        drop(hopeless);
    }

    fn work(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = self.lock();
                continue;
            }
            queue.idle += 1;
            let (woken, timeout) = self.wake.wait_timeout(queue, self.idle).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            queue.idle -= 1;
            if timeout.timed_out() && queue.jobs.is_empty() {
                queue.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn every_job_runs_and_threads_are_bounded() {
        let workers = Workers::new(3, LOOKUP_IDLE);
        let (sender, receiver) = channel();
        for n in 0..50 {
            let sender = sender.clone();
            workers.run(Box::new(move || sender.send(n).unwrap()));
        }
        let mut all: Vec<i32> = (0..50).map(|_| receiver.recv().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
        assert!(workers.0.lock().threads <= 3);
    }

    #[test]
    fn without_any_thread_jobs_are_dropped_and_never_kept() {
        let workers = Workers::new(3, LOOKUP_IDLE);
        let (sender, receiver) = channel::<()>();
        {
            let mut queue = workers.0.lock();
            queue.threads = 2;
            queue.jobs.push_back(Box::new(move || sender.send(()).unwrap()));
        }
        workers.0.give_up();
        assert_eq!(receiver.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty), "another thread may still take it");
        workers.0.give_up();
        assert_eq!(receiver.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
    }
}
