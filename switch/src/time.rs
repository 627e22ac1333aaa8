// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time as the packet path sees it: a number somebody else measured.

use core::num::NonZero;
use core::ops::{Add, AddAssign, Sub};

pub use core::time::Duration;

/// A moment, in nanoseconds since an epoch of the caller's choice (production: boot; simulation: zero).
///
/// It never goes backwards: the caller of a turn passes the greatest value it has seen.
///
/// An `Option` of it is as small as itself: it counts from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZero<u64>);

impl Instant {
    /// The epoch itself.
    pub const ZERO: Self = Self(NonZero::<u64>::MIN);
    /// Later than every real moment: "never".
    pub const FAR: Self = Self(NonZero::<u64>::MAX);

    /// The moment `nanos` nanoseconds after the epoch.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(Self::ZERO.0.saturating_add(nanos))
    }

    /// The moment `millis` milliseconds after the epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self::from_nanos(millis.saturating_mul(1_000_000))
    }

    /// The moment `secs` seconds after the epoch.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self::from_nanos(secs.saturating_mul(1_000_000_000))
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// Whole milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.as_nanos() / 1_000_000
    }

    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.as_nanos() / 1_000_000_000
    }

    /// The time from `earlier` to `self`; zero when `earlier` is in fact later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Default for Instant {
    fn default() -> Self {
        Self::ZERO
    }
}

/// A `Duration` in nanoseconds; 584 years is as good as for ever.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(nanos(rhs)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, rhs: Self) -> Duration {
        self.since(rhs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_saturates_at_zero() {
        assert_eq!(Instant::from_secs(1) - Instant::from_secs(2), Duration::ZERO);
        assert_eq!(Instant::FAR + Duration::from_secs(1), Instant::FAR);
    }

    #[test]
    fn the_epoch_is_zero() {
        assert_eq!(Instant::from_nanos(0), Instant::ZERO);
        assert_eq!(Instant::ZERO.as_nanos(), 0);
        assert_eq!(Instant::from_nanos(u64::MAX), Instant::FAR);
        assert_eq!(size_of::<Option<Instant>>(), size_of::<Instant>());
    }
}
