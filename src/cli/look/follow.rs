// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands that go on: events, and flows again and again.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};

use super::human::moment;
use super::{Failure, ListArgs, OutputArgs, print, print_line, show};
use crate::control::client::{Client, Target};
use crate::control::model::Flow;

/// Top left, and everything from there on erased (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[J";

#[derive(Debug, Args)]
pub(in crate::cli) struct FlowsArgs {
    #[command(flatten)]
    list: ListArgs,
    /// Only this protocol: tcp, udp, icmp or icmpv6
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// Only this container
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Only in this state, such as established
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Again every so many seconds
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct EventsArgs {
    /// Only this network
    #[arg(short, long, value_name = "NAME")]
    network: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn flows(args: &FlowsArgs) -> Result<(), Failure> {
    let target = args
        .list
        .target::<Flow>()
        .with("protocol", args.protocol.as_deref())
        .with("container", args.container.as_deref())
        .with("state", args.state.as_deref());
    let client = args.list.output.whom.client().await?;
    let Some(seconds) = args.watch else { return list_flows(&client, &target, args.list.output.json).await };
    let mut turns = tokio::time::interval(Duration::from_secs(seconds));
    loop {
        turns.tick().await;
        if io::stdout().is_terminal() && !args.list.output.json {
            print(CLEAR.as_bytes())?;
        }
        list_flows(&client, &target, args.list.output.json).await?;
    }
}

async fn list_flows(client: &Client, target: &Target, json: bool) -> Result<(), Failure> {
    let answer = client.get_bytes(target).await?;
    if json { print_line(&answer) } else { show::<Flow>(&client.parse::<Vec<_>>(&answer)?) }
}

pub(super) async fn events(args: &EventsArgs) -> Result<(), Failure> {
    let client = args.output.whom.client().await?;
    let mut lines =
        client.listen(&Target::new("/v1/events").with("network", args.network.as_deref())).await?;
    while let Some(line) = lines.next().await? {
        if args.output.json {
            print_line(&line)?;
        } else {
            print_line(event_text(client.parse(&line)?).as_bytes())?;
        }
    }
    Ok(())
}

/// An event on one line: when, where, what, and the rest as it comes, for there may be events that we do not know.
fn event_text(mut event: Map<String, Value>) -> String {
    let at = event.remove("at_millis").and_then(|at| at.as_u64()).map(moment);
    let mut known = |key: &str| event.remove(key).map(|value| value_text(&value));
    let (network, what) = (known("network"), known("event"));
    let rest = event.iter().map(|(key, value)| format!("{key}={}", value_text(value)));
    let words = [at, network, what].map(|word| word.unwrap_or_else(|| "-".to_owned()));
    let line = words.into_iter().chain(rest).collect::<Vec<_>>().join("  ");
    line.replace(char::is_control, "?")
}

fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(value_text).collect::<Vec<_>>().join(","),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_whatever_it_is() {
        for (event, text) in [
            (
                r#"{"at_millis":0,"network":"default","event":"attach","name":"web","addresses":["192.0.2.1","::1"]}"#,
                "1970-01-01T00:00:00.000Z  default  attach  addresses=192.0.2.1,::1  name=web",
            ),
            (r#"{"event":"lost","count":7}"#, "-  -  lost  count=7"),
            (
                r#"{"at_millis":1,"network":"a","event":"new","what":"\u001b[2J\n"}"#,
                "1970-01-01T00:00:00.001Z  a  new  what=?[2J?",
            ),
        ] {
            assert_eq!(event_text(serde_json::from_str(event).unwrap()), text);
        }
    }
}
