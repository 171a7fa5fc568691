//! Is the thread alive that serves? The agent loop asks, that thread answers: the service manager's watchdog gets its sign of life only
//! when both do.

use crate::host::notify::{Manager, State};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

/// The question, and who is to be woken for it.
#[derive(Debug, Default)]
pub struct Pulse {
    manager: Arc<Manager>,
    asked: AtomicBool,
    serving: Mutex<Option<Waker>>,
}

impl Pulse {
    /// Signs of life go to this service manager.
    #[must_use]
    pub fn new(manager: Arc<Manager>) -> Self {
        Self { manager, asked: AtomicBool::new(false), serving: Mutex::default() }
    }

    /// How often to [`ask`](Self::ask): twice as often as the service manager wants to hear. `None`: never.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        self.manager.watchdog().map(|interval| interval / 2)
    }

    /// Wakes the serving thread, so that it [`answer`](Self::answer)s.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        if let Some(waker) = &*self.serving.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    /// The serving thread tells how it is woken. Once, or with each answer.
    pub fn wake_with(&self, waker: &Waker) {
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        if serving.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            *serving = Some(waker.clone());
        }
    }

    /// From the serving thread, whenever it is awake: sends the sign of life if it was asked for.
    pub fn answer(&self) {
        if self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::Acquire) {
            self.manager.tell(State::Alive);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_question_wakes_and_is_answered_once() {
        let pulse = Pulse::default();
        assert_eq!(pulse.interval(), None);
        pulse.ask();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        pulse.wake_with(&Waker::from(Arc::clone(&count)));
        assert!(pulse.asked.load(Ordering::SeqCst), "a question from before is still there");
        pulse.answer();
        assert!(!pulse.asked.load(Ordering::SeqCst));
        pulse.ask();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }
}
