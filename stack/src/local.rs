// SPDX-License-Identifier: MIT OR Apache-2.0
//! *Is it for the gateway itself?* The services a container finds at the gateway's own addresses.
//!
//! # Path
//! UDP port 67 goes to [`dhcp4::Server::handle`], Router Solicitations to
//! [`router_advert::Advertiser::handle_solicitation`].

pub mod dhcp4;
pub mod name;
pub mod router_advert;
