//! The calls of a queue to the engine that many machines share, and what comes from there.

use std::time::Duration;

use super::common::{CommonAnswer, CommonCall, CommonSettings, EngineNews};
use super::queue::Queue;

impl Queue {
    /// The next call to the shared engine; `None` when the queue is gone.
    pub(crate) async fn next_call(&self) -> Option<CommonCall> {
        loop {
            let changed = self.has_call.notified();
            {
                let (mut state, now) = (self.state(), self.now());
                if let Some(call) = state.rules.take_call(now) {
                    return Some(call);
                }
                if state.is_over {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// The common part of its limits.
    pub(crate) fn common(&self) -> Option<CommonSettings> {
        self.state().rules.common_settings()
    }

    /// The part of the common limits, in thousandths, that Snyk allows.
    pub(crate) fn told_part(&self) -> u32 {
        self.state().rules.told_part(self.now())
    }

    /// Takes the engine's answer to a call; `None` where it failed.
    pub(crate) fn answered(&self, answer: Option<CommonAnswer>) {
        self.state().rules.answered(answer, self.now());
        self.changed.notify_one();
    }

    /// Takes news of the shared engine.
    pub(crate) fn heard(&self, news: EngineNews) {
        self.state().rules.heard(news, self.now());
        self.changed.notify_one();
    }

    /// Snyk refused another machine (429): nobody sends for so long. `None` where that has ended.
    pub(crate) fn hold(&self, left: Option<Duration>) {
        self.state().rules.hold(left, self.now());
        self.changed.notify_one();
    }
}
