// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of the process, which a signal or a client may begin.

use tokio::sync::watch;

/// Whether the process is to end. Clones are about the same process.
#[derive(Clone, Debug, Default)]
pub struct Ending(watch::Sender<bool>);

impl Ending {
    /// The process is to end.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the process is to end.
    pub async fn begun(&self) {
        // Fails when the sender is gone, and that is `self`.
        let _ = self.0.subscribe().wait_for(|begun| *begun).await;
    }
}
