// SPDX-License-Identifier: MIT OR Apache-2.0
//! What somebody who looks sees of a connection.

use wharf_switch::Instant;

use super::{Flow, Phase, Relay};
use crate::Config;
use crate::host::{Ends, Host};
use crate::transit::listing::{Direction, FlowProtocol, FlowState, FlowView, outside_of};

impl Relay {
    /// Every connection, as it is `now`.
    pub(crate) fn views<'a, H: Host>(
        &'a self,
        now: Instant,
        config: &'a Config,
        host: &'a H,
    ) -> impl Iterator<Item = FlowView> + 'a {
        self.flows.iter().map(move |(_, flow)| flow.view(now, config, host))
    }
}

impl Flow {
    fn view<H: Host>(&self, now: Instant, config: &Config, host: &H) -> FlowView {
        let ends = self.socket.map_or(Ends::default(), |socket| host.ends(socket));
        let destination = self.key.remote;
        let (direction, outside) = match self.is_inbound {
            false => (Direction::Outbound, outside_of(config, destination)),
            true => (Direction::Inbound, ends.peer),
        };
        FlowView {
            protocol: FlowProtocol::Tcp,
            direction,
            internal: self.key.container,
            external: ends.local,
            destination,
            translated: outside.filter(|&outside| outside != destination),
            state: self.state(),
            age: now.since(self.opened_at),
            idle: now.since(self.heard_at),
            bytes_sent: self.upload.taken_in(),
            bytes_received: self.download.delivered(),
        }
    }

    fn state(&self) -> FlowState {
        match (self.phase, self.upload.is_ended(), self.download.is_ended()) {
            (Phase::Connecting | Phase::SynSent, ..) => FlowState::SynSent,
            (Phase::Answered, ..) => FlowState::SynReceived,
            (Phase::Linger, ..) => FlowState::TimeWait,
            (Phase::Open, false, false) => FlowState::Established,
            (Phase::Open, true, false) => FlowState::FinWait,
            (Phase::Open, false, true) => FlowState::CloseWait,
            (Phase::Open, true, true) => FlowState::LastAck,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred thousand idle connections are a normal load.
    #[test]
    fn a_connection_costs_little() {
        assert!(size_of::<Flow>() <= 512, "{} bytes", size_of::<Flow>());
    }
}
