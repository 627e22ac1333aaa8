// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said to the operator, once, when a packet first suffers from something that could be mended.

use std::sync::atomic::{AtomicBool, Ordering};

use wharf_stack::DropReason;
use wharf_switch::DropCounters;

/// A text for each of some drop reasons; shared by the workers.
#[derive(Debug, Default)]
pub struct Remarks(Vec<Remark>);

#[derive(Debug)]
struct Remark {
    reason: DropReason,
    text: String,
    said: AtomicBool,
}

impl Remarks {
    /// Nothing is said yet.
    pub fn new(texts: impl IntoIterator<Item = (DropReason, String)>) -> Self {
        let remark = |(reason, text)| Remark { reason, text, said: AtomicBool::new(false) };
        Self(texts.into_iter().map(remark).collect())
    }

    /// Says what these counters give reason to; cheap enough for every turn.
    pub(super) fn heed(&self, drops: &DropCounters<DropReason>) {
        for remark in &self.0 {
            if drops.get(remark.reason) > 0
                && !remark.said.load(Ordering::Relaxed)
                && !remark.said.swap(true, Ordering::Relaxed)
            {
                tracing::warn!("{}", remark.text);
            }
        }
    }
}
