//! A process that is started again when it ends, as a unit with `Restart=always` is.

use rustix::process::{Pid, Signal, kill_process};
use std::io;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Pause before a service that ended is started again (`RestartSec=`).
const PAUSE: Duration = Duration::from_millis(100);
/// How long it may take to end by itself before it is killed (`TimeoutStopSec=`).
const END: Duration = Duration::from_secs(10);
/// Between two looks whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

type Make = Box<dyn Fn() -> io::Result<Command> + Send + Sync>;

/// A service. Dropping it kills its process.
pub struct Service {
    make: Make,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: bool,
    child: Option<Child>,
    not_before: Option<Instant>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Service({:?})", self.id())
    }
}

impl Service {
    /// A service that does not run yet. `make` makes the command, each time anew.
    pub fn new(make: impl Fn() -> io::Result<Command> + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of its process, if it has one.
    pub fn id(&self) -> Option<u32> {
        self.state().child.as_ref().map(Child::id)
    }

    /// Starts it.
    ///
    /// # Errors
    /// The program cannot be started; it is tried again with [`Service::look`].
    pub fn start(&self) -> io::Result<()> {
        let mut state = self.state();
        state.wanted = true;
        self.begin(&mut state)
    }

    fn begin(&self, state: &mut State) -> io::Result<()> {
        state.not_before = Some(Instant::now() + PAUSE);
        if state.child.is_none() {
            state.child = Some((self.make)()?.spawn()?);
        }
        Ok(())
    }

    /// Starts it again if it has ended and shall not have.
    pub fn look(&self) {
        let mut state = self.state();
        if let Some(child) = &mut state.child
            && !matches!(child.try_wait(), Ok(None))
        {
            state.child = None;
            state.not_before = Some(Instant::now() + PAUSE);
        }
        if state.wanted && state.child.is_none() && state.not_before.is_none_or(|at| Instant::now() >= at) {
            // A program that cannot be started now is tried again after the pause.
            let _ = self.begin(&mut state);
        }
    }

    /// Ends it in order, and starts it again.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn restart(&self) -> io::Result<()> {
        self.stop();
        self.start()
    }

    /// Ends it in order.
    pub fn stop(&self) {
        let mut state = self.state();
        state.wanted = false;
        let Some(mut child) = state.child.take() else { return };
        tell(&child, Signal::TERM);
        let deadline = Instant::now() + END;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = child.kill();
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Has it read its files again (SIGHUP).
    pub fn reload(&self) {
        if let Some(child) = &self.state().child {
            tell(child, Signal::HUP);
        }
    }

    /// Kills it (SIGKILL). It will be started again, unless it was stopped before.
    pub fn kill(&self) {
        let mut state = self.state();
        end(&mut state);
    }

    /// Kills it, and it stays dead.
    pub fn kill_for_good(&self) {
        let mut state = self.state();
        state.wanted = false;
        end(&mut state);
    }
}

fn end(state: &mut State) {
    if let Some(mut child) = state.child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
    state.not_before = Some(Instant::now() + PAUSE);
}

fn tell(child: &Child, signal: Signal) {
    // It was not waited for yet, so the number is still its.
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process(pid, signal);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill_for_good();
    }
}
