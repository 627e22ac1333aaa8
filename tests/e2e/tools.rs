// SPDX-License-Identifier: MIT OR Apache-2.0
//! What people run in a sandbox: git, pip and apt, against servers of the test.

use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::{Lab, scratch};

/// A directory of its own, served over HTTP at 198.51.100.1:8000.
fn serve_directory(lab: &mut Lab, name: &str) -> PathBuf {
    let path = scratch().join(name);
    fs::create_dir_all(&path).unwrap();
    lab.serve(&format!("python3 -m http.server 8000 --directory {}", path.display()), 8000);
    path
}

/// Runs a shell script of the test's own preparations on the server, in a directory.
fn prepare(lab: &Lab, directory: &Path, script: &str) {
    lab.on_server(&format!("set -e; cd {}; {script}", directory.display())).text();
}

#[test]
fn git_clones_over_http() {
    let mut lab = Lab::new();
    let path = serve_directory(&mut lab, "git");
    let script = "export GIT_CONFIG_GLOBAL=/dev/null; git init -q work; cd work
                  head -c 3000000 /dev/urandom > blob; git add blob
                  git -c user.name=n -c user.email=e@example commit -qm first
                  cd ..; git clone -q --bare work repo.git; git -C repo.git update-server-info
                  git -C work rev-parse HEAD > head";
    prepare(&lab, &path, script);
    let clone = "cd $(mktemp -d); git clone -q http://198.51.100.1:8000/repo.git; cd repo
                 git fsck --full >/dev/null && git rev-parse HEAD";
    assert_eq!(lab.inside(&[], clone).text(), fs::read_to_string(path.join("head")).unwrap());
}

/// A wheel is a zip file with two files of metadata.
const WHEEL: &str = r#"python3 -c '
import zipfile
with zipfile.ZipFile("wharf_probe-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("wharf_probe.py", "ANSWER = 42\n")
    info = "wharf_probe-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: wharf-probe\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "")
'"#;

#[test]
fn pip_installs_from_an_index() {
    let mut lab = Lab::new();
    let path = serve_directory(&mut lab, "pip");
    let index = format!(
        "mkdir -p simple/wharf-probe; cd simple/wharf-probe; {WHEEL}
         echo '<a href=\"wharf_probe-1.0-py3-none-any.whl\">x</a>' > index.html"
    );
    prepare(&lab, &path, &index);
    let script = "export HOME=$(mktemp -d); cd $HOME
                  python3 -m pip install -q --disable-pip-version-check --no-cache-dir --target lib \
                      --index-url http://198.51.100.1:8000/simple/ --trusted-host 198.51.100.1 wharf-probe >&2
                  PYTHONPATH=lib python3 -c 'import wharf_probe; print(wharf_probe.ANSWER)'";
    assert_eq!(lab.inside(&[], script).text(), "42\n");
}

const PACKAGE: &str = "mkdir -p tree/DEBIAN
    printf 'Package: wharf-probe\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: n <e@example>\\nDescription: x\\n' \
        > tree/DEBIAN/control
    dpkg-deb --build tree wharf-probe.deb > /dev/null
    { cat tree/DEBIAN/control; echo Filename: ./wharf-probe.deb; echo Size: $(stat -c %s wharf-probe.deb)
      echo SHA256: $(sha256sum < wharf-probe.deb | cut -d' ' -f1); } > Packages
    sha256sum wharf-probe.deb | cut -d' ' -f1 > digest";

/// apt changes to a user of its own for downloads, so it needs more than one user id.
#[test]
fn apt_updates_and_downloads_as_its_own_user() {
    let mut lab = Lab::new();
    lab.give_subordinate_ids();
    let path = serve_directory(&mut lab, "apt");
    prepare(&lab, &path, PACKAGE);
    let script = "set -e
                  cd $(mktemp -d); chmod 755 .
                  mkdir -p state/lists/partial cache/archives/partial; touch status
                  chown -R _apt state cache .
                  echo 'deb [trusted=yes] http://198.51.100.1:8000/ ./' > list
                  set -- -qq -o Dir::State=$PWD/state -o Dir::State::status=$PWD/status -o Dir::Cache=$PWD/cache \
                      -o Dir::Etc::sourcelist=$PWD/list -o Dir::Etc::sourceparts=- -o Dir::Etc::parts=- -o Dir::Etc::main=-
                  apt-get \"$@\" update; apt-get \"$@\" download wharf-probe
                  sha256sum wharf-probe*.deb | cut -d' ' -f1";
    let result = lab.inside(&["--map-auto"], script);
    let digest = fs::read_to_string(path.join("digest")).unwrap();
    assert_eq!(result.text(), digest, "{result:?}");
    assert!(!result.stderr.contains("unsandboxed"), "{result:?}");
}
