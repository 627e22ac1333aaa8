// SPDX-License-Identifier: MIT OR Apache-2.0
//! What people run in a sandbox: git, cargo, pip, npm and apt, against servers of the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{Lab, scratch, script};

/// A directory of its own.
fn directory(name: &str) -> PathBuf {
    let path = scratch().join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

/// A directory of its own, served over HTTP at 198.51.100.1:8000.
fn serve_directory(lab: &mut Lab, name: &str) -> PathBuf {
    let path = directory(name);
    lab.serve(&format!("python3 -m http.server 8000 --directory {}", path.display()), 8000);
    path
}

/// Runs a shell script of the test's own preparations on the server, in a directory.
fn prepare(lab: &Lab, directory: &Path, script: &str) {
    lab.on_server(&format!("set -e; cd {}; {script}", directory.display())).text();
}

/// A shell function that commits three megabytes.
const COMMIT: &str = "commit() {
    head -c 3000000 /dev/urandom > $1; git add $1
    git -c user.name=n -c user.email=e@example commit -qm $1; }";

/// A repository with a commit, and a file that names it.
fn make_repository(lab: &Lab, path: &Path) {
    let script = "export GIT_CONFIG_GLOBAL=/dev/null; git init -qb main work; cd work; commit first
                  cd ..; git clone -q --bare work repo.git; git -C repo.git update-server-info
                  git -C work rev-parse HEAD > head";
    prepare(lab, path, &format!("{COMMIT}\n{script}"));
}

#[test]
fn git_clones_over_http() {
    let mut lab = Lab::new();
    let path = serve_directory(&mut lab, "git");
    make_repository(&lab, &path);
    let clone = "cd $(mktemp -d); git clone -q http://198.51.100.1:8000/repo.git; cd repo
                 git fsck --full >/dev/null && git rev-parse HEAD";
    assert_eq!(lab.inside(&[], clone).text(), fs::read_to_string(path.join("head")).unwrap());
}

#[test]
fn git_clones_and_pushes_over_smart_http() {
    let mut lab = Lab::new();
    let path = directory("smart-git");
    make_repository(&lab, &path);
    lab.serve(&format!("python3 {} 8000 {}", script("git_server.py"), path.display()), 8000);
    let work = "set -e; export HOME=$(mktemp -d); cd $HOME
                git clone -q http://198.51.100.1:8000/repo.git; cd repo; git rev-parse HEAD
                commit second; git push -q origin main; git rev-parse HEAD";
    let result = lab.inside(&[], &format!("{COMMIT}\n{work}"));
    let (cloned, pushed) = result.text().split_once('\n').unwrap();
    assert_eq!(cloned, fs::read_to_string(path.join("head")).unwrap().trim());
    let there =
        lab.on_server(&format!("cd {}/repo.git; git fsck --full && git rev-parse main", path.display()));
    assert_eq!(there.text(), pushed);
}

/// A crate with three megabytes in it, and a sparse index that knows it.
const CRATE: &str = r#"
    mkdir -p wharf-probe-1.0.0/src index/wh/ar crates
    printf '[package]\nname = "wharf-probe"\nversion = "1.0.0"\nedition = "2021"\n' > wharf-probe-1.0.0/Cargo.toml
    echo 'pub const BLOB: &[u8] = include_bytes!("blob");' > wharf-probe-1.0.0/src/lib.rs
    head -c 3000000 /dev/urandom > wharf-probe-1.0.0/src/blob
    tar -czf crates/wharf-probe-1.0.0.crate wharf-probe-1.0.0
    digest=$(sha256sum < crates/wharf-probe-1.0.0.crate | cut -d' ' -f1)
    echo '{"dl": "http://198.51.100.1:8000/crates/{crate}-{version}.crate"}' > index/config.json
    printf '{"name":"wharf-probe","vers":"1.0.0","deps":[],"cksum":"%s","features":{},"yanked":false}\n' $digest \
        > index/wh/ar/wharf-probe"#;

/// A package that depends on that crate, in a home of its own.
const DEPENDENT: &str = r#"set -e
    export HOME=$(mktemp -d); mkdir -p $HOME/.cargo $HOME/user/src
    printf '[source.crates-io]\nreplace-with = "probe"\n[source.probe]\nregistry = "%s"\n' \
        sparse+http://198.51.100.1:8000/index/ > $HOME/.cargo/config.toml
    cd $HOME/user
    printf '[package]\nname = "user"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nwharf-probe = "1"\n' \
        > Cargo.toml
    echo 'const _: () = assert!(wharf_probe::BLOB.len() == 3_000_000);' > src/lib.rs"#;

#[test]
fn cargo_fetches_from_a_sparse_registry_and_checks_what_it_got() {
    let mut lab = Lab::new();
    let path = serve_directory(&mut lab, "cargo");
    prepare(&lab, &path, CRATE);
    // The toolchain of these tests, which may lie in a home that nobody else can read.
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap().stdout;
    let toolchain = format!("mount --bind '{}' /mnt", String::from_utf8(sysroot).unwrap().trim());
    let check = "env -i HOME=$HOME PATH=/mnt/bin:$PATH cargo check --quiet >&2
                 grep -A1 wharf-probe Cargo.lock | tail -1";
    let script = format!("{DEPENDENT}\n{check}");
    assert_eq!(lab.inside_after(&toolchain, &[], &script).text(), "version = \"1.0.0\"\n");
}

/// A package with three megabytes in it, and the document that describes it to npm.
const NODE_PACKAGE: &str = r#"python3 -c '
import base64, hashlib, io, json, os, tarfile
files = {"package.json": json.dumps({"name": "wharf-probe", "version": "1.0.0"}).encode(),
         "index.js": b"module.exports = require(\"fs\").statSync(__dirname + \"/blob\").size", "blob": os.urandom(3000000)}
with tarfile.open("wharf-probe.tgz", "w:gz") as archive:
    for name, data in files.items():
        entry = tarfile.TarInfo("package/" + name)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
digest = base64.b64encode(hashlib.sha512(open("wharf-probe.tgz", "rb").read()).digest()).decode()
dist = {"tarball": "http://198.51.100.1:8000/wharf-probe.tgz", "integrity": "sha512-" + digest}
version = {"name": "wharf-probe", "version": "1.0.0", "dist": dist}
packument = {"name": "wharf-probe", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
json.dump(packument, open("wharf-probe", "w"))
'"#;

#[test]
fn npm_installs_from_a_registry() {
    let mut lab = Lab::new();
    let path = serve_directory(&mut lab, "npm");
    prepare(&lab, &path, NODE_PACKAGE);
    let script = "set -e; export HOME=$(mktemp -d); cd $HOME
                  npm install --silent --no-audit --no-fund --registry http://198.51.100.1:8000/ wharf-probe >&2
                  node -p 'require(\"wharf-probe\")'";
    assert_eq!(lab.inside(&[], script).text(), "3000000\n");
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
