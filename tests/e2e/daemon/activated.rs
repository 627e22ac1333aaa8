// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sockets are the service manager's: it has bound them and passes them on.

use std::fs;
use std::os::unix::fs::chown;

use super::Container;
use crate::lab::{Lab, NOBODY, Running, eventually, scratch};

/// What `systemd` does, as far as the daemon can tell: blocking sockets from descriptor 3 on, in an order of its own.
const MANAGER: &str = r#"
import os, socket, sys
directory, wharf = sys.argv[1:3]
attach = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
api = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
for number, (listener, name) in enumerate([(attach, "attach.sock"), (api, "api.sock")]):
    listener.bind(f"{directory}/{name}")
    listener.listen(16)
for number, listener in ((3, attach.detach()), (4, api.detach())):
    if listener != number:
        os.dup2(listener, number)
    os.set_inheritable(number, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="attach.sock:api.sock")
print("passing", flush=True)
os.execv(wharf, [wharf, "up", "--runtime-dir", directory, "--state-dir", f"{directory}/state"])
"#;

#[test]
fn sockets_of_the_service_manager_are_served_and_stay_when_the_daemon_ends() {
    let lab = Lab::new();
    let directory = scratch().join("activated");
    fs::create_dir(&directory).unwrap();
    let uid = NOBODY.parse().unwrap();
    chown(&directory, Some(uid), Some(uid)).unwrap();
    let directory = directory.display();
    let mut command = lab.lasting_user_command(&format!("exec python3 -c \"$MANAGER\" {directory} $WHARF"));
    let mut daemon = Running::start(command.env("MANAGER", MANAGER));
    assert_eq!(daemon.line(), "passing");
    let list = |what: &str| lab.by_user(&format!("$WHARF {what} --json --socket {directory}/api.sock"));
    eventually("the API answers", || list("networks").status == Some(0));
    let container = Container::new(&lab);
    let attached = format!("$WHARF attach {} --name web --runtime-dir {directory}", container.pid());
    lab.by_user(&attached).text();
    assert!(container.says("ping -n -c1 -W9 10.0.2.2").contains("1 received"));
    assert!(list("ls").text().contains("\"name\":\"web\""));
    lab.by_user(&format!("$WHARF down --socket {directory}/api.sock")).text();
    assert!(daemon.child.wait().unwrap().success());
    lab.by_user(&format!("test -S {directory}/api.sock && test -S {directory}/attach.sock")).text();
}
